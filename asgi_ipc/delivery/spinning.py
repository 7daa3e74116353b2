"""Adaptive spinning: waiting without sleeping, where that has proved to be worth it.

Sleeping and waking takes longer than delivering a message. So a receiver whose last few waits
were shorter than that spins for a while before it sleeps: then no sender has to signal it, and it
has the message in a fraction of the time. Between two looks it gives way to whatever else wants
to run, on its event loop and on its processor.

That costs processor time where messages follow each other closely, and next to nothing where
they don't: after one spin that brought nothing, the next comes after `_QUICK` short waits in a
row.
"""

from __future__ import annotations

import os
import time

#: Seconds of a spin, and of the longest wait that counts as short: about what it takes to
#: wake a process that sleeps and be woken by its answer.
LIMIT = 0.0003
_QUICK = 4


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: Alone on a processor, a receiver that spins only keeps others from sending.
_POSSIBLE = hasattr(os, "sched_yield") and _processors() > 1


class Spinner:
    """What an event loop or a thread has learned from its waits."""

    __slots__ = ("_quick", "busy")

    def __init__(self) -> None:
        self._quick = 0
        #: Another receiver spins already; a second one would only cost more.
        self.busy = False

    def worth_it(self) -> bool:
        """Whether to spin before sleeping."""
        return self._quick >= _QUICK and _POSSIBLE and not self.busy

    def waited(self, since: float) -> None:
        """Learn from a wait that has brought a message, and began at that `time.monotonic`."""
        self._quick = self._quick + 1 if time.monotonic() - since < LIMIT else 0

    def wasted(self) -> None:
        """Learn from a spin that has brought nothing."""
        self._quick = 0


__all__ = ["LIMIT", "Spinner"]
