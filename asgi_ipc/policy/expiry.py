"""How long messages and memberships live (S9, S15).

A message or membership expires as soon as the engine's clock reaches ``clock() + lifetime`` of the
time when it was stored (E4, E9).
"""

from __future__ import annotations

import math

from ..exceptions import OptionError

#: Longest lifetime, in seconds: ten years. Longer ones would mean "forever".
LONGEST = 10 * 365 * 86400
_SECOND = 1_000_000_000


def lifetime(option: str, seconds: float) -> int:
    """Convert seconds to nanoseconds, at least 1.

    Raises `OptionError` naming ``option`` if it is not a number above 0 and at most `LONGEST`.
    """
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


__all__ = ["LONGEST", "lifetime"]
