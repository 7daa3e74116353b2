"""What a relay counts, and its warnings about what it dropped."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping

_log = logging.getLogger("asgi_ipc")

#: Counts of what was dropped begin with this, and go on with the reason.
DROPPED = "dropped_"
#: Seconds between two warnings.
INTERVAL = 10.0
#: No count goes beyond this, so that each fits the report.
MOST = (1 << 63) - 1
#: The counts of which rates are told.
_RATED = ("frames_out", "bytes_out", "frames_in", "bytes_in")


class Counts:
    """Counts by name; they go on from those of the machine's former relay."""

    def __init__(self, shown: str) -> None:
        self.all: Counter[str] = Counter()
        #: Frames and bytes a second, lately.
        self.rates: dict[str, float] = dict.fromkeys(_RATED, 0.0)
        self._shown = shown
        self._warned: float | None = None
        self._told: Counter[str] = Counter()
        self._rated, self._before = time.monotonic(), Counter(self.all)

    def learn(self, counts: Mapping[object, object]) -> None:
        """Go on from these."""
        for name, count in counts.items():
            if isinstance(name, str) and isinstance(count, int) and count >= 0:
                self.add(name, count)
        self._told, self._before = Counter(self.all), Counter(self.all)

    def add(self, name: str, count: int = 1) -> None:
        """Count something."""
        self.all[name] = min(MOST, self.all[name] + count)

    def dropped(self, reason: str, count: int = 1) -> None:
        """Count what was dropped, by reason."""
        if count:
            self.add(DROPPED + reason.replace(" ", "_"), count)

    def rate(self) -> None:
        """Take the rates since the last time."""
        now = time.monotonic()
        seconds = max(0.001, now - self._rated)
        self.rates = {name: (self.all[name] - self._before[name]) / seconds for name in _RATED}
        self._rated, self._before = now, Counter(self.all)

    def warn(self, ending: bool = False) -> None:
        """Log what was dropped since the last warning, at most once in `INTERVAL` seconds."""
        now = time.monotonic()
        if self._warned is not None and now - self._warned < INTERVAL and not ending:
            return
        more = {
            name.removeprefix(DROPPED).replace("_", " "): count - self._told[name]
            for name, count in sorted(self.all.items())
            if name.startswith(DROPPED) and count > self._told[name]
        }
        if more:
            self._warned, self._told = now, Counter(self.all)
            listed = ", ".join(f"{count} ({reason})" for reason, count in more.items())
            _log.warning(
                "relay %s: dropped %s since the last warning; docs/relays.md explains the reasons",
                self._shown,
                listed,
            )


__all__ = ["DROPPED", "INTERVAL", "MOST", "Counts"]
