"""What a thread does once it has let go of our locks.

Python may run other code in the middle of ours: finalizers and the clean-up of coroutines at a
collection, handlers of signals and of log lines, trace functions. While the thread holds a lock
of ours, such code must not wait for that lock, nor for another one, whose holder may wait for
this one. So what it asks for is left here, and so are log lines, as a logging handler may ask for
anything. The call that was interrupted carries it out on its way out:

    finally:
        if left:
            carry_out()

In the order in which it was left; by the thread that left it, so that its own messages keep
their order. What a thread leaves without carrying it out, as it ended in an exception elsewhere,
the regular look of an event loop carries out.
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

#: What was left, in that order, with the ident of the thread. Empty most of the time, which is all
#: that a call asks.
left: dict[int, tuple[int, Action]] = {}
_numbers = itertools.count()
#: Seconds for which a thread waits for another one that carries out what it has left. That one ends
#: unless it waits for this very thread, by way of the lock of a log handler, say.
_PATIENCE = 1.0
_FAILED = "a call that was left for later, as a lock was held, failed: %s"


class Holder(Protocol):
    """Something with locks that other code may come back to."""

    def is_inside(self) -> bool:
        """Whether the calling thread holds one of them."""


_holders: WeakBag[Holder] = WeakBag()


def register(holder: Holder) -> None:
    """Note a holder of locks, for as long as it lives."""
    _holders.add(holder)


def is_inside() -> bool:
    """Whether the calling thread holds any lock of ours."""
    return any(holder.is_inside() for holder in _holders.alive())


class _Turn:
    """The carrying out of what one thread has left."""

    def __init__(self) -> None:
        self.by = get_ident()
        #: Taken until it is over.
        self.over = Lock()
        self.over.acquire()


#: By threads: who carries out what they have left just now.
_turns: dict[int, _Turn] = {}


def leave(action: Action) -> None:
    """Leave something to be done when this thread is on its way out."""
    # In one step and without a lock, for whose holder the caller would have to wait.
    left[next(_numbers)] = get_ident(), action


def tell(write: Callable[..., object], *arguments: Any) -> None:
    """Write a log line. What a handler raises is shown, as `logging` does with what its own raise:
    the call on whose way out this is may have a message in hand."""
    try:
        write(*arguments)
    except Exception:
        if logging.raiseExceptions and sys.stderr:
            traceback.print_exc()


def tell_outside(write: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Write a log line: at once, or when this thread has let go of our locks.

    Another thread may hold the lock of a log handler, which uses the layer and waits for ours.
    """
    line = partial(tell, partial(write, *arguments, **options))
    if is_inside():
        leave(line)
    else:
        line()


def carry_out(patience: float = _PATIENCE) -> None:
    """Do what this thread has left; nothing if it still is inside."""
    if is_inside():
        return
    thread = get_ident()
    turn = _carry_out(thread)
    if turn is not None and turn.by != thread and turn.over.acquire(timeout=patience):
        # It was an event loop's regular look, and what this thread does next comes after it.
        _carry_out(thread)


def carry_out_all() -> None:
    """Do what is left of all threads."""
    if is_inside():
        return
    for thread in dict.fromkeys(thread for thread, _ in left.copy().values()):
        _carry_out(thread)


def _carry_out(thread: int) -> _Turn | None:
    """Do what a thread has left, unless that is being done: then the turn that is at it."""
    # Again and again, as something may be left in the last moment of a turn.
    while _left_by(thread):
        turn = _Turn()
        try:
            other = _turns.setdefault(thread, turn)
            if other is not turn:
                return other
            # What is left meanwhile is for this turn too.
            while actions := _left_by(thread):
                for number, action in actions:
                    if number not in left:
                        continue  # This is a child now that the action before has forked.
                    try:
                        action()
                    except Reentered:
                        return None
                    except (ChannelFull, StoreCorrupt, StoreUnavailable) as error:
                        tell(_log.error, _FAILED, error)
                    except BaseException:
                        left.pop(number, None)  # It is begun, and must not come twice.
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
    """Whether something that this thread has left is still to be done, so that what it does now
    would come before it. Does what can be done."""
    carry_out()
    return bool(_left_by(get_ident()))


def _after_fork_in_child() -> None:
    """What the parent left the parent does."""
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
