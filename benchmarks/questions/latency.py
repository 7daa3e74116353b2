"""How long one message takes: within a process, between two, and by its size."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

from .. import floors
from ..measure import latencies, seconds_each
from ..messages import USUAL, message
from ..peers import Peer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Answer, Case, Question, first_as, micro, quantiles

#: Seconds before each round trip at leisure, and how much longer that question is asked: the
#: slowest of a thousand shall not be a single one.
_PAUSE, _LONGER = 0.001, 5
#: Round trips of one kind, until it is the other's turn.
_TURN = 20


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


async def _ask(bench: Bench, seconds: float, size: int) -> dict[str, Any]:
    layer = bench.open()
    mine = await layer.new_channel()
    other = next(each for each in await bench.sync(mine) if each != mine)
    sent, times = message(size), []
    clock = time.perf_counter
    warm, end = clock() + seconds / 5, clock() + seconds * 1.2
    while True:
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


def _round_trip(settings: Settings, peers: Sequence[Peer], size: int, variant: str) -> list[Case]:
    params = {"seconds": settings.seconds, "size": size}
    return [
        Case(peer.name, variant, (Role(_ask, params), Role(_reply)), quantiles, peer)
        for peer in peers
        if peer.crosses_processes
    ]


async def _ask_at_leisure(bench: Bench, seconds: float) -> dict[str, Any]:
    """By turns through the layer and over bare FIFOs: what else runs here disturbs both alike."""
    layer, sent = bench.open(), message(USUAL)
    mine = await layer.new_channel()
    other = next(each for each in await bench.sync(mine) if each != mine)
    fifo, write = await floors.joined(bench, "ask")
    clock = time.perf_counter

    async def by_layer() -> None:
        await layer.send(other, sent)
        await layer.receive(mine)

    async def by_fifo() -> None:
        os.write(write, b"x" * USUAL)
        await fifo.read()

    ways = {"layer": (by_layer, [0.0]), "fifo": (by_fifo, [0.0])}
    end = clock() + seconds * _LONGER
    while clock() < end:
        for there_and_back, times in ways.values():
            await there_and_back()
            for _ in range(_TURN):
                await asyncio.sleep(_PAUSE)
                started = clock()
                await there_and_back()
                times.append(clock() - started)
    await layer.send(other, {**sent, "number": 1})
    return {way: latencies(times[1:]) for way, (_, times) in ways.items()}


async def _reply_at_leisure(bench: Bench) -> dict[str, Any]:
    layer = bench.open()
    mine = await layer.new_channel()
    other = next(each for each in await bench.sync(mine) if each != mine)
    fifo, write = await floors.joined(bench, "reply")

    def reply() -> None:
        os.write(write, os.read(fifo.reader, 65536))

    asyncio.get_running_loop().add_reader(fifo.reader, reply)
    while not (received := await layer.receive(mine))["number"]:
        await layer.send(other, received)
    return {}


def _beside_fifo(results: list[Any]) -> Answer:
    layer, fifo = results[0]["layer"], results[0]["fifo"]
    return {
        **{f"{name} µs": micro(layer[name]) for name in ("p50", "p99", "p99.9")},
        **{f"FIFO's {name} µs": micro(fifo[name]) for name in ("p50", "p99", "p99.9")},
    }


def _at_leisure(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    roles = (Role(_ask_at_leisure, {"seconds": settings.seconds}), Role(_reply_at_leisure))
    return [
        Case(peer.name, "", roles, _beside_fifo, peer) for peer in peers if peer.crosses_processes
    ]


def _round_trips(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    params = {"seconds": settings.seconds, "size": USUAL}
    pong = {"size": USUAL}
    floor = (Role(floors.ping, params), Role(floors.pong, pong))
    awaited = (Role(floors.awaiting_ping, params), Role(floors.awaiting_pong, pong))
    return [
        *_round_trip(settings, peers, USUAL, ""),
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
        f"And if nothing happens for {_PAUSE * 1e3:g} ms before each, so that the other sleeps?"
        " How long over bare FIFOs, by turns with it?",
        _at_leisure,
    ),
    Question("sizes", "How does a round trip between two processes grow with size?", _by_size),
]
