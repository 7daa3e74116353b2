"""Which demultiplexers this process has, so that layers on one store share one.

Two layers are on one store if engine, prefix and engine options are the same; the engine
is then opened once, by the first, and closed by the last. An engine that the user made
and passed in is shared by all layers it was passed to, and stays open: whoever opens closes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable

from .demux import Demultiplexer
from .engines import find, open_engine
from .engines.guards import WeakBag
from .exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .later import carry_out_all, is_inside, left
from .options import Options

# Held while an engine is opened, so that it is opened once; not while one is closed, which waits
# for the threads that are in it.
_lock = threading.RLock()
_shared: dict[Hashable, Demultiplexer] = {}
#: Who holds each of them.
_leases: dict[Hashable, set[Lease]] = {}
#: Leases whose layer was collected without being closed. Finalizers only append here.
_abandoned: deque[Lease] = deque()
#: All that may be in use, for forked children.
_all: WeakBag[Demultiplexer] = WeakBag()
#: The process ends, and has let go of everything.
_ended = False


class Lease:
    """A layer's hold on a demultiplexer. Empty before the first use and after closing."""

    __slots__ = ("capacity", "demux", "key", "lost", "opened")

    def __init__(self, capacity: Callable[[str], int]) -> None:
        self.demux: Demultiplexer | None = None
        self.key: Hashable = None
        #: Whether the engine was opened here, and not passed in.
        self.opened = False
        #: The layer's capacity of a channel; bounds the buffers too.
        self.capacity = capacity
        #: Messages that its closings have dropped.
        self.lost = 0


def acquire(lease: Lease, options: Options) -> Demultiplexer:
    """Fill a lease, opening the engine if nobody has.

    Raises what `open_engine` raises, `Reentered`, and once the process ends `StoreUnavailable`.
    """
    _check_outside()
    _let_go_of_abandoned()
    with _lock:
        if lease.demux is not None:
            return lease.demux
        if _ended and threading.current_thread() is not threading.main_thread():
            raise StoreUnavailable(
                f"the store of prefix {options.prefix!r} can't be opened by a thread while the"
                " process ends; end the thread before"
            )
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
                demux = _shared[key] = Demultiplexer(engine, repr(options.prefix))
                _leases[key] = set()
                _all.add(demux)
        lease.key, lease.opened = key, not instance
        _leases[key].add(lease)
        demux.capacities.append(lease.capacity)
        lease.demux = demux
        return demux


def release(lease: Lease) -> None:
    """Empty a lease; the last one closes the engine. Does nothing on an empty lease.

    Raises `Reentered` if this thread is in the middle of something that the closing waits for.
    """
    _check_outside()
    _let_go_of_abandoned()
    _release(lease)


def destroy(lease: Lease) -> None:
    """Remove the store. All who share it here find it closed, and open it anew on next use."""
    _check_outside()
    with _lock:
        demux = lease.demux
        if demux is None:
            return
        leases = _empty(lease.key)
    demux.shut()
    _note_lost(demux, leases)
    demux.engine.destroy()


def abandon(lease: Lease) -> None:
    """Note that a lease's layer is gone. For finalizers: takes no lock."""
    _abandoned.append(lease)


def _check_outside() -> None:
    """Raise `Reentered` if this thread is in the middle of something that a lock is held for.

    Another thread may hold ours, and wait for that one.
    """
    if is_inside():
        raise Reentered


def _let_go_of_abandoned() -> None:
    while _abandoned:
        try:
            lease = _abandoned.popleft()
        except IndexError:
            return  # Another thread took it.
        _release(lease)


def _release(lease: Lease) -> None:
    with _lock:
        demux = lease.demux
        if demux is None:
            return
        if len(_leases[lease.key]) > 1:
            _leases[lease.key].discard(lease)
            demux.capacities.remove(lease.capacity)
            lease.demux = None
            return
        leases = _empty(lease.key)
    demux.shut(engine_stays=not lease.opened)
    _note_lost(demux, leases)
    if lease.opened:
        demux.engine.close()


def _note_lost(demux: Demultiplexer, leases: set[Lease]) -> None:
    for lease in leases:
        lease.lost += demux.lost


def _empty(key: Hashable) -> set[Lease]:
    _shared.pop(key, None)
    leases = _leases.pop(key, set())
    for lease in leases:
        lease.demux = None
    return leases


def _is_instance(engine: object) -> bool:
    return not isinstance(engine, (str, type)) and hasattr(engine, "push")


def _close_all() -> None:
    """At exit: what lies in the file system for us to be woken by goes with us."""
    global _ended
    _ended = True
    with _lock:
        ending = [
            (demux, any(lease.opened for lease in _leases[key]), _empty(key))
            for key, demux in list(_shared.items())
        ]
    for demux, opened, _ in ending:
        with contextlib.suppress(StoreCorrupt, StoreUnavailable):
            demux.shut()
            if opened:
                demux.engine.close()
    if left:
        carry_out_all()


def _start_afresh() -> None:
    global _lock
    _lock = threading.RLock()
    for demux in _all.alive():
        demux.start_afresh()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_start_afresh)

__all__ = ["Lease", "abandon", "acquire", "destroy", "release"]
