"""The process's registry of open stores: all layers on one store share a demultiplexer.

A layer holds a `Lease`. Two layers are on one store if their `EngineChoice.key` is the same; the
first to acquire it opens the engine, and the last to release it closes the engine. An engine that
the user made and passed in is shared by all layers it was passed to, and the user closes it.
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

from ..engines.choice import EngineChoice
from ..engines.deferred import defer, is_inside, pending, run_all_deferred
from ..engines.guards import WeakBag, hold_at_once, own_lock
from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .demultiplexer import Demultiplexer
from .store_lost import Callbacks

# Guards `_shared`, `_opening` and the leases. Not held while an engine is opened, which may take
# long, or closed, which waits for the threads inside it.
_lock = threading.RLock()


class _Opening:
    """A lock that a thread holds while it opens an engine, so that only one opens it."""

    def __init__(self) -> None:
        self.lock = own_lock()

    def is_owned(self) -> bool:
        """Return whether the calling thread is at it."""
        return self.lock._is_owned()


#: By key. The threads that open the engine, or wait for that, keep each alive.
_opening: weakref.WeakValueDictionary[Hashable, _Opening] = weakref.WeakValueDictionary()
_shared: dict[Hashable, Demultiplexer] = {}
#: Leases whose layer was collected without being closed. Finalizers append here and do no more.
_abandoned: deque[Lease] = deque()
#: All demultiplexers that may be in use; a forked child resets them.
_all: WeakBag[Demultiplexer] = WeakBag()
#: Seconds that the end of the process waits for a thread that is opening a store.
_PATIENCE = 1.0
#: The process is ending, and `_close_all` has begun.
_ended = False


class Lease:
    """A layer's hold on a demultiplexer. Empty before the first use and after closing."""

    __slots__ = ("callbacks", "capacity", "demux", "key", "lost", "opened", "process_memory")

    def __init__(self, capacity: Callable[[str], int], process_memory: int) -> None:
        self.demux: Demultiplexer | None = None
        self.key: Hashable = None
        #: Whether the engine was opened here, and not passed in by the user.
        self.opened = False
        #: The layer's capacity of a channel; bounds the buffers too.
        self.capacity = capacity
        #: Bytes that the process may hold unread; so is this one's.
        self.process_memory = process_memory
        #: Messages that its closings have dropped.
        self.lost = 0
        #: The layer's, for a store that lost what it held.
        self.callbacks = Callbacks()


def acquire(lease: Lease, choice: EngineChoice) -> Demultiplexer:
    """Fill a lease, opening the engine unless another layer has it open.

    May block while the store is opened. Raises what `EngineChoice.open` raises, `Reentered` where
    that might not end, and `StoreUnavailable` in a thread that runs while the process ends.
    """
    _check_outside()
    _release_abandoned()
    opened, key = not choice.is_instance, choice.key()
    with _lock:
        opening = _opening.get(key)
        if opening is None:
            opening = _opening[key] = _Opening()
    # In the middle of something here: the thread that has this lock may wait for its end.
    if not opening.is_owned() and (
        _lock._is_owned()  # type: ignore[attr-defined]
        or any(each.is_owned() for each in _under_way())
    ):
        return hold_at_once(opening.lock, _fill, lease, choice, key, opened)
    with opening.lock:
        return _fill(lease, choice, key, opened)


def _under_way() -> list[_Opening]:
    """Return the openings that threads are at, or wait for."""
    # Of the references, as their list is made in one step: other threads begin openings.
    found = [reference() for reference in _opening.valuerefs()]
    return [each for each in found if each is not None]


def _fill(lease: Lease, choice: EngineChoice, key: Hashable, opened: bool) -> Demultiplexer:
    """Fill a lease, in the only thread that opens this engine."""
    with _lock:
        if (demux := _attach(lease, key, opened)) is not None:
            return demux
        _check_not_ending(choice.prefix)
    engine = choice.open()
    _close_before_engines()
    made = Demultiplexer(engine, repr(choice.prefix), choice.prefix)
    made.sizes_asked = choice.sizes
    _all.add(made)
    with _lock:
        # In one step, as a finalizer that uses the layer may open the store in between.
        if not _is_ending() and _shared.setdefault(key, made) is made:
            demux = _attach(lease, key, opened)
            assert demux is not None
            return demux
        demux = _attach(lease, key, opened)
    # Other code in this thread (a warning's handler, say) has opened the store meanwhile, or
    # the process is ending.
    if opened:
        _now_or_later(engine.close)
    _check_not_ending(choice.prefix)
    assert demux is not None
    return demux


