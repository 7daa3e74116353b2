"""How many messages a channel may hold (S7, S8)."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest

from asgi_ipc import OptionError
from asgi_ipc.policy.capacity import Capacities

ISSUE: dict[str | re.Pattern[str], int] = {
    "http.request": 200,
    "http.response!*": 10,
    re.compile(r"^websocket.send\!.+"): 20,
}


@pytest.mark.parametrize(
    ("channel", "capacity"),
    [
        ("http.request", 200),
        ("http.request2", 100),
        ("http.response!abc", 10),
        ("http.response!", 10),
        ("http.response", 100),
        ("websocket.send!abc", 20),
        ("websocket.send!", 100),
        ("other", 100),
    ],
)
def test_patterns_match_full_names(channel: str, capacity: int) -> None:
    capacities = Capacities(100, ISSUE)
    assert capacities.of(channel) == capacity
    assert capacities.of(channel) == capacity  # Remembered.


def test_the_first_pattern_that_matches_wins() -> None:
    assert Capacities(1, OrderedDict([("a*", 2), ("ab", 3)])).of("ab") == 2
    assert Capacities(1, OrderedDict([("ab", 3), ("a*", 2)])).of("ab") == 3


def test_a_glob_matches_all_of_a_name_and_a_regular_expression_its_start() -> None:
    assert Capacities(1, {"b": 2}).of("bc") == 1
    assert Capacities(1, {re.compile("b"): 2}).of("bc") == 2
    assert Capacities(1, {re.compile("b"): 2}).of("ab") == 1
    assert Capacities(1, {"[!a]?": 2}).of("bc") == 2


def test_what_the_caller_does_to_its_dict_later_changes_nothing() -> None:
    exceptions: dict[str | re.Pattern[str], int] = {"a": 2}
    capacities = Capacities(1, exceptions)
    exceptions["a"] = 3
    assert capacities.of("a") == 2


def test_a_bad_capacity_is_refused_with_its_pattern() -> None:
    with pytest.raises(OptionError, match=r"channel_capacity\['a\*'\] is 0"):
        Capacities(1, {"a*": 0})
