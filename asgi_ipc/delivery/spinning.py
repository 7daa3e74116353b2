"""Adaptive spinning before sleeping.

Sleeping and waking takes longer than delivering a message, so a receiver whose recent waits were
shorter than that spins briefly before it sleeps. Then no sender has to signal the receiver, and it
has the message in a fraction of the time. Between two looks it yields to its event loop's other
callbacks and to the processor's other threads.

Spinning costs processor time where messages follow each other closely, and next to nothing
elsewhere: after a spin that found no message, the next follows `_QUICK` short waits in a row.
"""

from __future__ import annotations

import os
import time

#: Seconds of a spin, and of the longest wait that counts as short: about as long as to wake a
#: sleeping process and be woken by its answer.
LIMIT = 0.0003
_QUICK = 4


def _possible() -> bool:
    """Whether to spin at all: on a single processor it only keeps the senders from running."""
    try:
        os.sched_yield()
    except (AttributeError, OSError):  # Not every system has such calls, or allows them.
        return False
    try:
        return len(os.sched_getaffinity(0)) > 1
    except (AttributeError, OSError):
        return (os.cpu_count() or 1) > 1


_POSSIBLE = _possible()


class Spinner:
    """Decides for an event loop or a thread whether to spin, from its recent waits."""

    __slots__ = ("_quick", "busy")

    def __init__(self) -> None:
        self._quick = 0
        #: Set while a receiver of this loop spins; a second one would only cost more.
        self.busy = False

    def worth_it(self) -> bool:
        """Return whether to spin before sleeping."""
        return self._quick >= _QUICK and _POSSIBLE and not self.busy

    def waited(self, since: float) -> None:
        """Note a wait that ended in a message and began at ``since``, a `time.monotonic`."""
        self._quick = self._quick + 1 if time.monotonic() - since < LIMIT else 0

    def wasted(self) -> None:
        """Note a spin that found no message."""
        self._quick = 0


__all__ = ["LIMIT", "Spinner"]
