"""What a layer takes besides time: memory, CPU while idle; and what starting it takes."""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgpack

from ..messages import message
from ..peers import Peer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Answer, Case, Question, first_as

_MIB = 1024 * 1024


async def _memory(bench: Bench, messages: int, members: int) -> dict[str, Any]:
    layer, used = bench.open(), bench.peer.used
    assert used is not None
    sent = message()
    # The first of each has what is needed but once made.
    await layer.send("work", sent)
    await layer.group_add("room", await layer.new_channel())
    before = used(bench.place, layer)
    for _ in range(messages):
        await layer.send("work", sent)
    between = used(bench.place, layer)
    for _ in range(members):
        # Names of other processes, as most members of a group are.
        await layer.group_add("room", f"specific.{secrets.token_hex(16)}!{secrets.token_hex(16)}")
    return {
        "message": (between - before) / messages - len(msgpack.packb(sent)),
        "membership": (used(bench.place, layer) - between) / members,
    }


def _memories(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    def answer(results: list[Any]) -> Answer:
        found = results[0]
        return {
            "bytes beside a message": found["message"],
            "bytes a membership": found["membership"],
            "memberships/MiB": _MIB / max(found["membership"], 1),
        }

    role = Role(_memory, {"messages": 5_000, "members": 5_000})
    return [Case(p.name, "", (role,), answer, p, 120) for p in peers if p.used is not None]


async def _keep(bench: Bench) -> dict[str, Any]:
    layer = bench.open()
    channel = await layer.new_channel()
    await layer.send(channel, message())
    await layer.receive(channel)
    await bench.sync()
    await bench.sync()
    return {}


async def _attach(bench: Bench) -> dict[str, Any]:
    exec(bench.peer.imports, {})
    sent = message()
    await bench.sync()
    began = time.perf_counter()
    layer = bench.open()
    channel = await layer.new_channel()
    await layer.send(channel, sent)
    await layer.receive(channel)
    took = time.perf_counter() - began
    await bench.sync()
    return {"each": took}


def _attaching(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    return [
        Case(peer.name, "", (Role(_attach), Role(_keep)), first_as("first message"), peer)
        for peer in peers
        if peer.crosses_processes
    ]


def _import(bench: Bench, times: int) -> dict[str, Any]:
    program = (
        f"import time; began = time.perf_counter(); {bench.peer.imports};"
        " print(time.perf_counter() - began)"
    )
    # With byte code of its own, for all alike, whatever the environment says.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bench.place.directory}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    took = []
    for _ in range(times + 1):
        command = [sys.executable, "-c", program]
        told = subprocess.run(
            command, capture_output=True, check=True, text=True, env=environment
        ).stdout
        took.append(float(told))
    # The first wrote the byte code.
    return {"each": statistics.median(took[1:])}


def _importing(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    role = Role(_import, {"times": 3})
    return [Case(peer.name, "", (role,), first_as("import"), peer) for peer in peers]


async def _wait(bench: Bench, seconds: float) -> dict[str, Any]:
    layer = bench.open()
    tasks = [
        asyncio.create_task(layer.receive(channel))
        for channel in ("work", *[await layer.new_channel() for _ in range(10)])
    ]
    await asyncio.sleep(0.5)
    began, before = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    spent, took = time.process_time() - before, time.monotonic() - began
    for task in tasks:
        task.cancel()
    return {"share": spent / took}


def _idle(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    def answer(results: list[Any]) -> Answer:
        return {"CPU %": 100 * float(results[0]["share"])}

    role = Role(_wait, {"seconds": 2.0 if settings.quick else 5.0})
    return [Case(peer.name, "", (role,), answer, peer) for peer in peers]


QUESTIONS = [
    Question("memory", "How much memory do a message and a membership take?", _memories),
    Question(
        "attach",
        "A process opens a store that another uses: how long until its first message is there?",
        _attaching,
    ),
    Question("import", "How long does it take to import?", _importing),
    Question("idle", "How much CPU does a process use that waits on 11 channels?", _idle),
]
