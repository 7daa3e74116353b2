"""What relays have set themselves to reach, as ratios of one run."""

from __future__ import annotations

from collections.abc import Callable

from ..results import Results
from ..targets import Target
from .machines import OURS

_PUBSUB = "channels_redis pubsub"


def _beside_pubsub(question: str, variant: str, number: str) -> Callable[[Results], float | None]:
    def reached(results: Results) -> float | None:
        here = results.median(question, variant, OURS, number)
        there = results.median(question, variant, _PUBSUB, number)
        return here / there if here is not None and there else None

    return reached


def _value(question: str, number: str) -> Callable[[Results], float | None]:
    return lambda results: results.median(question, "", OURS, number)


_MEMBERS = "1,000 members"
TARGETS = [
    *(
        Target(
            "local",
            f"{what} takes at most 1.1 times what it takes without",
            _value("local", n),
            1.1,
        )
        for what, n in (
            ("with a relay a pair", "pair, x"),
            ("a round trip on one machine", "round trip, x"),
            ("the call of a broadcast", "broadcast, x"),
        )
    ),
    *(
        Target(
            question,
            f"{what} at most {bound} of channels_redis pubsub's",
            _beside_pubsub(question, variant, number),
            bound,
        )
        for question, variant, number, what, bound in (
            ("between", "", "p50 µs", "a round trip between machines:", 0.6),
            (
                "everywhere",
                _MEMBERS,
                "call µs",
                "a broadcast to 1,000 on two machines is called in",
                0.5,
            ),
            ("everywhere", _MEMBERS, "until the last µs", "its last member has it in", 0.6),
            ("everywhere", _MEMBERS, "CPU ms per 10,000", "CPU for 10,000 deliveries:", 0.6),
        )
    ),
]
