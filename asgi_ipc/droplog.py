"""Warnings about dropped messages: the first at once, then a sum every now and then (O3)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from .engines.guards import own_lock
from .later import leave, tell

_log = logging.getLogger("asgi_ipc")

#: Seconds between two warnings about the same thing.
INTERVAL = 10.0
#: Things that are told apart; when there are more, all are summed up and begin anew.
_REMEMBERED = 1000

Describe = Callable[[int], str]


class _Subject:
    """What is dropped: how much since the last warning, when that was, and how to tell of it."""

    __slots__ = ("count", "describe", "warned")

    def __init__(self, describe: Describe) -> None:
        self.count = 0
        self.warned: float | None = None
        self.describe = describe


class DropLog:
    """Logs drops at WARNING, at most once in `INTERVAL` for each subject.

    A warning tells the sum since the one before; what came after the last one is told by
    `sum_up`. May be called from any thread, while locks are held: the line is left for later.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = own_lock()
        self._subjects: dict[str, _Subject] = {}

    def dropped(self, subject: str, count: int, describe: Describe) -> None:
        """Note ``count`` drops; ``describe`` is asked for the text, with the sum."""
        with self._lock:
            found = self._subjects.get(subject)
            if found is None:
                if len(self._subjects) >= _REMEMBERED:
                    leave(partial(self._warn, list(self._subjects.values())))
                    self._subjects = {}
                found = self._subjects[subject] = _Subject(describe)
            found.count += count
            found.describe = describe
            now = self._clock()
            if found.warned is None or now - found.warned >= INTERVAL:
                found.warned = now
                leave(partial(self._warn, [found]))

    def sum_up(self, ending: bool = False) -> None:
        """Leave for later a warning about what was dropped since the last one.

        For the subjects whose turn it is, or with ``ending`` for all.
        """
        if not self._subjects:
            return
        with self._lock:
            now = self._clock()
            due = [
                (name, each)
                for name, each in self._subjects.items()
                if ending or each.warned is None or now - each.warned >= INTERVAL
            ]
            for name, _ in due:
                del self._subjects[name]
            owing = [each for _, each in due if each.count]
            if owing:
                leave(partial(self._warn, owing))

    def _warn(self, subjects: list[_Subject]) -> None:
        for each in subjects:
            with self._lock:
                count, each.count = each.count, 0
            if count:
                tell(_log.warning, "%s", each.describe(count))


__all__ = ["INTERVAL", "DropLog"]
