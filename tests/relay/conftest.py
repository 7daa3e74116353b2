"""Machines of one process, joined over a server in its memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_ipc.relay import relay
from asgi_ipc.relay.memory import MemoryServer
from tests.tools.doubles import watchdog
from tests.tools.machines import Site

__all__ = ["server", "site", "soon", "watchdog"]


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
