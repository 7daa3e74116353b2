"""What it costs to have many clients waiting in one process.

As in `growth`, the sizes have processes at the same time and take turns, so that their ratios
hold on a machine that is faster at one time than at another.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

from ..messages import message
from ..peers import Peer
from ..peers.base import Layer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Answer, Case, Comparison, Question, micro
from .growth import DEARER

#: Channels to which a turn signals, and the most seconds that it does so.
_RINGS, _SIGNAL_SECONDS = 200, 2.0


class _Clients:
    """Receivers that wait, each on a channel of its own, for one message after another."""

    def __init__(self, layer: Layer, channels: Sequence[str]) -> None:
        self._layer, self.channels = layer, channels
        self._left, self._all_have_it = 0, asyncio.Event()
        self._tasks = [asyncio.create_task(self._receive(channel)) for channel in channels]

    async def _receive(self, channel: str) -> None:
        while True:
            await self._layer.receive(channel)
            self._left -= 1
            if self._left == 0:
                self._all_have_it.set()

    async def send(self, channels: Sequence[str], sent: dict[str, Any]) -> tuple[float, float]:
        """Send to some of them from one coroutine: seconds of that, and until all have it."""
        self._left = len(channels)
        self._all_have_it.clear()
        began = time.perf_counter()
        for channel in channels:
            await self._layer.send(channel, sent)
        called = time.perf_counter() - began
        await self._all_have_it.wait()
        return called, time.perf_counter() - began

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _longest_block(seconds: float) -> float:
    """Most processor time that anything else has had the loop for at a time."""
    longest, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.thread_time()
        await asyncio.sleep(0.002)
        longest = max(longest, time.thread_time() - before)
    return longest


async def _crowd(
    bench: Bench, number: int, turns: int, seconds: float, mine: int, of: int
) -> dict[str, Any]:
    layer, sent = bench.open(), message()
    found: dict[str, list[float]] = {"send": [], "deliver": [], "ring": []}
    clients = _Clients(layer, [await layer.new_channel() for _ in range(number)])
    for turn, whose in itertools.product(range(1 + turns), range(of)):
        await bench.sync()
        if turn == 1 and whose == 0:
            # As a server does: what lasts is not collected again with every few messages.
            gc.collect()
            gc.freeze()
        if whose == mine:
            times = await clients.send(clients.channels, sent)
            for name, took in zip(("send", "deliver"), times, strict=True):
                if turn:  # The first is a warm-up.
                    found[name].append(took / number)
    idle = block = 0.0
    for whose in range(of):
        await bench.sync()
        if whose == mine:
            began, before = time.monotonic(), time.process_time()
            await asyncio.sleep(seconds)
            idle = (time.process_time() - before) / (time.monotonic() - began)
            block = await _longest_block(seconds)
    await clients.end()

    clients = _Clients(layer, [f"work.{each}" for each in range(number)])
    # Evenly spread, and each known to the layer as waited for.
    some = clients.channels[:: max(1, number // _RINGS)]
    await asyncio.sleep(0)
    for turn, whose in itertools.product(range(1 + turns), range(of)):
        await bench.sync()
        end = time.monotonic() + _SIGNAL_SECONDS
        each_took: list[float] = []
        for channel in some if whose == mine else ():
            each_took.append((await clients.send([channel], sent))[1])
            if time.monotonic() > end:
                break
        if turn and each_took:
            found["ring"].append(statistics.median(each_took))
    await bench.sync()
    return {**found, "idle": idle, "block": block}


def _compared(results: list[Any]) -> Answer:
    first, this = results
    answer: Answer = {}
    for key, name in (("send", "send"), ("deliver", "send and receive"), ("ring", "ring")):
        answer[f"{name} µs"] = micro(statistics.median(this[key]))
        ratios = [mine / its for mine, its in zip(this[key], first[key], strict=True)]
        answer[name + DEARER] = statistics.median(ratios)
    answer["idle CPU %"] = 100 * this["idle"]
    answer["longest block ms"] = 1000 * this["block"]
    return answer


def _cases(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    numbers = settings.sizes((1_000, 10_000, 50_000), (100, 1_000))
    cases: list[Case] = []
    for peer in peers:
        if numbers[-1] > peer.most_waiting:
            continue
        roles = [
            Role(
                _crowd,
                {
                    "number": number,
                    "turns": 2 if settings.quick else 5,
                    # Several of the regular looks, which come once a second.
                    "seconds": 1.5 if settings.quick else 5.0,
                    "mine": mine,
                    "of": len(numbers),
                },
            )
            for mine, number in enumerate(numbers)
        ]
        sizes = tuple(f"{number:,} clients" for number in numbers)
        cases.append(Comparison(peer.name, "clients", tuple(roles), _compared, peer, 600, sizes))
    return cases


QUESTIONS = [
    Question(
        "crowds",
        "Many clients wait in one process: what does a message to one of them take, sent to all"
        " from one coroutine or rung for among as many ordinary channels, and what does waiting"
        " itself take?",
        _cases,
    ),
]
