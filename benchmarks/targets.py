"""What asgi_ipc has set itself to reach, and how far it is. The numbers compared are ratios
of one run, so they hold on any machine, as far as they hold at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import floors
from .questions.growth import DEARER
from .results import Results

_OURS = "asgi_ipc posix"
_LIKEWISE = ("asgi_ipc sysv", "asgi_ipc mmap")
_IN_MEMORY = "InMemoryChannelLayer"
_PUBSUB = "channels_redis pubsub"
#: Numbers of the answers in which less is better.
_TIMES = (" µs",)


@dataclass(frozen=True)
class Target:
    """One promise: what is compared, and the bound."""

    question: str
    says: str
    #: None where it was not measured.
    reached: Callable[[Results], float | None]
    bound: float
    #: Whether the bound is a least value; else it is a greatest.
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a value keeps it."""
        return value >= self.bound if self.at_least else value <= self.bound


def _ratio(
    question: str,
    variant: str,
    number: str,
    over: str,
    under: str,
    other_variant: str | None = None,
) -> Callable[[Results], float | None]:
    def reached(results: Results) -> float | None:
        above = results.median(question, variant, over, number)
        other = variant if other_variant is None else other_variant
        below = results.median(question, other, under, number)
        return above / below if above is not None and below else None

    return reached


def _beside(question: str, number: str, other: str) -> Callable[[Results], float | None]:
    """Two numbers of one answer of ours."""

    def reached(results: Results) -> float | None:
        above = results.median(question, "", _OURS, number)
        below = results.median(question, "", _OURS, other)
        return above / below if above is not None and below else None

    return reached


def _value(question: str, variant: str, number: str) -> Callable[[Results], float | None]:
    return lambda results: results.median(question, variant, _OURS, number)


def _worst_of_others(question: str, variant: str, number: str) -> Callable[[Results], float | None]:
    """How much the worse of sysv and mmap is behind posix."""

    def reached(results: Results) -> float | None:
        ours = results.median(question, variant, _OURS, number)
        others = [results.median(question, variant, who, number) for who in _LIKEWISE]
        found = [each for each in others if each]
        if not ours or not found:
            return None
        less_is_better = number.endswith(_TIMES)
        return max(each / ours if less_is_better else ours / each for each in found)

    return reached


def _growth(what: str) -> Callable[[Results], float | None]:
    """The most that any operation gets dearer from the first of these sizes to another."""

    def reached(results: Results) -> float | None:
        grown = [
            results.median(*key)
            for key in results.all_keys()
            if key.question == "growth"
            and key.who == _OURS
            and key.variant.endswith(what)
            and key.number.endswith(DEARER)
        ]
        return max((each for each in grown if each), default=None)

    return reached


TARGETS = [
    Target(
        "pair",
        "a pair takes at most as long as with InMemoryChannelLayer",
        _ratio("pair", "", "pair µs", _OURS, _IN_MEMORY),
        1.0,
    ),
    Target(
        "roundtrip",
        "a round trip takes at most 2 times as long as over bare FIFOs",
        _ratio("roundtrip", "", "p50 µs", _OURS, floors.FIFO),
        2.0,
    ),
    Target(
        "roundtrip",
        "a round trip is at least 8 times faster than with channels_redis pubsub",
        _ratio("roundtrip", "", "p50 µs", _PUBSUB, _OURS),
        8.0,
        at_least=True,
    ),
    Target(
        "leisure",
        "the slowest of a thousand round trips at leisure takes at most 1.5 times the bare FIFOs'",
        _beside("leisure", "p99.9 µs", "FIFO's p99.9 µs"),
        1.5,
    ),
    Target(
        "backtoback",
        "20 broadcasts to 1,000 without a pause are called in at most 150 µs each",
        _value("backtoback", "20 to 1,000 members", "call µs"),
        150.0,
    ),
    Target(
        "wide",
        "a broadcast to 64 processes is called in at most 1,000 µs",
        _value("wide", "64 processes", "call µs"),
        1_000.0,
    ),
    Target(
        "oneway",
        "one to one, at least 15 times the messages a second of channels_redis pubsub",
        _ratio("oneway", "1 to 1", "messages/s", _OURS, _PUBSUB),
        15.0,
        at_least=True,
    ),
    Target(
        "broadcast",
        "a broadcast to 1,000 is called in at most half the time of channels_redis pubsub",
        _ratio("broadcast", "1,000 members", "call µs", _OURS, _PUBSUB),
        0.5,
    ),
    Target(
        "broadcast",
        "at least 2 times its deliveries a second",
        _ratio("broadcast", "1,000 members", "deliveries/s", _OURS, _PUBSUB),
        2.0,
        at_least=True,
    ),
    *(
        Target(
            "growth",
            f"no operation gets more than 1.5 times dearer with {what}",
            _growth(end),
            1.5,
        )
        for what, end in (
            ("queued messages", " messages"),
            ("channels", " channels"),
            ("memberships", " memberships"),
            ("the size of the store", " store"),
        )
    ),
    # The caches of a processor hold a thousand clients, and not fifty thousand.
    Target(
        "crowds",
        "a message to one of 50,000 clients that wait takes at most 3 times as long as of 1,000",
        _value("crowds", "50,000 clients", "send" + DEARER),
        3.0,
    ),
    Target(
        "crowds",
        "and a signal for one of as many ordinary channels 1.5 times",
        _value("crowds", "50,000 clients", "signal" + DEARER),
        1.5,
    ),
    Target(
        "crowds",
        "50,000 clients that wait take under 1 % CPU",
        _value("crowds", "50,000 clients", "idle CPU %"),
        1.0,
    ),
    Target(
        "crowds",
        "and never hold the loop up for more than 10 ms",
        _value("crowds", "50,000 clients", "longest block ms"),
        10.0,
    ),
    Target(
        "contention",
        "8 processes get at least 0.7 times as much done as one",
        _ratio("contention", "8 processes", "pairs/s", _OURS, _OURS, "1 process"),
        0.7,
        at_least=True,
    ),
    Target(
        "contention",
        "the slowest of 8 gets at least a third of what the fastest gets",
        _value("contention", "8 processes", "slowest/fastest"),
        1 / 3,
        at_least=True,
    ),
    Target(
        "memory",
        "at most 50 bytes beside a message",
        _value("memory", "", "bytes beside a message"),
        50.0,
    ),
    Target(
        "memory",
        "at least 8,000 memberships a MiB",
        _value("memory", "", "memberships/MiB"),
        8000.0,
        at_least=True,
    ),
    Target("idle", "a waiting process takes under 0.1 % CPU", _value("idle", "", "CPU %"), 0.1),
    *(
        Target(
            question,
            f"sysv and mmap are within 1.3 times of posix ({number.split()[0]})",
            _worst_of_others(question, variant, number),
            1.3,
        )
        for question, variant, number in (
            ("pair", "", "pair µs"),
            ("roundtrip", "", "p50 µs"),
            ("oneway", "1 to 1", "messages/s"),
            ("broadcast", "1,000 members", "call µs"),
        )
    ),
]
