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
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable

from ..engines import find, open_engine
from ..engines.deferred import carry_out_all, is_inside, left
from ..engines.guards import WeakBag
from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from ..layers.options import Options
from .demultiplexer import Demultiplexer

# Guards what follows. Not held while an engine is opened, which may take long, nor while one is
# closed, which waits for the threads that are in it.
_lock = threading.RLock()


class _Opening:
    """Held while an engine is opened, so that it is opened once."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


#: Kept by those who open, or wait for it.
_opening: weakref.WeakValueDictionary[Hashable, _Opening] = weakref.WeakValueDictionary()
_shared: dict[Hashable, Demultiplexer] = {}
#: Leases whose layer was collected without being closed. Finalizers only append here.
_abandoned: deque[Lease] = deque()
#: All that may be in use, for forked children.
_all: WeakBag[Demultiplexer] = WeakBag()
#: Seconds that the end of the process waits for who opens a store.
_PATIENCE = 1.0
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
    opened = not _is_instance(options.engine)
    key: Hashable
    if opened:
        key = (find(options.engine), options.prefix, repr(sorted(options.engine_options.items())))
    else:
        key = ("instance", id(options.engine))
    with _lock:
        opening = _opening.get(key)
        if opening is None:
            opening = _opening[key] = _Opening()
    with opening.lock:
        with _lock:
            if (demux := _attach(lease, key, opened)) is not None:
                return demux
            _check_goes_on(options)
        engine = open_engine(
            options.engine,
            options.prefix,
            channel_memory=options.channel_memory,
            group_memory=options.group_memory,
            engine_options=options.engine_options,
        )
        made = Demultiplexer(engine, repr(options.prefix))
        _all.add(made)
        with _lock:
            # In one step: a finalizer that uses the layer opens it in the middle of all of this.
            if not _is_ending() and _shared.setdefault(key, made) is made:
                demux = _attach(lease, key, opened)
                assert demux is not None
                return demux
            demux = _attach(lease, key, opened)
        # Whoever was warned while it was opened, say, has used the layer; or the process ends.
        if opened:
            engine.close()
        _check_goes_on(options)
        assert demux is not None
        return demux


def _is_ending() -> bool:
    """Whether the process ends, and this is a thread that nobody waits for."""
    return _ended and threading.current_thread() is not threading.main_thread()


def _check_goes_on(options: Options) -> None:
    if _is_ending():
        raise StoreUnavailable(
            f"the store of prefix {options.prefix!r} can't be opened by a thread while the"
            " process ends; end the thread before"
        )


def _attach(lease: Lease, key: Hashable, opened: bool) -> Demultiplexer | None:
    """Fill a lease if the engine is open, with `_lock` held."""
    if lease.demux is not None:
        return lease.demux
    demux = _shared.get(key)
    if demux is not None:
        lease.key, lease.opened = key, opened
        demux.leases.add(lease)
        demux.capacities.append(lease.capacity)
        lease.demux = demux
    return demux


def release(lease: Lease) -> None:
    """Empty a lease; the last one closes the engine. Does nothing on an empty lease.

    Raises `Reentered` if this thread is in the middle of something that the closing waits for.
    """
    _check_outside()
    _check_unlocked()
    _let_go_of_abandoned()
    _release(lease)


def destroy(lease: Lease) -> None:
    """Remove the store. All who share it here find it closed, and open it anew on next use."""
    _check_outside()
    _check_unlocked()
    with _lock:
        demux = lease.demux
        if demux is None:
            return
        leases = _empty(lease.key, demux)
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


def _check_unlocked() -> None:
    """Raise `Reentered` if this thread is in the middle of opening or closing a layer."""
    if _lock._is_owned():  # type: ignore[attr-defined]
        raise Reentered


def _let_go_of_abandoned() -> None:
    while _abandoned and not _lock._is_owned():  # type: ignore[attr-defined]
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
        if len(demux.leases) > 1:
            demux.leases.discard(lease)
            demux.capacities.remove(lease.capacity)
            lease.demux = None
            return
        leases = _empty(lease.key, demux)
    demux.shut(engine_stays=not lease.opened)
    _note_lost(demux, leases)
    if lease.opened:
        demux.engine.close()


def _note_lost(demux: Demultiplexer, leases: set[Lease]) -> None:
    for lease in leases:
        lease.lost += demux.lost


def _empty(key: Hashable, demux: Demultiplexer) -> set[Lease]:
    if _shared.get(key) is demux:
        del _shared[key]
    leases: set[Lease] = demux.leases
    for lease in list(leases):
        if lease.demux is demux:
            lease.demux = None
    return leases


def _is_instance(engine: object) -> bool:
    return not isinstance(engine, (str, type)) and hasattr(engine, "push")


def _close_all() -> None:
    """At exit: what lies in the file system for us to be woken by goes with us."""
    global _ended
    _ended = True
    # Who is about to open a store lets go of it when it sees that. An engine may hang in that.
    end = time.monotonic() + _PATIENCE
    for opening in list(_opening.values()):
        if opening.lock.acquire(timeout=max(0.0, end - time.monotonic())):
            opening.lock.release()
    with _lock:
        ending = [
            (demux, any(lease.opened for lease in demux.leases), _empty(key, demux))
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
    global _lock, _opening
    _lock, _opening = threading.RLock(), weakref.WeakValueDictionary()
    for demux in _all.alive():
        demux.start_afresh()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_start_afresh)

__all__ = ["Lease", "abandon", "acquire", "destroy", "release"]
