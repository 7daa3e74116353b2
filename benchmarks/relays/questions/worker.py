"""What a relay does to the web worker in whose process it lives, beside one of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from ...measure import latencies
from ...messages import message
from ...peers import Peer
from ...processes import Bench, Role
from ...questions.base import Answer, Case, Question, micro
from ...settings import Settings
from ..machines import PROCESS, cpu_of, joined, ours
from ..members import Members, ticks

#: Turns of a loop of the handler, in Python alone: about 2 ms.
_TURNS = 40_000
#: Seconds between two requests.
_PAUSE = 0.002
_FAR = ours(PROCESS, "")
#: How much longer than usual it is measured: of a thousand requests p99 is the tenth.
_LONGER = 8


async def _worker(bench: Bench) -> dict[str, Any]:
    """Answer at once what has the number 0, else after some work; the machine's relay is here."""
    layer: Any = bench.open(machine=0, relays=True)
    mine = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(mine))
    await joined(layer, 1)
    client = (await bench.sync(mine))[1]

    async def answer() -> None:
        received = await waiting
        while True:
            if received["number"]:
                _handle()
            await layer.send(client, received)
            received = await layer.receive(mine)

    answering = asyncio.create_task(answer())
    await bench.sync()
    before, began = cpu_of(layer), time.monotonic()
    await bench.sync()
    share = (cpu_of(layer) - before) / (time.monotonic() - began)
    await bench.sync(0)
    # The relay may be here: what is on its way shall arrive.
    await bench.sync()
    answering.cancel()
    return {"share": share}


def _handle() -> int:
    value = 1
    for turn in range(_TURNS):
        value = (value * 31 + turn) & 0xFFFF
    return value


async def _client(bench: Bench, seconds: float) -> dict[str, Any]:
    """Ask the worker from another process of its machine, with and without work by turns."""
    layer: Any = bench.open(machine=0)
    mine = await layer.new_channel()
    worker = (await bench.sync(mine))[0]
    sent = message()
    times: list[list[float]] = [[], []]
    clock = time.perf_counter
    await bench.sync()
    warm, end = clock() + seconds / 5, clock() + seconds * 1.2
    while (now := clock()) < end:
        for number in (0, 1):
            began = clock()
            await layer.send(worker, {**sent, "number": number})
            await layer.receive(mine)
            if now > warm:
                times[number].append(clock() - began)
            await asyncio.sleep(_PAUSE)
    await bench.sync()
    await bench.sync(0)
    await bench.sync()
    return {"at once": latencies(times[0]), "worked": latencies(times[1])}


async def _stream(bench: Bench, machine: int, rate: int) -> dict[str, Any]:
    """Broadcast to a member on the other machine, and be one, on a machine of that number."""
    # The far machine is the same, whatever relays on the worker's.
    far = machine == 1
    layer: Any = bench.open_of(_FAR, machine=1, relays=True) if far else bench.open(machine=0)
    channel = await layer.new_channel()
    await layer.group_add(f"machine{machine}", channel)
    here = Members(layer, [channel])
    await joined(layer, 1, groups=1)
    await bench.sync()
    stop = asyncio.Event()
    saying = asyncio.create_task(_say(layer, f"machine{1 - machine}", rate, stop))
    await bench.sync()
    await bench.sync()
    stop.set()
    said = sum((await bench.sync(await saying))[2:])
    here.want_in_all(said - saying.result())
    await here.have_it()
    await bench.sync()
    here.end()
    return {"said": said, "missing": said - saying.result() - here.count}


async def _say(layer: Any, group: str, rate: int, stop: asyncio.Event) -> int:
    said = 0
    if rate:
        async for _ in ticks(rate):
            if stop.is_set():
                break
            await layer.group_send(group, message())
            said += 1
    return said


def _answered(results: list[Any]) -> Answer:
    worker, client, *streams = results
    answer: Answer = {}
    for how in ("at once", "worked"):
        answer |= {f"{how} {key} µs": micro(client[how][key]) for key in ("p50", "p99")}
    answer["CPU % of worker and relay"] = 100 * worker["share"]
    answer["not come"] = sum(each["missing"] for each in streams)
    return answer


def _cases(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    seconds = settings.seconds * (1 if settings.quick else _LONGER)
    return [
        Case(
            peer.name,
            f"{rate:,} frames/s each way" if rate else "no frames",
            (
                Role(_worker),
                Role(_client, {"seconds": seconds}),
                *(Role(_stream, {"machine": machine, "rate": rate}) for machine in (0, 1)),
            ),
            _answered,
            peer,
        )
        for rate in settings.sizes((0, 100, 500, 1_000), (100,))
        for peer in peers
        if peer.name.startswith("asgi_ipc")
    ]


QUESTIONS = [
    Question(
        "worker",
        "A web worker answers another process of its machine at once, and after 2 ms of work in"
        " Python, while the machine's relay, a thread of the worker or a process, carries messages"
        " between two other processes, one here and one on another machine: how long does an answer"
        " take?",
        _cases,
    )
]
