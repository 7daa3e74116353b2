"""Rate-limited warnings about dropped messages: the first at once, then a sum (O3)."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..engines.deferred import defer, tell
from ..engines.guards import items_of

_log = logging.getLogger("asgi_ipc")

#: Seconds between two warnings about the same thing.
INTERVAL = 10.0
#: Channels that a warning names.
NAMED = 5
#: Most subjects that are kept apart; when there are more, all are summed up and begin anew.
_REMEMBERED = 1000

Describe = Callable[[int], str]


class _Subject:
    """A cause of drops: how many since the last warning, when that was, and its text."""

    __slots__ = ("counts", "describe", "warned")

    def __init__(self, describe: Describe) -> None:
        #: Counts to add up. Each is added and taken in one step, so that none is logged twice.
        self.counts: deque[int] = deque()
        self.warned: float | None = None
        self.describe = describe


class DropLog:
    """Logs drops at WARNING, at most once in `INTERVAL` for each subject.

    A warning has the sum since the last one; `sum_up` and `sum_up_now` log what came after the
    last. Any thread may call it while it holds locks, as the log line is deferred. It has no lock
    itself, whose holder could be interrupted by code that waits for one of those locks.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._subjects: dict[str, _Subject] = {}

    def dropped(self, subject: str, count: int, describe: Describe) -> None:
        """Note ``count`` drops; ``describe`` returns the text for their sum."""
        subjects = self._subjects
        found = subjects.get(subject)
        if found is None:
            if len(subjects) >= _REMEMBERED:
                defer(partial(self._warn, list(subjects.values())))
                subjects = self._subjects = {}
            found = subjects.setdefault(subject, _Subject(describe))
        found.counts.append(count)
        found.describe = describe
        now = self._clock()
        if found.warned is None or now - found.warned >= INTERVAL:
            found.warned = now
            defer(partial(self._warn, [found]))

    def sum_up(self, ending: bool = False) -> None:
        """Defer a warning about the drops since the last one.

        For the subjects whose last warning is `INTERVAL` ago, or with ``ending`` for all.
        """
        subjects = self._subjects
        if not subjects:
            return
        now = self._clock()
        due = [
            (name, each)
            for name, each in items_of(subjects)
            if ending or each.warned is None or now - each.warned >= INTERVAL
        ]
        for name, _ in due:
            # A drop that another thread notes on one meanwhile warns of itself, as it is due.
            subjects.pop(name, None)
        owing = [each for _, each in due if each.counts]
        if owing:
            defer(partial(self._warn, owing))

    def sum_up_now(self) -> None:
        """Defer a warning about all drops since the last one, however short ago that was.

        For a moment that may be the process's last. The next warning about the same waits for
        `INTERVAL` again.
        """
        now = self._clock()
        owing = [each for _, each in items_of(self._subjects) if each.counts]
        for each in owing:
            each.warned = now
        if owing:
            defer(partial(self._warn, owing))

    def __bool__(self) -> bool:
        """Whether something was dropped lately."""
        return bool(self._subjects)

    def owes(self) -> bool:
        """Whether something was dropped since the last warning about it."""
        return any(each.counts for each in list(self._subjects.values()))

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


def counted(count: int, noun: str) -> str:
    """Return a number and a noun: ``1 channel``, ``2 channels``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


__all__ = ["INTERVAL", "NAMED", "DropLog", "counted"]
