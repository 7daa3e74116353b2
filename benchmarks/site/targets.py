"""What asgi_ipc has set itself to reach on a whole site: ratios to pubsub in the same run."""

from __future__ import annotations

from ..results import Results
from ..targets import Target

_OURS, _PUBSUB = "asgi_ipc posix", "channels_redis pubsub"


def _beside_pubsub(question: str, number: str, variant: str, says: str, bound: float) -> Target:
    def reached(results: Results) -> float | None:
        """The worst over all sizes of the question."""
        ratios = []
        for key in results.all_keys():
            if (key.question, key.number, key.who) != (question, number, _OURS):
                continue
            if not key.variant.endswith(variant):
                continue
            ours = results.median(*key)
            theirs = results.median(question, key.variant, _PUBSUB, number)
            if ours is not None and theirs:
                ratios.append(ours / theirs)
        return max(ratios, default=None)

    return Target(question, says, reached, bound)


def _whole(results: Results) -> float | None:
    shares = [
        figure.least
        for key in results.all_keys()
        if (key.question, key.number, key.who) == ("bursts", "percent", _OURS)
        and (figure := results.figure(*key)) is not None
    ]
    return min(shares, default=None)


TARGETS = [
    Target("bursts", "of each burst everything arrives, in each round", _whole, 100.0, True),
    _beside_pubsub("latency", "p99 ms", ", channels", "p99 at most 0.6 of pubsub's", 0.6),
    _beside_pubsub(
        "latency", "CPU s/10,000", ", channels", "CPU at most 0.9 of pubsub's with Channels", 0.9
    ),
    _beside_pubsub(
        "latency", "CPU s/10,000", ", bare", "CPU at most 0.5 of pubsub's without Channels", 0.5
    ),
    _beside_pubsub("storm", "all joined s", "", "all joined in at most 0.6 of pubsub's time", 0.6),
    _beside_pubsub(
        "bursts", "each µs", "", "calls from a plain thread at most 0.2 of pubsub's", 0.2
    ),
    _beside_pubsub(
        "storm", "a connection kB", "", "memory of a connection at most 0.95 of pubsub's", 0.95
    ),
]
