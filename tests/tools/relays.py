"""Relays from outside: roles, and engines as another process has them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from asgi_ipc.cli.commands import relay
from asgi_ipc.engines import open_engine
from asgi_ipc.engines.base import Engine
from asgi_ipc.layers.relays import relay_of
from asgi_ipc.relay import report
from asgi_ipc.relay.failures import Failures
from asgi_ipc.relay.options import RelayOptions, checked
from asgi_ipc.relay.thread import RelayThread
from asgi_ipc.relay.way_out import DEDICATED, RELAY, VACANT, vacate

__all__ = [
    "DEDICATED",
    "RELAY",
    "VACANT",
    "RelayThread",
    "checked",
    "dedicated",
    "engine_beside",
    "report",
    "shown_states",
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


async def dedicated(engine: Engine, options: RelayOptions, failures: Failures) -> None:
    """Relay as ``asgi-ipc relay`` does for the store of an engine, until that ends by itself."""
    store: Any = SimpleNamespace(prefix=options.prefix, engine="mmap")
    await relay._relay_for(engine, store, options, {}, asyncio.Event(), failures)


def shown_states(engine: Engine) -> list[str]:
    """Return the states of machines that ``asgi-ipc relays`` shows for a store."""
    info = relay_of(engine)
    return [] if info is None else [machine.state for machine in info.machines]
