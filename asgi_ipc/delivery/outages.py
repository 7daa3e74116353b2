"""Ride out an outage of the server that an engine asks.

An engine may state for how many seconds its server may be away (`Capabilities.outage`). For so long
a receiver whose look raised `StoreUnavailable` looks again, with growing pauses. If it raised,
Channels would end the consumer, and with it a connection that has nothing to do with the server.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from ..engines.deferred import tell
from ..exceptions import Reentered, StoreUnavailable

_log = logging.getLogger("asgi_ipc")
_Result = TypeVar("_Result")
#: Seconds of the first pause between two looks, and of the longest.
_FIRST, _LONGEST = 0.05, 1.0


class Process(Protocol):
    """What outages use of a `asgi_ipc.delivery.demultiplexer.Demultiplexer`."""

    name: str
    outage: float
    answered: float
    outage_told: float
    closed: bool


class Outage:
    """What one receive knows of the outage that it meets."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._began = self._tried = time.monotonic()
        self._pause = 0.0

    def pause(self, error: StoreUnavailable) -> float:
        """Return the seconds to wait before the next look. Raises the error if that is of no use.

        It is raised after ``outage`` seconds in which no look succeeded, if the layer was closed,
        and for code that ran in the middle of another call.
        """
        process, now = self._process, time.monotonic()
        if not process.outage or process.closed or isinstance(error, Reentered):
            raise error
        if not self._pause or process.answered > self._began or now - self._tried > process.outage:
            self._began, self._pause = now, _FIRST  # Another outage than the one before.
            if process.outage_told <= process.answered:
                process.outage_told = now
                text = "store %s: receivers wait up to %g seconds for its server: %s"
                tell(_log.warning, text, process.name, process.outage, error)
        elif now - self._began > process.outage:
            raise error
        pause = self._pause * random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, _LONGEST)
        self._tried = now + pause
        return pause


async def ride_out(process: Process, attempt: Callable[[], Awaitable[_Result]]) -> _Result:
    """Await attempts until one succeeds, or the outage has lasted too long."""
    outage = None
    while True:
        try:
            return await attempt()
        except StoreUnavailable as error:
            outage = outage or Outage(process)
            pause = outage.pause(error)
        # Imported late: a synchronous program never pays for asyncio.
        import asyncio

        await asyncio.sleep(pause)


def ride_out_in_thread(
    process: Process, attempt: Callable[[float | None], _Result], timeout: float | None
) -> _Result:
    """Call attempts with the time that is left, as `ride_out`. Blocks."""
    end = None if timeout is None else time.monotonic() + timeout
    outage = None
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        try:
            return attempt(left)
        except StoreUnavailable as error:
            outage = outage or Outage(process)
            pause = outage.pause(error)
            if end is not None and time.monotonic() + pause > end:
                raise
        time.sleep(pause)


__all__ = ["Outage", "ride_out", "ride_out_in_thread"]
