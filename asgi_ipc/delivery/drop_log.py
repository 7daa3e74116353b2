"""Warnings about dropped messages: the first at once, then a sum every now and then (O3)."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..engines.deferred import leave, tell

_log = logging.getLogger("asgi_ipc")

#: Seconds between two warnings about the same thing.
INTERVAL = 10.0
#: Things that are told apart; when there are more, all are summed up and begin anew.
_REMEMBERED = 1000

Describe = Callable[[int], str]


class _Subject:
    """What is dropped: how much since the last warning, when that was, and how to tell of it."""

    __slots__ = ("counts", "describe", "warned")

    def __init__(self, describe: Describe) -> None:
        #: To be added up. Each is added and taken in one step, so that none is told twice.
        self.counts: deque[int] = deque()
        self.warned: float | None = None
        self.describe = describe


class DropLog:
    """Logs drops at WARNING, at most once in `INTERVAL` for each subject.

    A warning tells the sum since the one before; what came after the last one is told by
    `sum_up`. May be called from any thread, while locks are held: the line is left for later. It
    has no lock of its own, whose holder could be interrupted by code that waits for one of these.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._subjects: dict[str, _Subject] = {}

    def dropped(self, subject: str, count: int, describe: Describe) -> None:
        """Note ``count`` drops; ``describe`` is asked for the text, with the sum."""
        subjects = self._subjects
        found = subjects.get(subject)
        if found is None:
            if len(subjects) >= _REMEMBERED:
                leave(partial(self._warn, list(subjects.copy().values())))
                subjects = self._subjects = {}
            found = subjects.setdefault(subject, _Subject(describe))
        found.counts.append(count)
        found.describe = describe
        now = self._clock()
        if found.warned is None or now - found.warned >= INTERVAL:
            found.warned = now
            leave(partial(self._warn, [found]))

    def sum_up(self, ending: bool = False) -> None:
        """Leave for later a warning about what was dropped since the last one.

        For the subjects whose turn it is, or with ``ending`` for all.
        """
        subjects = self._subjects
        if not subjects:
            return
        now = self._clock()
        due = [
            (name, each)
            for name, each in subjects.copy().items()
            if ending or each.warned is None or now - each.warned >= INTERVAL
        ]
        for name, _ in due:
            # A drop that another thread notes on one meanwhile warns of itself, as it is due.
            subjects.pop(name, None)
        owing = [each for _, each in due if each.counts]
        if owing:
            leave(partial(self._warn, owing))

    def _warn(self, subjects: list[_Subject]) -> None:
        for each in subjects:
            count = 0
            while each.counts:
                try:
                    count += each.counts.popleft()
                except IndexError:
                    break  # Another thread took it.
            if count:
                tell(_log.warning, "%s", each.describe(count))


__all__ = ["INTERVAL", "DropLog"]
