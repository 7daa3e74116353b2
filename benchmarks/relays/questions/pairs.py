"""Messages between two machines and within one, beside those of layers that pass a server."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from ...measure import latencies
from ...messages import message
from ...peers import Peer
from ...processes import Bench, Role
from ...questions.base import Answer, Case, Question, micro, quantiles
from ...settings import Settings
from ..machines import ALONE, cpu_of, joined, ours, server_use
from ..members import Members

#: Pairs, and round trips, until it is the other layer's turn.
_PAIRS, _TURN = 50, 20
#: Seconds between two broadcasts whose CPU is measured.
_PACE = 0.01


async def _ask(bench: Bench, seconds: float) -> dict[str, Any]:
    layer: Any = bench.open(machine=0, relays=True)
    mine = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(mine))
    await joined(layer, 1)
    other = (await bench.sync(mine))[1]
    sent, times = message(), []
    clock = time.perf_counter
    warm, end = clock() + seconds / 5, clock() + seconds * 1.2
    while True:
        started = clock()
        await layer.send(other, sent)
        await (waiting if not waiting.done() else layer.receive(mine))
        now = clock()
        if now > warm:
            times.append(now - started)
        if now > end and times:
            break
    await layer.send(other, {**sent, "number": 1})
    await bench.sync()
    return latencies(times)


async def _reply(bench: Bench) -> dict[str, Any]:
    layer: Any = bench.open(machine=1, relays=True)
    mine = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(mine))
    await joined(layer, 1)
    other = (await bench.sync(mine))[0]
    received = await waiting
    while not received["number"]:
        await layer.send(other, received)
        received = await layer.receive(mine)
    await bench.sync()
    return {}


def _between(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    roles = (Role(_ask, {"seconds": settings.seconds}), Role(_reply))
    return [Case(peer.name, "", roles, quantiles, peer) for peer in peers]


async def _announce(bench: Bench, singles: int, paced: int) -> dict[str, Any]:
    """Broadcast from a process of the first machine that has no member."""
    layer: Any = bench.open(machine=0)
    sent, calls, until_last, missing = message(), [], [], 0
    await bench.sync()
    clock = time.monotonic
    # The first ones make connections and plans.
    for number in range(-2, singles):
        await bench.sync(1)
        await bench.sync()  # Now the members know what to wait for.
        began = clock()
        await layer.group_send("room", sent)
        called = clock()
        reports = [each for each in await bench.sync() if each]
        if number >= 0:
            calls.append(called - began)
            until_last.append(max(each["last"] for each in reports) - began)
            missing += sum(each["missing"] for each in reports)
    await bench.sync(paced)
    await bench.sync()
    own, server = cpu_of(layer), server_use(bench).cpu
    for _ in range(paced):
        await layer.group_send("room", sent)
        await asyncio.sleep(_PACE)
    reports = [each for each in await bench.sync() if each]
    await bench.sync(0)
    return {
        "call": statistics.median(calls),
        "last": statistics.median(until_last),
        "missing": missing + sum(each["missing"] for each in reports),
        "own": cpu_of(layer) - own,
        "members": sum(each["spent"] for each in reports),
        "server": server_use(bench).cpu - server,
    }


async def _listen(bench: Bench, machine: int, members: int) -> dict[str, Any]:
    layer: Any = bench.open(machine=machine, relays=True)
    channels = [await layer.new_channel() for _ in range(members)]
    for channel in channels:
        await layer.group_add("room", channel)
    here = Members(layer, channels)
    await joined(layer, 1, groups=1)
    await asyncio.sleep(0.2)
    await bench.sync()
    while True:
        # The announcer is the first.
        times = (await bench.sync())[0]
        if not times:
            break
        before = cpu_of(layer)
        here.want(members * times)
        await bench.sync()
        await here.have_it()
        missing = members * times - here.count
        await bench.sync({"last": here.last, "missing": missing, "spent": cpu_of(layer) - before})
    here.end()
    return {}


def _delivered(deliveries: int, results: list[Any]) -> Answer:
    told = results[0]
    each = 10_000 / deliveries
    return {
        "call µs": micro(told["call"]),
        "until the last µs": micro(told["last"]),
        "CPU ms per 10,000": 1e3 * each * (told["own"] + told["members"] + told["server"]),
        "of it the server": 1e3 * each * told["server"],
        "not come": told["missing"],
    }


def _broadcasts(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    singles, paced = (5, 10) if settings.quick else (40, 100)
    return [
        Case(
            peer.name,
            f"{members:,} members",
            (
                Role(_announce, {"singles": singles, "paced": paced}),
                *(Role(_listen, {"machine": n, "members": members // 2}) for n in (0, 1)),
            ),
            partial(_delivered, members * paced),
            peer,
            90,
        )
        for members in settings.sizes((10, 100, 1_000), (100,))
        for peer in peers
    ]


async def _near(bench: Bench, seconds: float, members: int) -> dict[str, Any]:
    """By turns with and without a relay, so that what else runs here disturbs both alike."""
    layers: dict[str, Any] = {"relayed": bench.open(machine=0), "alone": _alone(bench)}
    mine = {how: await layer.new_channel() for how, layer in layers.items()}
    others = (await bench.sync(mine))[1]
    sent, clock = message(), time.perf_counter
    times: dict[tuple[str, str], list[float]] = {}
    end, turn = clock() + seconds * 3, 0
    while clock() < end:
        turn += 1
        for how, layer in sorted(layers.items(), reverse=bool(turn % 2)):
            channel, other = mine[how], others[how]
            began = clock()
            for _ in range(_PAIRS):
                await layer.send(channel, sent)
                await layer.receive(channel)
            times.setdefault(("pair", how), []).append((clock() - began) / _PAIRS)
            for number in range(_TURN):
                began = clock()
                await layer.send(other, sent)
                await layer.receive(channel)
                if number > 1:
                    times.setdefault(("round trip", how), []).append(clock() - began)
            for _ in range(3):
                began, spent = clock(), time.thread_time()
                await layer.group_send("room", sent)
                spent, took = time.thread_time() - spent, clock() - began
                times.setdefault(("broadcast", how), []).append(took)
                # Without the time for which processes that it wakes take this one's processor.
                times.setdefault(("CPU of it", how), []).append(spent)
                # The members have it before the next.
                await asyncio.sleep(0.01)
    await bench.sync()
    return {f"{what} {how}": statistics.median(each) for (what, how), each in times.items()}


async def _beside(bench: Bench, seconds: float, members: int) -> dict[str, Any]:
    """Members, and a channel that answers, on both layers; and the machine's relay."""
    layers: dict[str, Any] = {
        "relayed": bench.open(machine=0, relays=True),
        "alone": _alone(bench),
    }
    mine, all_members, tasks = {}, [], []
    for how, layer in layers.items():
        mine[how] = await layer.new_channel()
        channels = [await layer.new_channel() for _ in range(members)]
        for channel in channels:
            await layer.group_add("room", channel)
        all_members.append(Members(layer, channels))
    await joined(layers["relayed"], 0, groups=1)
    others = (await bench.sync(mine))[0]

    async def answer(how: str) -> None:
        layer = layers[how]
        while True:
            await layer.send(others[how], await layer.receive(mine[how]))

    tasks = [asyncio.create_task(answer(how)) for how in layers]
    await bench.sync()
    for task in tasks:
        task.cancel()
    for each in all_members:
        each.end()
    return {}


