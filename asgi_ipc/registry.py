"""Which demultiplexers this process has, so that layers on one store share one.

Two layers are on one store if engine, prefix and engine options are the same; the engine
is then opened once, by the first, and closed by the last. An engine that the user made
and passed in is shared by all layers it was passed to, and stays open: whoever opens closes.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable

from .demux import Demultiplexer
from .engines import find, open_engine
from .options import Options

# Held while an engine is opened, so that it is opened once.
_lock = threading.RLock()
_shared: dict[Hashable, Demultiplexer] = {}
#: Who holds each of them.
_leases: dict[Hashable, set[Lease]] = {}
#: Leases whose layer was collected without being closed. Finalizers only append here.
_abandoned: deque[Lease] = deque()
#: All that may be in use, for forked children.
_all: weakref.WeakSet[Demultiplexer] = weakref.WeakSet()


class Lease:
    """A layer's hold on a demultiplexer. Empty before the first use and after closing."""

    __slots__ = ("capacity", "demux", "key", "opened")

    def __init__(self, capacity: Callable[[str], int]) -> None:
        self.demux: Demultiplexer | None = None
        self.key: Hashable = None
        #: Whether the engine was opened here, and not passed in.
        self.opened = False
        #: The layer's capacity of a channel; bounds the buffers too.
        self.capacity = capacity


def acquire(lease: Lease, options: Options) -> Demultiplexer:
    """Fill a lease, opening the engine if nobody has. Raises what `open_engine` raises."""
    with _lock:
        _let_go_of_abandoned()
        if lease.demux is not None:
            return lease.demux
        instance = _is_instance(options.engine)
        key: Hashable
        if instance:
            key = ("instance", id(options.engine))
        else:
            arguments = repr(sorted(options.engine_options.items()))
            key = (find(options.engine), options.prefix, arguments)
        demux = _shared.get(key)
        if demux is None:
            engine = open_engine(
                options.engine,
                options.prefix,
                channel_memory=options.channel_memory,
                group_memory=options.group_memory,
                engine_options=options.engine_options,
            )
            demux = _shared.get(key)
            if demux is not None:
                # Whoever was warned while it was opened has used the layer.
                engine.close()
            else:
                demux = _shared[key] = Demultiplexer(engine)
                _leases[key] = set()
                _all.add(demux)
        lease.key, lease.opened = key, not instance
        _leases[key].add(lease)
        demux.capacities.append(lease.capacity)
        lease.demux = demux
        return demux


def release(lease: Lease) -> None:
    """Empty a lease; the last one closes the engine. Does nothing on an empty lease."""
    with _lock:
        _let_go_of_abandoned()
        _release(lease)


def destroy(lease: Lease) -> None:
    """Remove the store. All who share it here find it closed, and open it anew on next use."""
    with _lock:
        demux = lease.demux
        if demux is None:
            return
        _empty(lease.key)
        demux.shut()
        demux.engine.destroy()


def abandon(lease: Lease) -> None:
    """Note that a lease's layer is gone. For finalizers: takes no lock."""
    _abandoned.append(lease)


def _let_go_of_abandoned() -> None:
    while _abandoned:
        _release(_abandoned.popleft())


def _release(lease: Lease) -> None:
    demux = lease.demux
    if demux is None:
        return
    if len(_leases[lease.key]) > 1:
        _leases[lease.key].discard(lease)
        demux.capacities.remove(lease.capacity)
        lease.demux = None
        return
    _empty(lease.key)
    demux.shut(engine_stays=not lease.opened)
    if lease.opened:
        demux.engine.close()


def _empty(key: Hashable) -> None:
    _shared.pop(key, None)
    for lease in _leases.pop(key, set()):
        lease.demux = None


def _is_instance(engine: object) -> bool:
    return not isinstance(engine, (str, type)) and hasattr(engine, "push")


def _close_all() -> None:
    """At exit: what lies in the file system for us to be woken by goes with us."""
    with _lock:
        for key, demux in list(_shared.items()):
            opened = any(lease.opened for lease in _leases[key])
            _empty(key)
            demux.shut()
            if opened:
                demux.engine.close()


def _start_afresh() -> None:
    global _lock
    _lock = threading.RLock()
    for demux in list(_all):
        demux.start_afresh()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_start_afresh)

__all__ = ["Lease", "abandon", "acquire", "destroy", "release"]
