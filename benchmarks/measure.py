"""Timing that several questions use."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

Action = Callable[[], Awaitable[Any]]


def latencies(times: Sequence[float]) -> dict[str, Any]:
    """The quantiles of many times, in seconds."""
    ordered = sorted(times)
    last = len(ordered) - 1
    return {
        "p50": ordered[round(last * 0.5)],
        "p99": ordered[round(last * 0.99)],
        "p99.9": ordered[round(last * 0.999)],
        "count": len(ordered),
    }


async def seconds_each(action: Action, seconds: float) -> float:
    """How long an action takes, done again and again after a warm-up: median over batches."""
    await seconds_by_turns({"": action}, seconds / 5)
    return (await seconds_by_turns({"": action}, seconds, batch=10))[""]


async def seconds_by_turns(
    actions: Mapping[str, Action], seconds: float, batch: int = 20
) -> dict[str, float]:
    """How long each of some actions takes that together undo what they do: median over batches."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    end = time.perf_counter() + seconds
    while True:
        for name, action in actions.items():
            started = time.perf_counter()
            for _ in range(batch):
                await action()
            times[name].append((time.perf_counter() - started) / batch)
        if time.perf_counter() > end:
            return {name: statistics.median(each) for name, each in times.items()}
