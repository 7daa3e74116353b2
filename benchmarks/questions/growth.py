"""How the cost of each operation grows with what the store holds, and with its size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ..measure import seconds_each, seconds_of_two
from ..messages import message
from ..peers import Peer
from ..peers.base import Layer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Answer, Case, Question, micro

_MIB = 1024 * 1024


def _each(results: list[Any]) -> Answer:
    return {f"{name} µs": micro(value) for name, value in results[0].items()}


async def _send_and_receive(layer: Layer, channel: str, seconds: float) -> dict[str, Any]:
    sent = message()
    send, receive = await seconds_of_two(
        lambda: layer.send(channel, sent), lambda: layer.receive(channel), seconds
    )
    return {"send": send, "receive": receive}


async def _behind_messages(bench: Bench, seconds: float, number: int) -> dict[str, Any]:
    layer = bench.open()
    for _ in range(number):
        await layer.send("work", message())
    return await _send_and_receive(layer, "work", seconds)


async def _among_channels(bench: Bench, seconds: float, number: int) -> dict[str, Any]:
    layer = bench.open()
    for each in range(number):
        await layer.send(f"other.{each}", message())
    return await _send_and_receive(layer, "work", seconds)


async def _among_members(bench: Bench, seconds: float, number: int) -> dict[str, Any]:
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
    add, discard = await seconds_of_two(
        lambda: layer.group_add("all", next(to_add)),
        lambda: layer.group_discard("all", next(to_discard)),
        seconds,
    )

    async def take_all() -> None:
        for channel in few:
            await layer.receive(channel)

    sent = message()
    broadcast, _ = await seconds_of_two(
        lambda: layer.group_send("few", sent), take_all, seconds, batch=5
    )
    return {"group_add": add, "group_discard": discard, "group_send to 10": broadcast}


async def _in_store(bench: Bench, seconds: float, size: int) -> dict[str, Any]:
    layer = bench.open(channel_memory=size, group_memory=size)
    channel, sent = await layer.new_channel(), message()

    async def there_and_back() -> None:
        await layer.send("work", sent)
        await layer.receive("work")

    pair = await seconds_each(there_and_back, seconds)
    add, discard = await seconds_of_two(
        lambda: layer.group_add("room", channel),
        lambda: layer.group_discard("room", channel),
        seconds,
        batch=1,
    )
    return {"pair": pair, "group_add": add, "group_discard": discard}


def _cases(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    growing = (
        ("messages", _behind_messages, settings.sizes((0, 1_000, 100_000), (0, 1_000))),
        ("channels", _among_channels, settings.sizes((10, 1_000, 50_000), (10, 1_000))),
        ("memberships", _among_members, settings.sizes((10, 1_000, 80_000), (10, 1_000))),
    )
    seconds = settings.seconds / 2
    cases = [
        Case(
            peer.name,
            f"{number:,} {what}",
            (Role(function, {"seconds": seconds, "number": number}),),
            _each,
            peer,
            180,
        )
        for what, function, numbers in growing
        for number in numbers
        for peer in peers
        if peer.queues and number <= peer.most_prefilled
    ]
    stores = settings.sizes((1, 100, 1024), (1, 1024))
    for size in stores:
        role = Role(_in_store, {"seconds": seconds, "size": size * _MIB})
        variant = f"{size:,} MiB store"
        cases += [Case(p.name, variant, (role,), _each, p) for p in peers if p.has_sizes]
    return cases


QUESTIONS = [
    Question(
        "growth",
        "Does an operation get dearer with messages queued on its channel, with other channels,"
        " with memberships in its group, or with the size of the store?",
        _cases,
    ),
]
