"""Who gets what is broadcast, and when to broadcast the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

#: Seconds without a message after which the rest is taken to be lost.
_LOST = 5.0


class Members:
    """Members of a group in one process, which count what they get together."""

    def __init__(self, layer: Any, channels: Sequence[str]) -> None:
        self._layer = layer
        self._wanted, self.count, self.last = 0, 0, 0.0
        self._complete = asyncio.Event()
        self._tasks = [asyncio.create_task(self._listen(channel)) for channel in channels]

    async def _listen(self, channel: str) -> None:
        receive = self._layer.receive
        while True:
            await receive(channel)
            self.count += 1
            if self.count == self._wanted:
                self._have_it()

    def want(self, number: int) -> None:
        """Count from now on, up to a number."""
        self.count = 0
        self._complete.clear()
        self.want_in_all(number)

    def want_in_all(self, number: int) -> None:
        """Want so many, with those that have come."""
        self._wanted = number
        if self.count >= number:
            self._have_it()

    def _have_it(self) -> None:
        self.last = time.monotonic()
        self._complete.set()

    async def have_it(self) -> None:
        """Wait for what is wanted, as long as anything comes."""
        before = -1
        while self.count != before and not self._complete.is_set():
            before = self.count
            try:
                await asyncio.wait_for(self._complete.wait(), _LOST)
            except asyncio.TimeoutError:
                self.last = time.monotonic()

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()


async def ticks(rate: float) -> AsyncIterator[int]:
    """Count at a steady rate, those that are late at once."""
    began, number = time.monotonic(), 0
    while True:
        number += 1
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        yield number