def _alone(bench: Bench) -> Any:
    """A layer without relays, on a store of its own."""
    return bench.open_of(ours(ALONE, ""))


def _compared(results: list[Any]) -> Answer:
    found = results[0]
    answer: Answer = {}
    for what in ("pair", "round trip", "broadcast", "CPU of it"):
        relayed, alone = found[f"{what} relayed"], found[f"{what} alone"]
        answer |= {f"{what} µs": micro(relayed), f"{what}, x": relayed / alone}
    return answer


def _locals(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    params = {"seconds": settings.seconds, "members": settings.sizes((1_000,), (100,))[0]}
    roles = (Role(_near, params), Role(_beside, params))
    return [
        Case(peer.name, "", roles, _compared, peer)
        for peer in peers
        if peer.name.startswith("asgi_ipc")
    ]


QUESTIONS = [
    Question("between", "How long until a message to another machine is answered?", _between),
    Question(
        "everywhere",
        "A message to a group whose members are in a process on each of two machines: how long does"
        " the call take, how long until the last has it, and how much CPU do all processes and the"
        " server take for 10,000 deliveries?",
        _broadcasts,
    ),
    Question(
        "local",
        "Within one machine: how long do a pair, a round trip and the call of a broadcast to 1,000"
        " members (and its CPU) take with a relay, and times (x) what they take without?",
        _locals,
    ),
]
