"""How long messages and memberships live (S9, S15)."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..exceptions import OptionError

#: Longest lifetime, in seconds: ten years. Longer ones mean "for ever", which nothing is.
LONGEST = 10 * 365 * 86400
_SECOND = 1_000_000_000


class Lifetime:
    """A number of seconds, and the deadline it gives on some clock.

    Raises `OptionError` naming ``option`` if ``seconds`` is no number above 0 and at most
    `LONGEST`.
    """

    __slots__ = ("nanoseconds",)

    def __init__(self, option: str, seconds: float) -> None:
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
        self.nanoseconds = max(1, round(seconds * _SECOND))

    def deadline(self, clock: Callable[[], int]) -> int:
        """When that ends which begins now, on a clock that gives nanoseconds.

        What ends now has ended: who holds it drops it as soon as that clock has reached the
        deadline (E4, E9).
        """
        return clock() + self.nanoseconds


__all__ = ["LONGEST", "Lifetime"]
