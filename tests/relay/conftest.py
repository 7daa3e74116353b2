"""Machines of one process, joined over a server in its memory; and real servers for wires."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from asgi_ipc.conformance.wires.servers import Nats, Redis

from asgi_ipc.relay import relay
from asgi_ipc.relay.memory import MemoryServer
from tests.tools import certificates
from tests.tools.doubles import watchdog
from tests.tools.machines import Site

__all__ = ["server", "site", "soon", "watchdog"]

#: Of the servers that ask for one; a URL would need it quoted.
PASSWORD = "s3cr3t/Pa:ss@#?%"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> certificates.Files:
    """Certificates for the servers."""
    return certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """A Redis server with a password for the default user."""
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    server = Redis("--requirepass", PASSWORD, "--maxmemory-policy", "noeviction")
    yield server
    server.end()


@pytest.fixture(scope="module")
def redis_with_tls(files: certificates.Files) -> Iterator[Redis]:
    """A Redis server that speaks TLS alone."""
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    tls = {"cert": files.certificate, "key": files.key, "ca-cert": files.ca}
    options = [word for name, path in tls.items() for word in (f"--tls-{name}-file", str(path))]
    server = Redis("--tls-auth-clients", "no", *options, scheme="rediss")
    yield server
    server.end()


@pytest.fixture(scope="module")
def nats() -> Iterator[Nats]:
    """A NATS server with a user."""
    if Nats.missing():
        pytest.skip(f"no NATS server: {Nats.missing()}")
    server = Nats("--user", "us/er", "--pass", PASSWORD)
    yield server
    server.end()


@pytest.fixture(scope="module")
def nats_with_tls(files: certificates.Files) -> Iterator[Nats]:
    """A NATS server that requires TLS, and a token."""
    if Nats.missing():
        pytest.skip(f"no NATS server: {Nats.missing()}")
    tls = ("--tls", "--tlscert", str(files.certificate), "--tlskey", str(files.key))
    server = Nats("--auth", PASSWORD, *tls, scheme="tls")
    yield server
    server.end()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in this process answers at once."""
    monkeypatch.setattr(relay, "SETTLED", 0.3)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.destroy()


@pytest.fixture
def server(site: Site) -> MemoryServer:
    return site.server
