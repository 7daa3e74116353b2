"""How many messages pass: from senders to receivers, and with many processes on one store."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..messages import USUAL, message
from ..peers import Peer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Answer, Case, Question

#: Seconds between looks at how far the receivers are.
_LOOK = 0.05
#: Seconds without a message after which the rest is taken to be lost.
_LOST = 2.0
#: Seconds for which receivers may go on after the last was sent.
_LONGEST = 20.0
#: Seconds for receivers to get ready, by which a layer that must subscribe has done so.
_READY = 0.3
#: Messages that a sender sends before it lets its event loop turn.
_TURN = 50


async def _drained(bench: Bench, sent: int, got: Callable[[], int]) -> None:
    """Called by all at the end: returns when what was sent has come, or does not come."""
    total = sum(await bench.sync(sent))
    before, idle, looks = -1, 0, 0
    while True:
        # All are told the same numbers, and so come to the same end.
        now = sum(await bench.sync(got()))
        idle = idle + 1 if now == before else 0
        if now >= total or idle * _LOOK > _LOST or looks * _LOOK > _LONGEST:
            return
        before, looks = now, looks + 1
        await asyncio.sleep(_LOOK)


async def _send(bench: Bench, seconds: float) -> dict[str, Any]:
    layer = bench.open()
    sent, count = message(), 0
    await bench.sync()
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        for _ in range(_TURN):
            await layer.send("work", sent)
        count += _TURN
        await asyncio.sleep(0)
    await _drained(bench, count, lambda: 0)
    return {"started": started, "sent": count}


async def _receive(bench: Bench) -> dict[str, Any]:
    layer = bench.open()
    count, last = 0, 0.0

    async def receive() -> None:
        nonlocal count, last
        while True:
            await layer.receive("work")
            count += 1
            last = time.monotonic()

    task = asyncio.create_task(receive())
    await asyncio.sleep(_READY)
    await bench.sync()
    await _drained(bench, 0, lambda: count)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return {"got": count, "last": last}


def _flow(results: list[Any]) -> Answer:
    sent = sum(each.get("sent", 0) for each in results)
    got = sum(each.get("got", 0) for each in results)
    started = min(each["started"] for each in results if "started" in each)
    last = max(each.get("last", 0.0) for each in results)
    return {
        "messages/s": min(got, sent) / (last - started),
        "not come": max(0, sent - got),
        "twice": max(0, got - sent),
    }


def _one_way(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    return [
        Case(
            peer.name,
            f"{senders} to {receivers}",
            (Role(_send, {"seconds": settings.seconds}),) * senders + (Role(_receive),) * receivers,
            _flow,
            peer,
            120,
        )
        for senders, receivers in ((1, 1), (4, 1), (1, 4))
        for peer in peers
        if peer.crosses_processes and (peer.shares_work or receivers == 1)
    ]


async def _busy(bench: Bench, seconds: float) -> dict[str, Any]:
    layer = bench.open()
    # Not on a channel of its own, where what we send to ourselves passes by the store; but a
    # layer that loses what nobody listens for can do no other.
    channel = f"work.{os.getpid()}" if bench.peer.queues else await layer.new_channel()
    sent = message(USUAL)

    async def there_and_back() -> None:
        await layer.send(channel, sent)
        await layer.receive(channel)

    await there_and_back()
    await bench.sync()
    count, started = 0, time.monotonic()
    while time.monotonic() < started + seconds:
        await there_and_back()
        count += 1
    return {"rate": count / (time.monotonic() - started)}


def _share(results: list[Any]) -> Answer:
    rates = [each["rate"] for each in results]
    return {"pairs/s": sum(rates), "slowest/fastest": min(rates) / max(rates)}


def _contention(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    return [
        Case(
            peer.name,
            f"{count} process" + "es" * (count > 1),
            (Role(_busy, {"seconds": settings.seconds}),) * count,
            _share,
            peer,
        )
        for count in settings.sizes((1, 2, 4, 8), (1, 8))
        for peer in peers
        if peer.crosses_processes
    ]


QUESTIONS = [
    Question("oneway", "How many messages a second pass through one channel?", _one_way),
    Question(
        "contention",
        "Many processes work on one store at once: how much do all get done, how evenly?",
        _contention,
    ),
]
