"""Errors that no relay should meet, as far as a process has seen them (R10).

A relay that meets one ends, and another term begins after a pause that grows: an error that comes
again and again must neither fill the log nor keep the process busy. Meanwhile another process of
the machine may relay.
"""

from __future__ import annotations

import logging
import time
import traceback

from .texts import clause

_log = logging.getLogger("asgi_ipc")

#: Seconds before the second term after an error; the pause doubles from error to error.
FIRST, LONGEST = 2.0, 120.0
#: Seconds for which a relay must work before the next pause is the first again.
LASTED = 600.0
#: Places in the code of which errors are remembered as logged.
_REMEMBERED = 100


class Failures:
    """The unexpected errors of the relays of one process."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, ...]] = set()
        self._began = time.monotonic()
        self._pause = 0.0
        self._until = 0.0

    def begun(self) -> None:
        """Note that a relay begins."""
        self._began = time.monotonic()

    def failed(self, error: Exception, shown: str) -> None:
        """Note how it ended; log a traceback the first time that it ends so."""
        self._pause_longer()
        if self._is_new(error):
            _log.error(
                "relay %s ended with an error; this process begins again after %g seconds, then"
                " twice as many, up to %g, and does not log this error again",
                shown,
                self._pause,
                LONGEST,
                exc_info=error,
            )

    def refused(self, error: Exception, shown: str) -> None:
        """Note that the store, or the options of other processes, let no relay work here."""
        self._pause_longer()
        _log.error(
            "relay %s ended: %s; this process begins again after %g seconds",
            shown,
            clause(str(error)),
            self._pause,
        )

    def _pause_longer(self) -> None:
        now = time.monotonic()
        if now - self._began > LASTED:
            self._pause = 0.0
        self._pause = min(LONGEST, max(FIRST, 2 * self._pause))
        self._until = now + self._pause

    def _is_new(self, error: Exception) -> bool:
        places = traceback.extract_tb(error.__traceback__)[-3:]
        kind = (type(error).__name__, *(f"{each.filename}:{each.lineno}" for each in places))
        if kind in self._logged or len(self._logged) >= _REMEMBERED:
            return False
        self._logged.add(kind)
        return True

    @property
    def pause(self) -> float:
        """Seconds until this process may relay again."""
        return max(0.0, self._until - time.monotonic())


__all__ = ["FIRST", "LASTED", "LONGEST", "Failures"]
