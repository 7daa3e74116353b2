"""Sending from code without an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from ..messages import message
from ..peers import Peer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Case, Question, first_as

_BATCH = 10


def _send(bench: Bench, seconds: float) -> dict[str, Any]:
    layer = bench.open()
    send, sent = bench.peer.send_now(layer), message()
    channel = next(filter(None, bench.sync_now()), "work")
    end = time.perf_counter() + seconds / 5
    while time.perf_counter() < end:
        send(channel, sent)
    count, started = 0, time.perf_counter()
    while True:
        for _ in range(_BATCH):
            send(channel, sent)
        count += _BATCH
        elapsed = time.perf_counter() - started
        if elapsed > seconds:
            break
    bench.sync_now()
    return {"each": elapsed / count}


async def _drain(bench: Bench) -> dict[str, Any]:
    layer = bench.open()
    channel = await layer.new_channel()

    async def receive() -> None:
        while True:
            await layer.receive(channel)

    task = asyncio.create_task(receive())
    await bench.sync(channel)
    await bench.sync()
    task.cancel()
    return {}


def _cases(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    send = Role(_send, {"seconds": settings.seconds})
    return [
        Case(
            peer.name,
            "",
            (send, Role(_drain)) if peer.crosses_processes else (send,),
            first_as("send"),
            peer,
        )
        for peer in peers
    ]


QUESTIONS = [
    Question(
        "syncsend",
        "From a plain thread, with a reader in another process: how long does a send take? Layers"
        " that are only asynchronous are called with async_to_sync.",
        _cases,
    ),
]
