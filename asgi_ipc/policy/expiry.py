"""How long messages and memberships live (S9, S15)."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..exceptions import OptionError

#: Longest lifetime, in seconds: ten years. Longer ones mean "for ever", which nothing is.
LONGEST = 10 * 365 * 86400
_SECOND = 1_000_000_000


class Lifetime:
    """A number of seconds, and the deadlines it gives on some clock.

    ``clock`` returns nanoseconds and never goes back. Raises `OptionError` naming
    ``option`` if ``seconds`` is no number above 0 and at most `LONGEST`.
    """

    def __init__(self, option: str, seconds: float, clock: Callable[[], int]) -> None:
        self.nanoseconds = nanoseconds(option, seconds)
        self.clock = clock

    def deadline(self) -> int:
        """When that ends which begins now, on the clock."""
        return self.clock() + self.nanoseconds

    def over(self, deadline: int) -> bool:
        """Whether a deadline has passed; what ends now has ended."""
        return deadline <= self.clock()

    def remaining(self, deadline: int) -> float:
        """Seconds until a deadline; 0 once it has passed."""
        return max(0, deadline - self.clock()) / _SECOND


def nanoseconds(option: str, seconds: object) -> int:
    """A lifetime as a whole number, checked. Raises `OptionError` naming ``option``."""
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not math.isfinite(seconds)
        or not 0 < seconds <= LONGEST
    ):
        raise OptionError(
            f"{option} is {seconds!r}; it must be a number of seconds above 0"
            f" and at most {LONGEST} (ten years)"
        )
    return max(1, round(seconds * _SECOND))


__all__ = ["LONGEST", "Lifetime", "nanoseconds"]
