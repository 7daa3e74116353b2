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
        loop = self.future.get_loop()
        # Known for most, and to ask is a system call up to CPython 3.11.
        if here is self.listener or running_loop() is loop:
            return self.wake_in(self.listener.next_turn())
        self.woken = True
        try:
            loop.call_soon_threadsafe(_resume, [self.future])
        except RuntimeError:
            return False  # The loop is closed, and the receiver gone with it.
        return True

    def wake_in(self, turn: list[asyncio.Future[None]]) -> bool:
        """See `Waiter.wake_in`."""
        # In this order: who is noted as woken and is in no turn would sleep for ever.
        turn.append(self.future)
        awake = not (self.woken or self.future.done())
        self.woken = True
        return awake


class Turns:
    """Futures that a loop resolves in its next turn: those of receivers that were woken.

    Not at once: a signal's handler that raises in the midst of that would leave a future that
    is done, and that nobody is told of. Those of a turn that was interrupted are resolved by
    `catch_up`. Used in that loop only.
    """

    def __init__(self) -> None:
        self._pending: list[list[asyncio.Future[None]]] = []

    def next_one(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Future[None]]:
        """A list that is filled before anything else runs in the loop."""
        futures: list[asyncio.Future[None]] = []
        self._pending.append(futures)
        loop.call_soon(self._resolve, futures)
        return futures

    def _resolve(self, futures: list[asyncio.Future[None]]) -> None:
        _resume(futures)
        self._pending = [each for each in self._pending if each is not futures]

    def catch_up(self) -> None:
        """Resolve what is left over."""
        for futures in self._pending:
            self._resolve(futures)


def _resume(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
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
            # In this order for the reason that `OwnQueue.wake_first` gives.
            awake = self.waiters[0].wake()
            self.waiters.popleft()
            if awake:
                return True
        return False


__all__ = ["LoopWaiter", "Turns", "Watch", "running_loop"]
