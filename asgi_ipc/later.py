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
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any, Protocol

from .engines.guards import WeakBag, own_lock
from .exceptions import ChannelFull, Reentered, StoreCorrupt, StoreUnavailable

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


#: Held by a thread that leaves something, and by one that finds that nothing is left. A thread may
#: take it again, and waits for nothing while it has it.
_guard = own_lock()
#: The threads whose actions are being carried out.
_busy: dict[int, object] = {}


def leave(action: Action) -> None:
    """Leave something to be done when this thread is on its way out."""
    with _guard:
        left.setdefault(get_ident(), deque()).append(action)


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
    # One at a time, whoever it is: what is left meanwhile is for it too.
    token = object()
    if thread not in left or _busy.setdefault(thread, token) is not token:
        return
    try:
        while not _is_done(thread):
            actions = left[thread]
            try:
                actions[0]()
            except Reentered:
                return
            except (ChannelFull, StoreCorrupt, StoreUnavailable) as error:
                text = "a call that was left for later, as a lock was held, failed: %s"
                tell(_log.error, text, error)
            except BaseException:
                actions.popleft()  # It is begun, and must not come twice.
                raise
            actions.popleft()
    finally:
        _busy.pop(thread, None)


def _is_done(thread: int) -> bool:
    with _guard:
        if left.get(thread):
            return False
        left.pop(thread, None)
        return True


def is_waiting() -> bool:
    """Whether something that this thread has left is still to be done, so that what it does now
    would come before it. Does what can be done."""
    carry_out()
    return get_ident() in left


def _after_fork_in_child() -> None:
    """What the parent left the parent does."""
    global _guard
    _guard = own_lock()
    left.clear()
    _busy.clear()


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
