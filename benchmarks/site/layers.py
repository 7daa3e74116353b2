"""The layers that the site runs on, each with the settings that its documents recommend.

All keep their own default capacities: what a burst loses with them is part of the question.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from ..peers import lite
from ..peers.redis_core import FAIR
from .servers import Servers


@dataclass(frozen=True)
class Made:
    """A layer's settings for one site, and how to be rid of what it leaves."""

    layer: dict[str, Any]
    databases: dict[str, Any] = field(default_factory=dict)
    apps: list[str] = field(default_factory=list)
    remove: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class SiteLayer:
    """A layer: its settings on some servers, in a folder; and why it can't be had, or None."""

    name: str
    make: Callable[[Servers, str], Made]
    unavailable: Callable[[Servers], str | None]
    crosses_processes: bool = True
    #: The process whose CPU and memory belong to it.
    server: str = ""


def all_layers() -> list[SiteLayer]:
    """All layers, ours first."""
    redis, valkey = "redis-server", "valkey-server"
    return [
        *(
            SiteLayer(f"asgi_ipc {engine}", partial(_ours, engine), partial(_ours_missing, engine))
            for engine in ("posix", "sysv", "mmap")
        ),
        SiteLayer("InMemoryChannelLayer", _in_memory, _never, crosses_processes=False),
        _on("channels_redis core", "channels_redis.core.RedisChannelLayer", redis, _redis),
        _on(
            "channels_redis pubsub", "channels_redis.pubsub.RedisPubSubChannelLayer", redis, _redis
        ),
        SiteLayer("channels-lite", _lite, partial(_package_missing, "channels_lite")),
        _on("channels-valkey core", "channels_valkey.core.ValkeyChannelLayer", valkey, _valkey),
        _on(
            "channels-valkey pubsub",
            "channels_valkey.pubsub.ValkeyPubSubChannelLayer",
            valkey,
            _valkey,
        ),
        _on("channels-nats", "channels_nats.NatsChannelLayer", "nats-server", _nats),
        _on(
            "channels_postgres",
            "channels_postgres.core.PostgresChannelLayer",
            "postgres",
            _postgres,
        ),
        _on("channels-zmq", "channels_zmq.core.DedicatedZmqChannelLayer", "zmq", _zmq),
    ]


def _on(
    name: str, backend: str, server: str, config: Callable[[Servers, str], dict[str, Any]]
) -> SiteLayer:
    def make(servers: Servers, folder: str) -> Made:
        made = {"BACKEND": backend, "CONFIG": config(servers, _prefix())}
        if server == "postgres":
            return Made(made, {"default": servers.database()}, ["channels_postgres"])
        return Made(made)

    def unavailable(servers: Servers) -> str | None:
        package = backend.partition(".")[0]
        return _package_missing(package, servers) or servers.missing(server)

    return SiteLayer(name, make, unavailable, server=server)


def _prefix() -> str:
    return f"site-{secrets.token_hex(4)}"


def _ours(engine: str, servers: Servers, folder: str) -> Made:
    prefix = _prefix()

    def remove() -> None:
        from asgi_ipc import SyncIPCChannelLayer

        SyncIPCChannelLayer(prefix, engine=engine).destroy()

    config = {"prefix": prefix, "engine": engine}
    return Made({"BACKEND": "asgi_ipc.IPCChannelLayer", "CONFIG": config}, remove=remove)


def _in_memory(servers: Servers, folder: str) -> Made:
    return Made({"BACKEND": "channels.layers.InMemoryChannelLayer"})


def _redis(servers: Servers, prefix: str, name: str = "redis-server") -> dict[str, Any]:
    address = f"unix://{servers.address(name)}"
    return {"hosts": [{"address": address, **FAIR}], "prefix": prefix}


def _valkey(servers: Servers, prefix: str) -> dict[str, Any]:
    return _redis(servers, prefix, "valkey-server")


def _nats(servers: Servers, prefix: str) -> dict[str, Any]:
    return {"servers": [servers.address("nats-server")], "prefix": prefix}


def _postgres(servers: Servers, prefix: str) -> dict[str, Any]:
    return {**servers.database(), "prefix": prefix}


def _zmq(servers: Servers, prefix: str) -> dict[str, Any]:
    raise NotImplementedError("a server for it is never started")


def _lite(servers: Servers, folder: str) -> Made:
    path = os.path.join(folder, "lite.sqlite3")
    shutil.copyfile(lite.make_database(folder), path)
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {"init_command": lite.PRAGMAS},
    }
    # Each client looks for itself, so more often than its ten times a second would be no favour.
    config = {"database": "default"}
    backend = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
    return Made({"BACKEND": backend, "CONFIG": config}, {"default": database}, ["channels_lite"])


def _never(servers: Servers) -> str | None:
    return None


def _ours_missing(engine: str, servers: Servers) -> str | None:
    from asgi_ipc.engines import available

    return available()[engine]


def _package_missing(package: str, servers: Servers) -> str | None:
    return None if find_spec(package) else f"the package {package} is not installed"
