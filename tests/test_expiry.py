"""How long things live (S9, S15), on a clock that the test winds."""

from __future__ import annotations

import pytest

from asgi_ipc import OptionError
from asgi_ipc.policy.expiry import LONGEST, Lifetime, nanoseconds


def test_a_deadline_is_a_lifetime_from_now() -> None:
    now = 5_000_000_000
    lifetime = Lifetime("expiry", 1.5, lambda: now)
    deadline = lifetime.deadline()
    assert deadline == 6_500_000_000
    assert lifetime.remaining(deadline) == 1.5
    now = deadline - 1
    assert not lifetime.over(deadline)
    now = deadline
    assert lifetime.over(deadline)
    now += 1
    assert lifetime.over(deadline)
    assert lifetime.remaining(deadline) == 0


def test_the_shortest_lifetime_is_not_none_at_all() -> None:
    assert nanoseconds("expiry", 1e-12) == 1
    assert nanoseconds("expiry", LONGEST) == LONGEST * 10**9


@pytest.mark.parametrize(
    "seconds", [0, -1, True, "1", None, float("nan"), float("inf"), LONGEST + 1]
)
def test_other_numbers_are_refused(seconds: object) -> None:
    with pytest.raises(OptionError, match="group_expiry is"):
        nanoseconds("group_expiry", seconds)
