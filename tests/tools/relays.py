"""Relays from outside: roles, and engines as another process has them."""

from __future__ import annotations

from typing import Any

from asgi_ipc.engines import open_engine
from asgi_ipc.engines.base import Engine
from asgi_ipc.relay import report
from asgi_ipc.relay.options import checked
from asgi_ipc.relay.thread import RelayThread
from asgi_ipc.relay.way_out import DEDICATED, RELAY, VACANT, vacate

__all__ = [
    "DEDICATED",
    "RELAY",
    "VACANT",
    "RelayThread",
    "checked",
    "engine_beside",
    "report",
    "vacate",
]


def engine_beside(config: dict[str, Any]) -> Engine:
    """Return an engine of its own on the store of a layer's configuration, as a process has."""
    return open_engine(
        config["engine"],
        config["prefix"],
        channel_memory=config["channel_memory"],
        group_memory=config["group_memory"],
        engine_options=config["engine_options"],
    )
