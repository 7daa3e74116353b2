"""Time as it counts for a promise: without that in which the machine ran no process of ours."""

from __future__ import annotations

import time
from collections.abc import Iterator


class Standstill:
    """Seconds without progress, as far as they count.

    A turn of the supervisor's loop counts for little, however long it took: where the whole
    machine stood still, or had no time for us, nobody can have got anything done.
    """

    LONGEST_TURN = 0.05

    def __init__(self) -> None:
        self.seconds = 0.0
        self._done = -1

    def look(self, done: int, seconds: float) -> None:
        """Note how much has been done by now, and that so many seconds passed."""
        if done != self._done:
            self._done, self.seconds = done, 0.0
        else:
            self.seconds += min(seconds, self.LONGEST_TURN)


def turns(seconds: float, pause: float) -> Iterator[float]:
    """Seconds that have passed, as they count, every ``pause`` until there were so many."""
    passed, before = 0.0, time.monotonic()
    while passed < seconds:
        yield passed
        time.sleep(pause)
        now = time.monotonic()
        passed += min(now - before, 2 * pause)
        before = now
