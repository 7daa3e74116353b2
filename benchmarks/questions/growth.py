"""How the cost of each operation grows with what the store holds, and with its size.

The sizes of one kind are measured in turns of a few milliseconds, each in a process of its
own, and compared turn by turn: a machine that is faster at one time than at another is as
fast for all of them.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..measure import Action, seconds_by_turns
from ..messages import message
from ..peers import Peer
from ..peers.base import Layer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Answer, Case, Comparison, Question, micro

#: What a number ends in that says how many times dearer something is than in the first size.
DEARER = " x"
_MIB = 1024 * 1024
#: Seconds of a turn.
_TURN = 0.01

#: Actions that together undo what they do, and how many of each are timed at once.
_Steps = tuple[Mapping[str, Action], int]


def _to_and_from(layer: Layer, channel: str) -> _Steps:
    sent = message()
    return {
        "send": lambda: layer.send(channel, sent),
        "receive": lambda: layer.receive(channel),
    }, 20


async def _behind_messages(bench: Bench, number: int) -> list[_Steps]:
    layer = bench.open()
    for _ in range(number):
        await layer.send("work", message())
    return [_to_and_from(layer, "work")]


async def _among_channels(bench: Bench, number: int) -> list[_Steps]:
    layer = bench.open()
    for each in range(number):
        await layer.send(f"other.{each}", message())
    return [_to_and_from(layer, "work")]


async def _among_members(bench: Bench, number: int) -> list[_Steps]:
    layer = bench.open()
    name = await layer.new_channel()
    head, _, tail = name.partition("!")
    for each in range(number):
        # As many names as a site of that size has, which makes them with new_channel().
        await layer.group_add("all", f"{head}!{each:0{len(tail)}x}")
    few = [await layer.new_channel() for _ in range(10)]
    for channel in few:
        await layer.group_add("few", channel)
    more = [await layer.new_channel() for _ in range(20)]
    to_add, to_discard = itertools.cycle(more), itertools.cycle(more)

    async def take_all() -> None:
        for channel in few:
            await layer.receive(channel)

    sent = message()
    joining: dict[str, Action] = {
        "group_add": lambda: layer.group_add("all", next(to_add)),
        "group_discard": lambda: layer.group_discard("all", next(to_discard)),
    }
    sending: dict[str, Action] = {
        "group_send to 10": lambda: layer.group_send("few", sent),
        "": take_all,
    }
    return [(joining, len(more)), (sending, 5)]


async def _in_store(bench: Bench, number: int) -> list[_Steps]:
    layer = bench.open(channel_memory=number * _MIB, group_memory=number * _MIB)
    channel, sent = await layer.new_channel(), message()

    async def there_and_back() -> None:
        await layer.send("work", sent)
        await layer.receive("work")

    joining: dict[str, Action] = {
        "group_add": lambda: layer.group_add("room", channel),
        "group_discard": lambda: layer.group_discard("room", channel),
    }
    return [({"pair": there_and_back}, 10), (joining, 1)]


async def _among_waiting(bench: Bench, number: int) -> list[_Steps]:
    layer = bench.open()
    names = [await layer.new_channel() for _ in range(number)]
    received: asyncio.Queue[None] = asyncio.Queue()

    async def receive(name: str) -> None:
        while True:
            await layer.receive(name)
            received.put_nowait(None)

    # They end with the event loop.
    _receiving.extend(asyncio.create_task(receive(name)) for name in names)
    await asyncio.sleep(0.1)
    to, sent = itertools.cycle(names), message()

    async def arrived() -> None:
        await received.get()

    return [({"send": lambda: layer.send(next(to), sent), "until received": arrived}, 20)]


_receiving: list[asyncio.Task[None]] = []


async def _by_turns(
    bench: Bench,
    prepare: Callable[[Bench, int], Awaitable[list[_Steps]]],
    number: int,
    turns: int,
    mine: int,
    of: int,
) -> dict[str, list[float]]:
    """What each action takes in each turn but the first, which is a warm-up."""
    found: dict[str, list[float]] = {}
    steps = await prepare(bench, number)
    for turn in range(1 + turns):
        for whose in range(of):
            await bench.sync()
            for actions, batch in steps if whose == mine else ():
                times = await seconds_by_turns(actions, _TURN, batch)
                for name, each in times.items():
                    if turn and name:
                        found.setdefault(name, []).append(each)
    await bench.sync()
    return found


def _compared(results: list[Any]) -> Answer:
    first, this = results
    answer = {f"{name} µs": micro(statistics.median(times)) for name, times in this.items()}
    for name, times in this.items():
        ratios = [mine / its for mine, its in zip(times, first[name], strict=True)]
        answer[name + DEARER] = statistics.median(ratios)
    return answer


def _cases(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    sizes = settings.sizes
    kinds = (
        ("messages", _behind_messages, sizes((0, 1_000, 100_000), (0, 1_000))),
        ("channels", _among_channels, sizes((10, 1_000, 50_000), (10, 1_000))),
        ("memberships", _among_members, sizes((10, 1_000, 80_000), (10, 1_000))),
        ("waiting clients", _among_waiting, sizes((1_000, 10_000, 50_000), (100, 1_000))),
        ("MiB store", _in_store, sizes((1, 100, 1024), (1, 1024))),
    )
    turns = round(settings.seconds / 2 / _TURN)
    cases: list[Case] = []
    for what, prepare, all_numbers in kinds:
        for peer in peers:
            own_question = prepare in (_in_store, _among_waiting)
            if not (peer.has_sizes if own_question else peer.queues):
                continue
            numbers = [each for each in all_numbers if each <= peer.most_prefilled]
            roles = [
                Role(
                    _by_turns,
                    {
                        "prepare": prepare,
                        "number": number,
                        "turns": turns,
                        "mine": mine,
                        "of": len(numbers),
                    },
                )
                for mine, number in enumerate(numbers)
            ]
            cases.append(
                Comparison(
                    peer.name,
                    what,
                    tuple(roles),
                    _compared,
                    peer,
                    180,
                    tuple(f"{number:,} {what}" for number in numbers),
                )
            )
    return cases


QUESTIONS = [
    Question(
        "growth",
        "Does an operation get dearer with messages queued on its channel, with other channels,"
        " with memberships in its group, with waiting clients, or with the size of the store?",
        _cases,
    ),
]
