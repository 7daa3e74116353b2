"""How long one message takes: within a process, between two, and by its size."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from .. import floors
from ..measure import latencies, seconds_each
from ..messages import USUAL, message
from ..peers import Peer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Case, Question, first_as, quantiles


#: Seconds between two round trips at leisure, and how much longer the question is asked: a
#: thousandth of them shall be more than one.
_PAUSE, _LONGER = 0.001, 5


async def _pair(bench: Bench, seconds: float, size: int, ordinary: bool) -> dict[str, Any]:
    layer = bench.open()
    channel, sent = "work" if ordinary else await layer.new_channel(), message(size)

    async def there_and_back() -> None:
        await layer.send(channel, sent)
        await layer.receive(channel)

    return {"each": await seconds_each(there_and_back, seconds)}


def _pairs(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    params = {"seconds": settings.seconds, "size": USUAL}
    answer = first_as("pair")
    own = Role(_pair, {**params, "ordinary": False})
    ordinary = Role(_pair, {**params, "ordinary": True})
    return [
        *(Case(peer.name, "", (own,), answer, peer) for peer in peers),
        *(
            Case(peer.name, "ordinary channel", (ordinary,), answer, peer)
            for peer in peers
            if peer.queues
        ),
        Case(floors.COPY, "", (Role(floors.lock_and_copy, params),), answer),
    ]


async def _ask(bench: Bench, seconds: float, size: int, pause: float = 0) -> dict[str, Any]:
    layer = bench.open()
    mine = await layer.new_channel()
    other = next(each for each in await bench.sync(mine) if each != mine)
    sent, times = message(size), []
    clock = time.perf_counter
    warm, end = clock() + seconds / 5, clock() + seconds * 1.2
    while True:
        if pause:
            await asyncio.sleep(pause)
        started = clock()
        await layer.send(other, sent)
        await layer.receive(mine)
        now = clock()
        if now > warm:
            times.append(now - started)
        if now > end and times:
            break
    await layer.send(other, {**sent, "number": 1})
    return latencies(times)


async def _reply(bench: Bench) -> dict[str, Any]:
    layer = bench.open()
    mine = await layer.new_channel()
    other = next(each for each in await bench.sync(mine) if each != mine)
    while True:
        received = await layer.receive(mine)
        if received["number"]:
            return {}
        await layer.send(other, received)


def _round_trip(
    settings: Settings, peers: Sequence[Peer], size: int, variant: str, **more: float
) -> list[Case]:
    params = {"seconds": settings.seconds, "size": size, **more}
    return [
        Case(peer.name, variant, (Role(_ask, params), Role(_reply)), quantiles, peer)
        for peer in peers
        if peer.crosses_processes
    ]


def _round_trips(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    return _beside_floors(settings, peers)


def _at_leisure(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    return _beside_floors(settings, peers, seconds=_LONGER * settings.seconds, pause=_PAUSE)


def _beside_floors(settings: Settings, peers: Sequence[Peer], **more: float) -> list[Case]:
    params = {"seconds": settings.seconds, "size": USUAL, **more}
    pong = {"size": USUAL}
    floor = (Role(floors.ping, params), Role(floors.pong, pong))
    awaited = (Role(floors.awaiting_ping, params), Role(floors.awaiting_pong, pong))
    return [
        *_round_trip(settings, peers, USUAL, "", **more),
        Case(floors.FIFO, "", floor, quantiles),
        Case(floors.AWAITED, "", awaited, quantiles),
    ]


def _by_size(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    sizes = settings.sizes((100, 1_000, 10_000, 100_000, 1_000_000), (100, 100_000))
    return [
        case for size in sizes for case in _round_trip(settings, peers, size, f"{size:,} bytes")
    ]


QUESTIONS = [
    Question("pair", "One process: how long do a send and the receive after it take?", _pairs),
    Question(
        "roundtrip",
        "How long until a message to another process is answered?",
        _round_trips,
    ),
    Question(
        "leisure",
        f"And if nothing else happens for {_PAUSE * 1e3:g} ms before each, so that all sleep?",
        _at_leisure,
    ),
    Question("sizes", "How does a round trip between two processes grow with size?", _by_size),
]
