"""Deferred calls: calls and log lines that wait until their thread has released asgi_ipc's locks.

Python may run other code in the middle of a call: finalizers and the clean-up of coroutines at a
collection, handlers of signals and of log lines, trace functions. While its thread holds a lock of
asgi_ipc, such code must not wait for that lock, nor for another one, whose holder may wait for the
first. So its calls are deferred, and so are log lines, since a logging handler may call anything.
The interrupted call runs them before it returns:

    finally:
        if left:
            carry_out()

Each thread runs its own deferred calls in order, so its messages keep their order. If a thread ends
without running them, because of an exception, the regular poll of an event loop runs them.
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
from .guards import WeakBag

_log = logging.getLogger("asgi_ipc")

Action = Callable[[], object]

#: Deferred calls in order, each with the ident of its thread. Normally empty, which is all that a
#: call checks.
left: dict[int, tuple[int, Action]] = {}
_numbers = itertools.count()
#: Seconds for which a thread waits for another one that runs its deferred calls. That thread
#: finishes unless it waits for this very thread, for instance for the lock of a log handler.
_PATIENCE = 1.0
_FAILED = "a deferred call (made in the middle of another one) failed: %s"


class Holder(Protocol):
    """An object with locks that interrupting code may meet."""

    def is_inside(self) -> bool:
        """Return whether the calling thread holds one of them."""


_holders: WeakBag[Holder] = WeakBag()


def register(holder: Holder) -> None:
    """Register a holder of locks, for as long as it lives."""
    _holders.add(holder)


def is_inside() -> bool:
    """Return whether the calling thread holds any lock of asgi_ipc."""
    return any(holder.is_inside() for holder in _holders.alive())


class _Turn:
    """One thread's run through the deferred calls of a thread."""

    def __init__(self) -> None:
        self.by = get_ident()
        #: Held until the run is over.
        self.over = Lock()
        self.over.acquire()


#: The current run for each thread with deferred calls.
_turns: dict[int, _Turn] = {}


def leave(action: Action) -> None:
    """Defer a call until this thread's current call returns."""
    # In one step and without a lock, since the caller would have to wait for its holder.
    left[next(_numbers)] = get_ident(), action


def tell(write: Callable[..., object], *arguments: Any) -> None:
    """Write a log line; print what a handler raises, as `logging` does, instead of raising it.

    The call that runs this may hold a message, which an exception would lose.
    """
    try:
        write(*arguments)
    except Exception:
        if logging.raiseExceptions and sys.stderr:
            traceback.print_exc()


def tell_outside(write: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Write a log line: at once, or when this thread has released asgi_ipc's locks.

    Another thread may hold the lock of a log handler that uses the layer, and wait for this one.
    """
    line = partial(tell, partial(write, *arguments, **options))
    if is_inside():
        leave(line)
    else:
        line()


def carry_out(patience: float = _PATIENCE) -> None:
    """Run this thread's deferred calls, unless it still holds a lock."""
    if is_inside():
        return
    thread = get_ident()
    turn = _carry_out(thread)
    if turn is not None and turn.by != thread and turn.over.acquire(timeout=patience):
        # An event loop's poll ran them; what this thread does next must come after them.
        _carry_out(thread)


def carry_out_all() -> None:
    """Run the deferred calls of all threads."""
    if is_inside():
        return
    for thread in dict.fromkeys(thread for thread, _ in left.copy().values()):
        _carry_out(thread)


def _carry_out(thread: int) -> _Turn | None:
    """Run a thread's deferred calls; return the current run if another one is under way."""
    # Again and again, since a call may be deferred in the last moment of a run.
    while _left_by(thread):
        turn = _Turn()
        try:
            other = _turns.setdefault(thread, turn)
            if other is not turn:
                return other
            # Calls that are deferred meanwhile belong to this run, too.
            while actions := _left_by(thread):
                for number, action in actions:
                    if number not in left:
                        continue  # The action before has forked, and this is the child.
                    try:
                        action()
                    except Reentered:
                        return None
                    except (ChannelFull, StoreCorrupt, StoreUnavailable) as error:
                        tell(_log.error, _FAILED, error)
                    except BaseException:
                        left.pop(number, None)  # It has begun, and must not run twice.
                        raise
                    left.pop(number, None)
        finally:
            if _turns.get(thread) is turn:
                del _turns[thread]
            turn.over.release()
    return None


def _left_by(thread: int) -> list[tuple[int, Action]]:
    # A copy of a dict is made in one step.
    return [(number, action) for number, (by, action) in left.copy().items() if by == thread]


def is_waiting() -> bool:
    """Run this thread's deferred calls; return whether some are left, which a new call would
    overtake."""
    carry_out()
    return bool(_left_by(get_ident()))


def _after_fork_in_child() -> None:
    """The parent runs the calls that it has deferred."""
    left.clear()
    _turns.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = [
    "carry_out",
    "carry_out_all",
    "is_inside",
    "is_waiting",
    "leave",
    "left",
    "register",
    "tell",
    "tell_outside",
]
