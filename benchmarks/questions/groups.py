"""Groups: broadcasts to members in two processes, joining and leaving."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..measure import seconds_by_turns
from ..messages import message
from ..peers import Peer
from ..peers.base import Layer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Answer, Case, Question, micro

#: Processes that the members are in.
_PROCESSES = 2
#: Seconds without a message after which the rest is taken to be lost.
_LOST = 10.0
#: Broadcasts one right after the other, for deliveries a second.
_BURST = 10
#: Bursts, of which the median one counts.
_BURSTS = 9
_MOST_SINGLE = 50
#: Broadcasts without a pause, as of a consumer that passes a stream on.
_MANY = 20
#: Members in each of many processes.
_EACH = 5


async def _announce(bench: Bench, seconds: float) -> dict[str, Any]:
    layer = bench.open()
    sent = message()
    calls, until_last = [], []
    await bench.sync()
    # The first one makes connections and plans.
    for number in range(_MOST_SINGLE + 1):
        began, called, ended = await _broadcast(bench, layer, sent, 1)
        if number:
            calls.append(called - began)
            until_last.append(ended - began)
            if sum(until_last) > seconds:
                break
    bursts = []
    for _ in range(_BURSTS):
        began, _, ended = await _broadcast(bench, layer, sent, _BURST)
        bursts.append(ended - began)
        if sum(bursts) > seconds:
            break
    await bench.sync({"times": 0})
    return {
        "call": statistics.median(calls),
        "last": statistics.median(until_last),
        "burst": statistics.median(bursts),
    }


async def _broadcast(
    bench: Bench, layer: Layer, sent: dict[str, Any], times: int
) -> tuple[float, float, float]:
    await bench.sync({"times": times})
    # Now the listeners know what to wait for.
    await bench.sync({})
    began = time.monotonic()
    for _ in range(times):
        await layer.group_send("room", sent)
    called = time.monotonic()
    reports = await bench.sync({"last": 0.0})
    return began, called, max(report["last"] for report in reports)


class _Members:
    """The members of one process: each waits for its messages, all count together."""

    def __init__(self, layer: Layer, channels: list[str]) -> None:
        self._layer = layer
        self._count = self._wanted = 0
        self._complete = asyncio.Event()
        self.last = 0.0
        self.missing = 0
        self._tasks = [asyncio.create_task(self._listen(channel)) for channel in channels]

    async def _listen(self, channel: str) -> None:
        receive = self._layer.receive
        while True:
            await receive(channel)
            self._count += 1
            if self._count == self._wanted:
                self.last = time.monotonic()
                self._complete.set()

    def want(self, number: int) -> None:
        """From now on count to that."""
        self._count, self._wanted = 0, number
        self._complete.clear()

    async def have_it(self) -> None:
        """Wait for what is wanted, as long as anything comes."""
        before = -1
        while self._count != before and not self._complete.is_set():
            before = self._count
            try:
                await asyncio.wait_for(self._complete.wait(), _LOST)
            except asyncio.TimeoutError:
                self.last = time.monotonic()
        self.missing += max(0, self._wanted - self._count)

    def end(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()


async def _listen(bench: Bench, members: int) -> dict[str, Any]:
    layer = bench.open()
    channels = [await layer.new_channel() for _ in range(members)]
    for channel in channels:
        await layer.group_add("room", channel)
    here = _Members(layer, channels)
    await asyncio.sleep(0.1)
    await bench.sync()
    while True:
        times = max(each["times"] for each in await bench.sync({"times": 0}))
        if not times:
            break
        here.want(members * times)
        await bench.sync({})
        await here.have_it()
        await bench.sync({"last": here.last})
    here.end()
    return {"missing": here.missing}


def _delivered(members: int, results: list[Any]) -> Answer:
    announced = results[0]
    return {
        "call µs": micro(announced["call"]),
        "until the last µs": micro(announced["last"]),
        "deliveries/s": members * _BURST / announced["burst"],
        "not come": sum(each["missing"] for each in results[1:]),
    }


def _broadcasts(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    return [
        Case(
            peer.name,
            f"{members:,} members",
            (
                Role(_announce, {"seconds": settings.seconds}),
                *(Role(_listen, {"members": members // _PROCESSES}),) * _PROCESSES,
            ),
            partial(_delivered, members),
            peer,
            120,
        )
        for members in settings.sizes((10, 100, 1_000, 10_000), (10, 1_000))
        for peer in peers
        if peer.crosses_processes and members <= peer.most_members
    ]


async def _add_and_discard(bench: Bench, seconds: float) -> dict[str, Any]:
    layer = bench.open()
    for _ in range(100):
        await layer.group_add("room", await layer.new_channel())
    channels = [await layer.new_channel() for _ in range(20)]
    to_add, to_discard = itertools.cycle(channels), itertools.cycle(channels)
    return await seconds_by_turns(
        {
            "add": lambda: layer.group_add("room", next(to_add)),
            "discard": lambda: layer.group_discard("room", next(to_discard)),
        },
        seconds,
        len(channels),
    )


def _memberships(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    def answer(results: list[Any]) -> Answer:
        return {
            "group_add µs": micro(results[0]["add"]),
            "group_discard µs": micro(results[0]["discard"]),
        }

    role = Role(_add_and_discard, {"seconds": settings.seconds})
    return [Case(peer.name, "", (role,), answer, peer) for peer in peers]


async def _connect(bench: Bench, joins: int) -> dict[str, Any]:
    layer = bench.open()
    await layer.group_add("other", await layer.new_channel())
    await bench.sync()
    began = time.monotonic()
    for _ in range(joins):
        await layer.group_add("room", await layer.new_channel())
    return {"began": began, "ended": time.monotonic()}


def _joined(joins: int, results: list[Any]) -> Answer:
    took = max(each["ended"] for each in results) - min(each["began"] for each in results)
    return {"all µs": micro(took), "joins/s": joins / took}


def _storms(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    cases = []
    for joins in settings.sizes((10_000,), (1_000,)):
        for peer in peers:
            processes = _PROCESSES if peer.crosses_processes else 1
            roles = (Role(_connect, {"joins": joins // processes}),) * processes
            answer = partial(_joined, joins)
            cases.append(Case(peer.name, f"{joins:,} joins", roles, answer, peer, 180))
    return cases


async def _back_to_back(bench: Bench, seconds: float) -> dict[str, Any]:
    """Many broadcasts without a pause, which wake receivers that take the sender's processor."""
    layer, sent, calls, until_last = bench.open(), message(), [], []
    await bench.sync()
    for number in range(_BURSTS + 1):
        began, called, ended = await _broadcast(bench, layer, sent, _MANY)
        if number:
            calls.append((called - began) / _MANY)
            until_last.append(ended - began)
            if sum(until_last) > seconds:
                break
    await bench.sync({"times": 0})
    return {"call": statistics.median(calls), "last": statistics.median(until_last)}


