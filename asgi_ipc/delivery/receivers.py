"""Waiting receivers, and the event loops and threads in which they wait: the common bases.

`Listener` is an event loop or a thread, `Waiter` one receive that waits in it. The demultiplexer's
lock guards both, unless a method says otherwise.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

from ..encoding.codec import Body
from ..engines.base import Bell


class Listener:
    """An event loop or a thread in which receivers wait, and its bell."""

    #: None until a receiver has to wait here.
    bell: Bell | None = None
    #: Appends the listener to the demultiplexer's dead ones when its loop or thread has ended. None
    #: still if a handler raised between the registration and the assignment.
    _end: weakref.finalize[..., object] | None = None

    def alive(self) -> bool:
        """Return whether the loop or thread can still respond to the bell."""
        raise NotImplementedError

    def runs_here(self) -> bool:
        """Return whether this is the event loop of the task that runs in this thread."""
        return False

    def next_turn(self) -> Any:
        """Return what wakes many waiters at once (`Waiter.wake_in`).

        Call in this listener's own event loop or thread only.
        """
        return None

    def cancel_finalizer(self) -> None:
        """Cancel the finalizer: the listener is retired, or this process is a forked child."""
        if self._end is not None:
            self._end.detach()

    def retire(self) -> None:
        """Close the bell; the demultiplexer forgets the waiters. May be called twice."""
        raise NotImplementedError


class Waiter:
    """One waiting receive. Once woken it looks for a message again."""

    __slots__ = ("error", "listener", "woken")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.woken = False
        #: The error to raise instead of looking; other waiters may share it (`failure`).
        self.error: Exception | None = None

    def wake(self, here: Listener | None = None) -> bool:
        """Wake the receiver, from any thread; return False if it has stopped waiting.

        Does not block. ``here`` is the caller's own listener, if the caller knows it.
        """
        raise NotImplementedError

    def wake_in(self, turn: Any) -> bool:
        """Wake the receiver as `wake` does, with others of its listener (`Listener.next_turn`)."""
        return self.wake()

    def failure(self) -> Exception:
        """Return a copy of the error for this receiver to raise.

        Were the error itself raised by every receiver, their tracebacks would add up in it.
        """
        error = self.error
        assert error is not None
        try:
            mine = copy.copy(error)
        except Exception:
            return error
        mine.__cause__ = error.__cause__
        return mine


#: A fetched message: its body, its deadline, and its number in the order of fetching. All local
#: channels that it is for share it. A bare tuple, as one is made for each message.
Buffered = tuple[Body, int, int]


__all__ = ["Buffered", "Listener", "Waiter"]
