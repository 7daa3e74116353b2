"""The queues of one event loop: the receivers to wake, and those that wait for ordinary queues.

A `WakeQueue` has the futures of woken receivers, which the loop resolves in its next iteration. A
`Watch` has the receivers that wait for one ordinary queue.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque

from ..engines.bell import hint
from .receivers import Listener, Waiter

#: Returns the event loop that runs in this thread, or None.
running_loop = asyncio._get_running_loop


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
        self.waiters: deque[Waiter] = deque()
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


__all__ = ["WakeQueue", "Watch", "running_loop"]
