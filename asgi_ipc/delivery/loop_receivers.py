"""Receivers that wait in an event loop, and the ordinary queues they wait for."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from typing import TYPE_CHECKING

from ..engines.bell import hint
from .receivers import Listener, Waiter

if TYPE_CHECKING:
    from .loop_listener import LoopListener

#: None where no event loop runs.
running_loop = asyncio._get_running_loop


class LoopWaiter(Waiter):
    """A receive in an event loop."""

    __slots__ = ("future",)
    listener: LoopListener

    def __init__(self, listener: LoopListener, loop: asyncio.AbstractEventLoop) -> None:
        # Not through super(), as one is made for each wait.
        self.listener = listener
        self.woken = False
        self.error = None
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self, here: Listener | None = None) -> bool:
        """Resume it in its loop; False if it was woken or cancelled already."""
        awake = not (self.woken or self.future.done())
        try:
            self.listener.turns.resume(self.future, here is self.listener)
        except RuntimeError:
            awake = False  # The loop is closed, and the receiver gone with it.
        self.woken = True
        return awake

    def wake_in(self, turn: deque[asyncio.Future[None]]) -> bool:
        """See `Waiter.wake_in`."""
        # In this order: who is noted as woken and is in no turn would sleep for ever.
        turn.append(self.future)
        awake = not (self.woken or self.future.done())
        self.woken = True
        return awake


class Turns:
    """Futures that a loop resolves in its next turn: those of receivers that were woken.

    Not at once: a signal's handler that raises in the midst of that would leave a future that
    is done, and that nobody is told of. All that are woken before the loop comes to its next
    turn share it, from whichever thread they are woken; what was left when a handler raised is
    resolved by the regular look.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._woken: deque[asyncio.Future[None]] = deque()
        #: `resolve` is going to run, and has not begun.
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._woken)

    def resume(self, future: asyncio.Future[None], in_loop: bool = False) -> None:
        """Resolve a future in the loop. From any thread; RuntimeError if the loop is closed."""
        # First: whoever runs `resolve` takes it along, if it has not ended.
        self._woken.append(future)
        if not self._scheduled:
            self._schedule(in_loop)

    def next_one(self) -> deque[asyncio.Future[None]]:
        """The futures of the next turn, to be filled before anything else runs in the loop.

        In that loop only.
        """
        if not self._scheduled:
            self._schedule(True)
        return self._woken

    def _schedule(self, in_loop: bool) -> None:
        loop = self._loop()
        if loop is None:
            raise RuntimeError("the event loop is gone")
        # First: a loop in another thread may be done with it before we know.
        self._scheduled = True
        try:
            if in_loop or (running_loop() is loop and asyncio.current_task(loop) is not None):
                loop.call_soon(self.resolve)
            else:
                # It may sleep; also if it runs here and this is a signal's handler.
                loop.call_soon_threadsafe(self.resolve)
        except BaseException:
            self._scheduled = False
            raise

    def resolve(self) -> None:
        """Resolve all that are woken. In the loop."""
        self._scheduled = False
        woken = self._woken
        while woken:
            future = woken[0]
            if not future.done():
                future.set_result(None)
            woken.popleft()


class Watch:
    """An ordinary queue that receivers of one loop wait for. Used in that loop only."""

    __slots__ = ("armed", "hint", "touched", "waiters")

    def __init__(self, queue: bytes) -> None:
        self.waiters: deque[LoopWaiter] = deque()
        #: What signals for it say.
        self.hint = hint(queue)
        #: The bell is armed on it and has not signalled since.
        self.armed = False
        #: The bell was armed on it and has not been disarmed since; it may signal.
        self.touched = False

    def wake_one(self, here: Listener | None = None) -> bool:
        """Wake who waits longest; False if nobody does. ``here`` as for `Waiter.wake`."""
        while self.waiters:
            # In this order for the reason that `OwnQueue.wake_first` gives.
            waiter = self.waiters[0]
            awake = waiter.wake(here)
            if self.waiters and self.waiters[0] is waiter:
                self.waiters.popleft()
            if awake:
                return True
        return False


__all__ = ["LoopWaiter", "Turns", "Watch", "running_loop"]
