"""How long messages and memberships live (S9, S15).

What lives for so long from now ends at ``clock() + lifetime``, and has ended as soon as the
engine's clock has reached that (E4, E9).
"""

from __future__ import annotations

import math

from ..exceptions import OptionError

#: Longest lifetime, in seconds: ten years. Longer ones mean "for ever", which nothing is.
LONGEST = 10 * 365 * 86400
_SECOND = 1_000_000_000


def lifetime(option: str, seconds: float) -> int:
    """A number of seconds in nanoseconds, at least 1.

    Raises `OptionError` naming ``option`` if it is no number above 0 and at most `LONGEST`.
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
