"""How long messages and memberships live (S9, S15).

A message or membership with a lifetime ends at ``clock() + lifetime``: from then on, by the
engine's clock, no receiver and no broadcast sees it (E4, E9).
"""

from __future__ import annotations

import math

from ..exceptions import OptionError

#: Longest lifetime, in seconds: ten years. No store lives longer.
LONGEST = 10 * 365 * 86400
_SECOND = 1_000_000_000


def lifetime(option: str, seconds: float, never: bool = False) -> int:
    """Return a number of seconds in nanoseconds, at least 1.

    With ``never``, 0 stands for no end, and is `LONGEST`. Raises `OptionError` naming ``option``
    unless it is a number above 0 and at most `LONGEST`.
    """
    if never and seconds == 0 and not isinstance(seconds, bool):
        seconds = LONGEST
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not math.isfinite(seconds)
        or not 0 < seconds <= LONGEST
    ):
        raise OptionError(
            f"{option} is {seconds!r}; it must be a number of seconds above 0"
            f" and at most {LONGEST} (ten years){', or 0 for no end' if never else ''}"
        )
    return max(1, round(seconds * _SECOND))


__all__ = ["LONGEST", "lifetime"]
