"""Receivers that wait in an event loop, and the ordinary queues they wait for.

A woken receiver's future is resolved by its loop's `WakeQueue` in the loop's next iteration.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque

from ..engines.bell import hint
from .receivers import Listener, Waiter

#: Returns the event loop that runs in this thread, or None.
running_loop = asyncio._get_running_loop


class LoopWaiter(Waiter):
    """A receive that waits in an event loop."""

    __slots__ = ("future", "wake_queue")

    def __init__(
        self, listener: Listener, wake_queue: WakeQueue, loop: asyncio.AbstractEventLoop
    ) -> None:
        # Not through super(), as one is made for each wait.
        self.listener = listener
        self.wake_queue = wake_queue
        self.woken = False
        self.error = None
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self, here: Listener | None = None) -> bool:
        """Resume the receiver in its loop; return False if it was woken or cancelled already."""
        awake = not (self.woken or self.future.done())
        try:
            self.wake_queue.put(self.future, here is self.listener)
        except RuntimeError:
            awake = False  # The loop is closed, so the receiver never resumes.
        self.woken = True
        return awake

    def wake_in(self, turn: deque[asyncio.Future[None]]) -> bool:
        """Add the receiver's future to the queue that `WakeQueue.scheduled` returned."""
        # In this order: a waiter that is marked as woken and is not queued would never resume.
        turn.append(self.future)
        awake = not (self.woken or self.future.done())
        self.woken = True
        return awake


class WakeQueue:
    """The futures of woken receivers, which their loop resolves in its next iteration.

    They are not resolved at once, as a signal handler that raises in the middle of that would leave
    a future that is done and whose receiver is never resumed. All receivers woken before the next
    iteration share it, from whichever thread they are woken. If a handler raises while the queue
    is resolved, the listener's periodic check resolves the rest.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._woken: deque[asyncio.Future[None]] = deque()
        #: `resolve` is going to run, and has not begun.
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._woken)

    def put(self, future: asyncio.Future[None], in_loop: bool = False) -> None:
        """Have the loop resolve a future. From any thread; RuntimeError if the loop is closed."""
        # First: a `resolve` that runs in another thread then takes this future too.
        self._woken.append(future)
        if not self._scheduled:
            self._schedule(in_loop)

    def scheduled(self) -> deque[asyncio.Future[None]]:
        """Schedule `resolve` and return the queue, to be filled before other code runs in the loop.

        Call in that loop only.
        """
        if not self._scheduled:
            self._schedule(True)
        return self._woken

    def _schedule(self, in_loop: bool) -> None:
        loop = self._loop()
        if loop is None:
            raise RuntimeError("the event loop is gone")
        # First: a loop in another thread may run `resolve` before this thread goes on.
        self._scheduled = True
        try:
            if in_loop or (running_loop() is loop and asyncio.current_task(loop) is not None):
                loop.call_soon(self.resolve)
            else:
                # The loop may sleep in select(), also if this is a signal handler in its thread.
                loop.call_soon_threadsafe(self.resolve)
        except BaseException:
            self._scheduled = False
            raise

    def resolve(self) -> None:
        """Resolve all queued futures. Call in the loop only."""
        self._scheduled = False
        woken = self._woken
        while woken:
            future = woken[0]
            if not future.done():
                future.set_result(None)
            woken.popleft()


class Watch:
    """An ordinary queue and the receivers of one loop that wait for it. For that loop only."""

    __slots__ = ("armed", "hint", "touched", "waiters")

    def __init__(self, queue: bytes) -> None:
        self.waiters: deque[LoopWaiter] = deque()
        #: The hint that signals for this queue carry.
        self.hint = hint(queue)
        #: The bell is armed on the queue and has not been signalled since.
        self.armed = False
        #: The bell was armed on the queue and has not been disarmed since, so it may be signalled.
        self.touched = False

    def wake_one(self, here: Listener | None = None) -> bool:
        """Wake the longest waiting receiver; return False if there is none.

        ``here`` as for `Waiter.wake`.
        """
        while self.waiters:
            # In this order for the reason that `OwnQueue.wake_first` gives.
            waiter = self.waiters[0]
            awake = waiter.wake(here)
            if self.waiters and self.waiters[0] is waiter:
                self.waiters.popleft()
            if awake:
                return True
        return False


__all__ = ["LoopWaiter", "WakeQueue", "Watch", "running_loop"]
