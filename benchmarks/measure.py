"""Timing that several questions use."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any


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


async def seconds_each(
    action: Callable[[], Awaitable[Any]], seconds: float, batch: int = 10
) -> float:
    """How long an action takes, done again and again after a warm-up: median over batches."""
    warm = time.perf_counter() + seconds / 5
    while True:
        await action()
        if time.perf_counter() > warm:
            break
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        started = time.perf_counter()
        for _ in range(batch):
            await action()
        times.append((time.perf_counter() - started) / batch)
    return statistics.median(times)


async def seconds_of_two(
    first: Callable[[], Awaitable[Any]],
    second: Callable[[], Awaitable[Any]],
    seconds: float,
    batch: int = 20,
) -> tuple[float, float]:
    """How long each of two actions takes that undo each other: median over batches."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds * 1.2
    while time.perf_counter() < end or len(times[0]) < 3:
        for kept, action in zip(times, (first, second), strict=True):
            started = time.perf_counter()
            for _ in range(batch):
                await action()
            kept.append((time.perf_counter() - started) / batch)
    return statistics.median(times[0]), statistics.median(times[1])
