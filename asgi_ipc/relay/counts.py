"""What a relay counts, and its warnings about what it dropped."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Mapping

_log = logging.getLogger("asgi_ipc")

#: Counts of what was dropped begin with this, and go on with the reason.
DROPPED = "dropped_"
#: Count of connections that were lost, and not closed in order.
DISCONNECTS = "disconnects"
#: Count of relays that were killed.
KILLS = "kills"
#: Seconds between two warnings.
INTERVAL = 10.0
#: No count goes beyond this, so that each fits the report.
MOST = (1 << 63) - 1
#: Seconds for which a drop counts as one of late, and the steps in which they pass.
LATELY, _STEPS = 600.0, 10
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
        #: What was counted in the last `LATELY` seconds, and when that began.
        self._past: deque[tuple[float, Counter[str]]] = deque([(self._rated, Counter(self.all))])

    def learn(self, counts: Mapping[object, object], past: object = (), age: float = 0.0) -> None:
        """Go on from the counts of the former relay, leaving out what is no count.

        Also from what it returned of its ``past``, ``age`` seconds ago.
        """
        for name, count in _checked(counts).items():
            self.add(name, count)
        self._told, self._before = Counter(self.all), Counter(self.all)
        now, found = time.monotonic(), []
        for each in past if isinstance(past, (list, tuple)) else ():
            match each:
                case [float(ago), dict(then)] if 0 <= ago + age < 2 * LATELY:
                    found.append((now - ago - age, _checked(then)))
        self._past = deque(sorted(found, key=lambda each: each[0])) or deque([(now, self._before)])

    def past(self) -> list[tuple[float, dict[str, int]]]:
        """Return what `lately` compares with, for the next relay: seconds ago, and the counts."""
        now = time.monotonic()
        return [
            (now - at, {name: count for name, count in counts.items() if _is_of_note(name)})
            for at, counts in self._past
        ]

    def add(self, name: str, count: int = 1) -> None:
        """Count something, up to `MOST`."""
        self.all[name] = min(MOST, self.all[name] + count)

    def dropped(self, reason: str, count: int = 1) -> None:
        """Count what was dropped, by reason: words that docs/relays.md explains."""
        if count:
            self.add(DROPPED + reason.replace(" ", "_"), count)

    def measure_rates(self) -> None:
        """Measure `rates` since the last call. Called about once a second."""
        now = time.monotonic()
        seconds = max(0.001, now - self._rated)
        self.rates = {name: (self.all[name] - self._before[name]) / seconds for name in _RATED}
        self._rated, self._before = now, Counter(self.all)
        if now - self._past[-1][0] >= LATELY / _STEPS:
            self._past.append((now, Counter(self.all)))
            # The first that is kept is at least so old.
            while len(self._past) > 1 and now - self._past[1][0] >= LATELY:
                self._past.popleft()

    def lately(self) -> dict[str, int]:
        """Return what was dropped, missed or lost in the last `LATELY` seconds, and some more."""
        _, past = self._past[0]
        return {
            name: count - past[name]
            for name, count in self.all.items()
            if count > past[name] and _is_of_note(name)
        }

    def warn(self, ending: bool = False) -> None:
        """Log what was dropped or missed since the last warning, at most once in `INTERVAL`."""
        now = time.monotonic()
        if self._warned is not None and now - self._warned < INTERVAL and not ending:
            return
        more = {
            name.removeprefix(DROPPED).replace("_", " "): count - self._told[name]
            for name, count in sorted(self.all.items())
            if (name.startswith(DROPPED) or name == "gaps") and count > self._told[name]
        }
        if more:
            self._warned, self._told = now, Counter(self.all)
            listed = ", ".join(f"{count} ({reason})" for reason, count in more.items())
            _log.warning(
                "relay %s: lost %s since the last warning; docs/relays.md explains the reasons",
                self._shown,
                listed,
            )


def _is_of_note(name: str) -> bool:
    return name.startswith(DROPPED) or name in ("gaps", DISCONNECTS, KILLS)


def _checked(counts: Mapping[object, object]) -> Counter[str]:
    """Return what is a count."""
    return Counter(
        {
            name: count
            for name, count in counts.items()
            if isinstance(name, str) and isinstance(count, int) and count >= 0
        }
    )


__all__ = ["DISCONNECTS", "DROPPED", "INTERVAL", "KILLS", "LATELY", "MOST", "Counts"]
