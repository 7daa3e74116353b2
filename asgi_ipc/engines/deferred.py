"""Deferred actions: what a thread does once it has released the locks of engines and layers.

Python may run other code in the middle of a call: finalizers and the clean-up of coroutines at a
collection, handlers of signals and of log lines, trace functions. While the thread holds one of
these locks, such code must not wait for that lock, nor for another one, whose holder may wait for
this one. So an action that such code asks for is deferred (`defer`), and so is a log line, as a
logging handler may call anything. The interrupted call runs the pending actions as it ends:

    finally:
        if pending:
            run_deferred()

Actions run in the order in which they were deferred, in the thread that deferred them, so that its
messages keep their order. If a thread defers an action and does not run it, as an exception came in
between, the periodic check of an event loop runs it.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from threading import Lock, get_ident
from typing import Any, Protocol

from ..exceptions import ChannelFull, Reentered, StoreCorrupt, StoreUnavailable
from .guards import OwnLock, WeakBag, items_of

_log = logging.getLogger("asgi_ipc")

Action = Callable[[], object]

#: The actions that were deferred, in order, each with the ident of its thread. Usually it is empty,
#: and a call looks at no more.
pending: dict[int, tuple[int, Action]] = {}
_numbers = itertools.count()
#: Seconds for which a thread waits for another one that runs its actions. That one comes to an
#: end unless it waits for this thread, by way of a log handler's lock, say.
_PATIENCE = 1.0
_FAILED = "a deferred call (made in the middle of another one) failed: %s"


class LockHolder(Protocol):
    """Has locks that code in the middle of a call could wait for."""

    def is_inside(self) -> bool:
        """Return whether the calling thread holds one of these locks."""


def exclusive(lock: OwnLock) -> OwnLock:
    """Return a lock, to be held with ``with``. Raises `Reentered` where that would never end."""
    if is_inside():
        raise Reentered
    return lock


_holders: WeakBag[LockHolder] = WeakBag()


def register(holder: LockHolder) -> None:
    """Register a holder of locks, for as long as it lives."""
    _holders.add(holder)


def is_inside() -> bool:
    """Return whether the calling thread holds any lock of a registered holder."""
    return any(holder.is_inside() for holder in _holders.alive())


class _Run:
    """A run through the actions of one thread."""

    def __init__(self) -> None:
        self.by = get_ident()
        #: Held until the run is over.
        self.over = Lock()
        self.over.acquire()


#: By thread: the run that is under way.
_runs: dict[int, _Run] = {}


def defer(action: Action) -> None:
    """Defer an action until this thread has released its locks."""
    # In one step and without a lock, as the caller would have to wait for the lock's holder.
    pending[next(_numbers)] = get_ident(), action


def tell(write: Callable[..., object], *arguments: Any) -> None:
    """Write a log line; print an exception of its handler to stderr, as `logging` does.

    Raised here it would end the call that is about to return, which may have a message in hand.
    """
    try:
        write(*arguments)
    except Exception:
        if logging.raiseExceptions and sys.stderr:
            traceback.print_exc()


def tell_outside(write: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Write a log line: at once, or when this thread has released its locks.

    Another thread may hold a log handler's lock, use the layer, and wait for this thread's lock.
    """
    line = partial(tell, partial(write, *arguments, **options))
    if is_inside():
        defer(line)
    else:
        call_outside(line)


def call_outside(action: Action) -> None:
    """Call an action in a thread that has none of these locks.

    What it calls interrupts no call, although there are frames of one below: it may wait for locks.
    """
    action()


def run_deferred(patience: float = _PATIENCE) -> None:
    """Run the actions that this thread deferred, unless it still holds a lock."""
    if is_inside():
        return
    thread = get_ident()
    run = _run_actions(thread)
    if run is not None and run.by != thread and run.over.acquire(timeout=patience):
        # An event loop's periodic check was at it. This thread's next call must come after it.
        _run_actions(thread)


def run_all_deferred() -> None:
    """Run the deferred actions of all threads, unless this thread holds a lock."""
    if is_inside():
        return
    for thread in dict.fromkeys(thread for thread, _ in list(pending.values())):
        _run_actions(thread)


def _run_actions(thread: int) -> _Run | None:
    """Run a thread's actions; if a run is under way already, return that run."""
    # Repeated, as an action may be deferred at the last moment of a run.
    while _pending_of(thread):
        run = _Run()
        try:
            other = _runs.setdefault(thread, run)
            if other is not run:
                return other
            # Actions deferred meanwhile are for this run too.
            while actions := _pending_of(thread):
                for number, action in actions:
                    if number not in pending:
                        continue  # The action before has forked, and this is the child.
                    try:
                        call_outside(action)
                    except Reentered:
                        return None
                    except (ChannelFull, StoreCorrupt, StoreUnavailable) as error:
                        tell(_log.error, _FAILED, error)
                    except BaseException:
                        pending.pop(number, None)  # It was begun, and must not run twice.
                        raise
                    pending.pop(number, None)
        finally:
            if _runs.get(thread) is run:
                del _runs[thread]
            run.over.release()
    return None


def _pending_of(thread: int) -> list[tuple[int, Action]]:
    return [(number, action) for number, (by, action) in items_of(pending) if by == thread]


def is_waiting() -> bool:
    """Run what can be run; return whether actions remain, which a call now would overtake."""
    run_deferred()
    return bool(_pending_of(get_ident()))


def _after_fork_in_child() -> None:
    """Drop the actions in a forked child, as the parent runs them."""
    pending.clear()
    _runs.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = [
    "call_outside",
    "defer",
    "exclusive",
    "is_inside",
    "is_waiting",
    "pending",
    "register",
    "run_all_deferred",
    "run_deferred",
    "tell",
    "tell_outside",
]
