"""The listener of the running event loop, of the class that its engine needs."""

from __future__ import annotations

import asyncio

from ..engines.deferred import exclusive
from .demultiplexer import Demultiplexer
from .loop_listener import LoopListener


def listener_here(demux: Demultiplexer) -> LoopListener:
    """Return the listener of the running event loop, made when it is first needed."""
    loop = asyncio.get_running_loop()
    found: LoopListener | None = demux.loops.get(id(loop))  # type: ignore[assignment]
    # The id may be that of a loop that is gone.
    if found is not None and found.loop() is loop:
        return found
    made = _listener_class(demux)(demux, loop)
    with exclusive(demux.lock):
        gone = demux.clear_away()
        demux.loops[id(loop)] = made
    for each in gone:
        each.retire()
    return made


def _listener_class(demux: Demultiplexer) -> type[LoopListener]:
    if not demux.blocking:
        return LoopListener
    # Imported late: most engines answer in microseconds.
    from .blocking_listener import OffloadingListener

    return OffloadingListener


__all__ = ["listener_here"]
