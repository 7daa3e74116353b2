"""How long others wait while one process does what takes long."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..measure import latencies
from ..messages import USUAL, message
from ..peers import Peer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Case, Question, quantiles

#: So many channels, and members, make the long operations long.
_MANY = 5_000
_MEMORY = 16 << 20

_Step = Callable[[], Awaitable[object]]


async def _bystander(bench: Bench, seconds: float) -> dict[str, Any]:
    layer = bench.open(channel_memory=_MEMORY)
    sent, times = message(USUAL), []
    clock = time.perf_counter
    await bench.sync()
    end = clock() + seconds
    while (began := clock()) < end:
        try:
            await layer.send("bystander", sent)
        except Exception as error:
            if type(error).__name__ != "StoreFull":
                raise
            await asyncio.sleep(0.001)
            continue
        await layer.receive("bystander")
        times.append(clock() - began)
        await asyncio.sleep(0)
    await bench.sync()
    return latencies(times)


async def _quiet(layer: Any) -> _Step:
    async def step() -> None:
        await asyncio.sleep(0.01)

    return step


async def _statistics(layer: Any) -> _Step:
    for number in range(_MANY):
        await layer.send(f"channel.{number}", message(USUAL))

    async def step() -> None:
        await layer.global_statistics()

    return step


async def _members(layer: Any) -> _Step:
    for _ in range(_MANY):
        await layer.group_add("room", f"specific.{secrets.token_hex(16)}!{secrets.token_hex(16)}")

    async def step() -> None:
        # A list that is known would not be read.
        await layer.group_add("room", "another")
        await layer.group_channels("room")
        await layer.group_discard("room", "another")

    return step


async def _full(layer: Any) -> _Step:
    # Small messages with holes between them, which must be moved together for a large one.
    with contextlib.suppress(Exception):
        for number in range(10**6):
            await layer.send(f"small.{number % 40}", message(1_000))
    for number in range(0, 40, 4):
        with contextlib.suppress(asyncio.TimeoutError):
            while True:
                await asyncio.wait_for(layer.receive(f"small.{number}"), 0.05)

    async def step() -> None:
        with contextlib.suppress(Exception):
            await layer.send("large", message(1_000_000))
            await layer.receive("large")
        with contextlib.suppress(Exception):
            for number in range(200):
                await layer.send(f"small.{number % 40}", message(1_000))
                await layer.receive(f"small.{number % 40}")

    return step


_WHAT: dict[str, Callable[[Any], Awaitable[_Step]]] = {
    "quiet": _quiet,
    f"statistics of {_MANY:,} channels": _statistics,
    f"a group of {_MANY:,} that changes": _members,
    "1 MB to a nearly full store": _full,
}


async def _busy(bench: Bench, what: str, seconds: float) -> dict[str, Any]:
    step = await _WHAT[what](bench.open(channel_memory=_MEMORY))
    await bench.sync()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await step()
    await bench.sync()
    return {}


def _bystanders(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    params = {"seconds": settings.seconds}
    return [
        Case(
            peer.name,
            what,
            (Role(_bystander, params), Role(_busy, {**params, "what": what})),
            quantiles,
            peer,
            120,
        )
        for what in _WHAT
        for peer in peers
        if peer.crosses_processes and peer.used is not None
    ]


QUESTIONS = [
    Question(
        "bystander",
        "How long does a pair take while another process does what takes long?",
        _bystanders,
    )
]