def _is_ending() -> bool:
    """Return whether the process is ending and this thread is not its main thread."""
    return _ended and threading.current_thread() is not threading.main_thread()


def _check_not_ending(prefix: str) -> None:
    if _is_ending():
        raise StoreUnavailable(
            f"the store of prefix {prefix!r} can't be opened by a thread while the"
            " process ends; end the thread before"
        )


def _attach(lease: Lease, key: Hashable, opened: bool) -> Demultiplexer | None:
    """Fill a lease if the engine is open. Call with `_lock` held."""
    if lease.demux is not None:
        return lease.demux
    demux = _shared.get(key)
    if demux is not None:
        lease.key, lease.opened = key, opened
        demux.leases.add(lease)
        demux.capacities.append(lease.capacity)
        demux.memory_limit.bounds.append(lease.process_memory)
        lease.demux = demux
    return demux


def release(lease: Lease) -> None:
    """Empty a lease; the last one closes the engine. Does nothing on an empty lease.

    May block until threads inside the engine have left it. Raises `Reentered` if this thread is
    itself inside a call that the closing would wait for.
    """
    _check_outside()
    _check_unlocked()
    _release_abandoned()
    _release(lease)


def destroy(lease: Lease) -> None:
    """Remove the store. The other layers on it find it closed, and open it anew on next use."""
    _check_outside()
    _check_unlocked()
    with _lock:
        demux = lease.demux
        if demux is None:
            return
        leases = _empty(lease.key, demux)
    demux.shut()
    _note_lost(demux, leases)
    _now_or_later(demux.engine.destroy)


def abandon(lease: Lease) -> None:
    """Note that a lease's layer was collected. For finalizers: takes no lock."""
    _abandoned.append(lease)


def _check_outside() -> None:
    """Raise `Reentered` if this thread holds a lock of a store.

    Another thread may hold `_lock` and wait for that lock.
    """
    if is_inside():
        raise Reentered


def _check_unlocked() -> None:
    """Raise `Reentered` if this thread is in the middle of opening or closing a layer."""
    if _lock._is_owned():  # type: ignore[attr-defined]
        raise Reentered


def _release_abandoned() -> None:
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
            demux.memory_limit.bounds.remove(lease.process_memory)
            lease.demux = None
            return
        leases = _empty(lease.key, demux)
    demux.shut(engine_stays=not lease.opened)
    _note_lost(demux, leases)
    if lease.opened:
        _now_or_later(demux.engine.close)


def _now_or_later(end: Callable[[], object]) -> None:
    """Close or destroy an engine that no lease leads to any more.

    Later, if this is code that interrupted a call of an engine.
    """
    try:
        end()
    except Reentered:
        defer(end)


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


def _close_before_engines() -> None:
    """Have `_close_all` called, at exit, before what the module of an engine has registered.

    What comes last is called first, and an engine's module may have been imported just now: it
    closes its stores, under relays and receivers that are to end before.
    """
    if not _ended:
        atexit.unregister(_close_all)
        atexit.register(_close_all)


def _close_all() -> None:
    """Close all engines at exit, so that no bell of this process stays in the file system."""
    global _ended
    _ended = True
    # A thread that is opening a store closes it when it sees that. Wait no longer than
    # `_PATIENCE`, as an engine may hang while it opens.
    end = time.monotonic() + _PATIENCE
    for opening in _under_way():
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
                _now_or_later(demux.engine.close)
    if pending:
        run_all_deferred()


def _after_fork_in_child() -> None:
    global _lock, _opening
    _lock, _opening = threading.RLock(), weakref.WeakValueDictionary()
    for demux in _all.alive():
        demux.after_fork_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["Lease", "abandon", "acquire", "destroy", "release"]
