"""Receivers that wait in an event loop, and the ordinary queues they wait for."""

from __future__ import annotations

import asyncio
from collections import deque

from .buffers import Listener, Waiter

#: None where no event loop runs.
running_loop = asyncio._get_running_loop


class LoopWaiter(Waiter):
    """A receive in an event loop."""

    __slots__ = ("future",)

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        # Not through super(), as one is made for each wait.
        self.listener = listener
        self.woken = False
        self.error = None
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self, here: Listener | None = None) -> bool:
        """Resume it in its loop; False if it was woken or cancelled already."""
        self.woken = True
        future = self.future
        # Known for most, and to ask is a system call up to CPython 3.11.
        if here is self.listener or running_loop() is future.get_loop():
            try:
                future.set_result(None)
            except asyncio.InvalidStateError:
                return False
            return True
        try:
            future.get_loop().call_soon_threadsafe(_resume, future)
        except RuntimeError:
            return False  # The loop is closed, and the receiver gone with it.
        return True


def _resume(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Watch:
    """An ordinary queue that receivers of one loop wait for. Used in that loop only."""

    __slots__ = ("armed", "touched", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[LoopWaiter] = deque()
        #: The bell is armed on it and has not rung since.
        self.armed = False
        #: The bell was armed on it and has not been disarmed since; it may ring.
        self.touched = False

    def wake_one(self) -> bool:
        """Wake who waits longest; False if nobody does."""
        while self.waiters:
            if self.waiters.popleft().wake():
                return True
        return False


__all__ = ["LoopWaiter", "Watch", "running_loop"]
