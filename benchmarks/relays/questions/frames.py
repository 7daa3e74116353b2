"""How many messages a second pass from one machine to another, and the CPU that each takes."""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from collections.abc import Sequence
from typing import Any

from ...messages import USUAL, message
from ...peers import Peer
from ...place import Place
from ...processes import Bench, Role
from ...questions.base import Answer, Case, Question, micro
from ...settings import Settings
from ..machines import Relayed, cpu_of, joined, relay_cpu_of, server_use

#: Messages on their way at most, so that none is lost, whatever is the slowest.
_WINDOW = 1_000
#: Messages between two turns of the event loop, and seconds until a look whether there is room.
_BATCH, _LOOK = 20, 0.0005
#: Seconds without a message after which the rest is taken to be lost.
_LOST = 5.0
#: How much longer than usual it is measured.
_LONGER = 4


class _Count:
    """How many messages have come, in memory that both processes see."""

    def __init__(self, place: Place) -> None:
        descriptor = os.open(os.path.join(place.directory, "come"), os.O_RDWR | os.O_CREAT)
        os.ftruncate(descriptor, 8)
        self._value = memoryview(mmap.mmap(descriptor, 8)).cast("Q")
        os.close(descriptor)

    @property
    def value(self) -> int:
        return self._value[0]

    def add(self) -> None:
        self._value[0] += 1


async def _send(bench: Bench, seconds: float, size: int) -> dict[str, Any]:
    layer: Any = bench.open(machine=0, relays=True)
    # With a receiver a process may relay.
    waiting = asyncio.create_task(layer.receive(await layer.new_channel()))
    await joined(layer, 1)
    other = (await bench.sync())[1]
    come, made, sent = _Count(bench.place), message(size), 0
    clock = time.monotonic

    async def send(seconds: float) -> float:
        """Send as fast as it goes; how long it took until the last came."""
        nonlocal sent
        began = clock()
        while clock() < began + seconds:
            if sent - come.value > _WINDOW - _BATCH:
                await asyncio.sleep(_LOOK)
                continue
            for _ in range(_BATCH):
                await layer.send(other, made)
            sent += _BATCH
            await asyncio.sleep(0)
        last, seen = clock(), come.value
        while seen < sent and clock() < last + _LOST:
            await asyncio.sleep(_LOOK)
            if come.value > seen:
                last, seen = clock(), come.value
        return last - began

    await send(seconds / 5)
    warm = sent
    await bench.sync()
    server, before = server_use(bench).cpu, _spent(layer)
    took = await send(seconds)
    told = {**_less(_spent(layer), before), "server": server_use(bench).cpu - server}
    await bench.sync()
    counts = await _counts(bench, layer, "frames_out", sent)
    waiting.cancel()
    missing = sent - come.value
    return {**told, **counts, "sent": sent - warm, "took": took, "missing": missing, "all": sent}


async def _hear(bench: Bench) -> dict[str, Any]:
    layer: Any = bench.open(machine=1, relays=True)
    come, mine = _Count(bench.place), await layer.new_channel()

    async def hear() -> None:
        while True:
            await layer.receive(mine)
            come.add()

    hearing = asyncio.create_task(hear())
    await joined(layer, 1)
    await bench.sync(mine)
    await bench.sync()
    before = _spent(layer)
    await bench.sync()
    told = _less(_spent(layer), before)
    counts = await _counts(bench, layer, "frames_in", come.value)
    hearing.cancel()
    return {**told, **counts}


def _spent(layer: Any) -> dict[str, float]:
    relay = relay_cpu_of(layer)
    return {"machine": cpu_of(layer), **({} if relay is None else {"relay": relay})}


def _less(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}


async def _counts(bench: Bench, layer: Any, name: str, least: int) -> dict[str, Any]:
    """What the relay says that it has passed on, and that was lost."""
    if not isinstance(layer, Relayed):
        return {}
    counts = await layer.counts(name, least)
    dropped = sum(count for name, count in counts.items() if name.startswith("dropped_"))
    return {"frames": counts.get(name, 0), "lost": dropped + counts.get("gaps", 0)}


def _carried(results: list[Any]) -> Answer:
    out, into = results
    sent = out["sent"]
    answer: Answer = {"messages/s": sent / out["took"]}
    if "frames" in out:
        answer["frames out/s"] = out["frames"] / out["all"] * sent / out["took"]
    for what in ("relay", "machine"):
        for side, told in (("out", out), ("in", into)):
            if what in told:
                answer[f"{what} {side}, CPU µs each"] = micro(told[what] / sent)
    answer["server, CPU µs each"] = micro(out["server"] / sent)
    # What the relays say that they have lost, and what has not come: neither hides the other.
    answer["not come"] = out["missing"] + out.get("lost", 0) + into.get("lost", 0)
    return answer


def _cases(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    seconds = settings.seconds * (1 if settings.quick else _LONGER)
    return [
        Case(
            peer.name,
            f"{size:,} bytes",
            (Role(_send, {"seconds": seconds, "size": size}), Role(_hear)),
            _carried,
            peer,
        )
        for size in settings.sizes((USUAL, 1_000), (USUAL,))
        for peer in peers
    ]


QUESTIONS = [
    Question(
        "frames",
        "From a process of one machine to a process of another, as fast as nothing is lost: how"
        " many messages a second arrive, and how much CPU does each take of the relays, of each"
        " machine with its relay, and of the server?",
        _cases,
    )
]
