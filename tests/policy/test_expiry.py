"""How long things live (S9, S15), on a clock that the test winds."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_ipc import OptionError, SyncIPCChannelLayer
from asgi_ipc.policy.expiry import LONGEST, lifetime
from tests.tools.doubles import (
    fresh,
)


def test_a_lifetime_is_given_in_seconds_and_kept_in_nanoseconds() -> None:
    assert lifetime("expiry", 1.5) == 1_500_000_000
    assert lifetime("expiry", LONGEST) == LONGEST * 10**9


def test_the_shortest_lifetime_is_not_none_at_all() -> None:
    assert lifetime("expiry", 1e-12) == 1


def test_messages_and_memberships_live_as_long_as_said_on_the_engines_clock() -> None:
    now = 5_000_000_000
    layer = SyncIPCChannelLayer(
        fresh(),
        engine="memory",
        engine_options={"clock": lambda: now},
        expiry=1.5,
        group_expiry=3,
    )
    layer.group_add("group", "member")
    layer.send("channel", {})
    layer.send("channel", {})
    layer.group_send("group", {})
    now += 1_499_999_999
    assert layer.receive(["channel"]) == ("channel", {})
    now += 1
    assert layer.receive(["channel"]) == (None, None)
    assert layer.receive(["member"]) == (None, None)
    now += 1_499_999_999
    assert layer.group_channels("group") == ["member"]
    now += 1
    assert layer.group_channels("group") == []
    layer.destroy()


@pytest.mark.parametrize(
    "seconds", [0, -1, True, "1", None, float("nan"), float("inf"), LONGEST + 1]
)
def test_other_numbers_are_refused(seconds: Any) -> None:
    with pytest.raises(OptionError, match="group_expiry is"):
        lifetime("group_expiry", seconds)
