"""The machine of a store, for a dedicated relay: one in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ..engines.base import Engine
from .local_machine import LocalMachine
from .sync import SyncIPCChannelLayer


@contextlib.contextmanager
def dedicated_machine(
    engine: Engine, prefix: str, layer_options: Mapping[str, Any]
) -> Iterator[LocalMachine]:
    """Yield the machine of an open engine, as `asgi_ipc.relay.machine.Machine`.

    ``layer_options`` are those of the site's layers that say how messages are delivered.
    """
    layer = SyncIPCChannelLayer(prefix, engine=engine, **layer_options)
    try:
        yield LocalMachine(layer._core.demux, layer._core.options)
    finally:
        layer.close()


__all__ = ["dedicated_machine"]
