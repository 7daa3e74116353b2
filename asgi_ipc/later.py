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

import logging
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Protocol

from .engines.guards import WeakBag
from .exceptions import Reentered

_log = logging.getLogger("asgi_ipc")

Action = Callable[[], object]

#: What each thread has left, by its ident. Empty most of the time, which is all that a call asks.
left: dict[int, deque[Action]] = {}


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


def leave(action: Action) -> None:
    """Leave something to be done when this thread is on its way out. Takes no lock."""
    left.setdefault(get_ident(), deque()).append(action)


def carry_out() -> None:
    """Do what this thread has left; nothing if it still is inside."""
    if not is_inside():
        _carry_out(get_ident())


def carry_out_all() -> None:
    """Do what is left of all threads."""
    if is_inside():
        return
    for thread in list(left):
        _carry_out(thread)


def _carry_out(thread: int) -> None:
    # Taken whole: what is left meanwhile makes a list of its own.
    actions = left.pop(thread, None)
    if not actions:
        return
    try:
        while actions:
            try:
                actions[0]()
            except Reentered:
                return
            except Exception:
                _log.exception("what was left for later, as a lock was held, failed")
            actions.popleft()
    finally:
        if actions:
            actions.extend(left.pop(thread, ()))
            left[thread] = actions


__all__ = ["carry_out", "carry_out_all", "is_inside", "leave", "left", "register"]
