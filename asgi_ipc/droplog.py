"""Warnings about dropped messages: the first at once, then a sum every now and then (O3)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_log = logging.getLogger("asgi_ipc")

#: Seconds between two warnings about the same thing.
INTERVAL = 10.0
#: Things that are told apart; when there are more, all begin anew.
_REMEMBERED = 1000


class DropLog:
    """Logs drops at WARNING, at most once in `INTERVAL` for each subject.

    May be called from any thread. Two of them at the same instant may log twice, which is
    cheaper than a lock that every drop has to take.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, tuple[float, int]] = {}

    def dropped(self, subject: str, count: int, describe: Callable[[int], str]) -> None:
        """Note ``count`` drops; ``describe`` is asked for the text, with the sum so far."""
        now = self._clock()
        last, before = self._since.get(subject, (now - INTERVAL, 0))
        total = before + count
        if now - last < INTERVAL:
            self._since[subject] = (last, total)
            return
        if len(self._since) >= _REMEMBERED:
            self._since.clear()
        self._since[subject] = (now, 0)
        _log.warning("%s", describe(total))


__all__ = ["INTERVAL", "DropLog"]
