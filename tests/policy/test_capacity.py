"""How many messages a channel may hold (S7, S8)."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict

import pytest

from asgi_ipc import IPCChannelLayer, OptionError
from asgi_ipc.policy.capacity import UNCOUNTED, Capacities, can_match

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


@pytest.mark.parametrize(
    ("channel", "capacity"),
    [
        ("ordinary", 100),
        ("http.response?abc", 100),
        ("counted", 3),
        ("http.response!abc", 5),
        (f"specific.{'0' * 32}!abc", UNCOUNTED),
        ("other!", UNCOUNTED),
    ],
)
def test_without_a_default_only_ordinary_channels_are_counted(channel: str, capacity: int) -> None:
    capacities = Capacities(None, {"counted": 3, "http.response!*": 5})
    assert capacities.of(channel) == capacity
    assert capacities.default == 100


@pytest.mark.parametrize(
    "pattern",
    [
        "specific.*!a*",
        "specific.*!abc",
        "specific.abc!def",
        "chat.[ab]?*!*7",
        "*7",
        "specific.*0",
        "chat.*!?",
        re.compile(r"specific\..*!.*[02468ace]$"),
    ],
)
def test_patterns_that_count_a_part_of_a_queue_are_told(
    pattern: str | re.Pattern[str], caplog: pytest.LogCaptureFixture
) -> None:
    mixed = Capacities(None, {pattern: 3}).mixed()
    assert mixed is not None
    counted, uncounted = mixed
    assert counted.partition("!")[0] == uncounted.partition("!")[0]
    of = Capacities(None, {pattern: 3}).of
    assert (of(counted), of(uncounted)) == (3, UNCOUNTED)
    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        IPCChannelLayer(engine="memory", channel_capacity={pattern: 3}).sync.close()
    (record,) = caplog.records
    assert f"of channel {counted} but not those of {uncounted}" in record.getMessage()
    # With a count for all there is none that is not counted.
    assert Capacities(5, {pattern: 3}).mixed() is None


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "specific.*",
        "specific.0*",
        "http.response!*",
        "*!*",
        "reports.*.end",
        "thumbnails-generate",
        "[!a]*",
        re.compile(r"^websocket.send\!.+"),
        re.compile(r"specific\."),
    ],
)
def test_patterns_that_count_all_of_a_queue_or_none_are_not(
    pattern: str | re.Pattern[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        IPCChannelLayer(engine="memory", channel_capacity={pattern: 3}).sync.close()
    assert not caplog.records


@pytest.mark.parametrize(
    ("glob", "matches"),
    [
        ("*", True),
        ("specific.*", True),
        ("*!*", True),
        ("*!a*", True),
        ("*!z*", False),
        ("specific.*![0-3]*", True),
        ("specific!*", False),
        ("specific.inmemory!*", False),
        ("http.response!*", False),
        ("thumbnails-generate", True),
        ("thumb?", True),
        ("chat/*", False),
        ("[!a]b", True),
        ("[", False),
        ("", False),
    ],
)
def test_globs_that_match_no_name_of_a_channel_are_told(glob: str, matches: bool) -> None:
    assert can_match(glob) == matches