def _called(results: list[Any]) -> Answer:
    return {
        "call µs": micro(results[0]["call"]),
        "until the last µs": micro(results[0]["last"]),
        "not come": sum(each["missing"] for each in results[1:]),
    }


def _many_broadcasts(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    members = settings.sizes((1_000,), (100,))[0]
    listen = Role(_listen, {"members": members // _PROCESSES})
    roles = (Role(_back_to_back, {"seconds": settings.seconds}), *(listen,) * _PROCESSES)
    return [
        Case(peer.name, f"{_MANY} to {members:,} members", roles, _called, peer, 120)
        for peer in peers
        if peer.crosses_processes and members <= peer.most_members
    ]


def _wide_broadcasts(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    announce = Role(_announce, {"seconds": settings.seconds})
    return [
        Case(
            peer.name,
            f"{processes} processes",
            (announce, *(Role(_listen, {"members": _EACH}),) * processes),
            _called,
            peer,
            180,
        )
        for processes in settings.sizes((2, 32, 64), (2, 4))
        for peer in peers
        if peer.crosses_processes
    ]


QUESTIONS = [
    Question(
        "broadcast",
        f"A message to a group whose members are in {_PROCESSES} other processes: how long does"
        " the call take, how long until the last has it, how many deliveries a second?",
        _broadcasts,
    ),
    Question(
        "backtoback",
        f"{_MANY} such messages without a pause: how long does a call take, how long until the"
        " last member has the last of them?",
        _many_broadcasts,
    ),
    Question(
        "wide",
        f"A message to a group with {_EACH} members in each of many processes: how long does the"
        " call take, how long until the last has it?",
        _wide_broadcasts,
    ),
    Question("membership", "How long do group_add and group_discard take?", _memberships),
    Question(
        "storm",
        f"{_PROCESSES} processes whose clients all connect at once (one where the layer has"
        " but one): how long until all have joined?",
        _storms,
    ),
]
