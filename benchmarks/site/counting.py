"""Which messages came to which client, how often and when: all that the benchmark claims."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What was sent and what came, of one part of a measurement."""

    #: The numbers of its messages; others that come are left out.
    numbers: range = range(0)
    #: Messages times the clients that each is for.
    expected: int = 0
    began: float = field(default_factory=time.monotonic)
    #: When the last of those that were expected came.
    last: float = 0.0
    #: Seconds from sending to arriving.
    latencies: list[float] = field(default_factory=list)
    _came: Counter[tuple[int, int]] = field(default_factory=Counter)

    def came(self, client: int, number: int, sent: float, now: float) -> None:
        """Note that a client has got a message."""
        if number not in self.numbers:
            return
        self._came[client, number] += 1
        if self._came[client, number] == 1:
            self.latencies.append(now - sent)
            self.last = now

    @property
    def arrived(self) -> int:
        """Deliveries, each counted once."""
        return len(self._came)

    @property
    def twice(self) -> int:
        """Deliveries that had been made before."""
        return self._came.total() - len(self._came)

    @property
    def missing(self) -> int:
        """Deliveries that have not been made."""
        return max(0, self.expected - self.arrived)

    @property
    def percent(self) -> float:
        """How many of those expected have come."""
        return 100 * self.arrived / self.expected

    @property
    def took(self) -> float:
        """Seconds until the last came."""
        return max(0.0, self.last - self.began)
