"""The opcodes of operations: as many whatever the store holds, and not many more than before."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from functools import partial

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from tests.tools.costs import (
    MESSAGE,
    Members,
    Trip,
    at_leisure,
    countable,
    engine,
    engine_options,
    layer,
    opcodes,
    other,
    settle,
    usual,
)
from tests.tools.doubles import (
    run,
    watchdog,
)

__all__ = ["at_leisure", "engine", "engine_options", "layer", "other", "watchdog"]

#: How much more at the far end than at the near one is still the same.
_SAME = 1.05

pytestmark = countable

#: Opcodes on CPython 3.11 when this was written. Since then receives ask whether they are made in
#: the middle of another call, and whether the event loop is to have its turn.
#: What each decoding has taken on since: it refuses what no sender makes (`messages.decode`).
_REFUSING = 31
#: What hearing and signalling a bell has taken on: neither waits for another thread that is at it.
_BELL = 25
_ONCE = {
    "send": 685,
    "receive": 750 + _REFUSING,
    "direct send": 483,
    "direct receive": 121 + _REFUSING,
    "ordinary send": 683,
    "ordinary receive": 589 + _REFUSING,
    "broadcast": 831,
    "answer": 2150 + _REFUSING + _BELL,
    "50 deliveries": 18_142,
}
#: How many times as much may be done. Other Pythons have other opcodes, but not half as many more.
_DEARER = 1.1 if sys.version_info[:2] == (3, 11) else 1.5

# Growth


async def pair(
    layer: IPCChannelLayer, channel: str, reader: IPCChannelLayer | None = None
) -> tuple[int, int]:
    """Opcodes of a send and of the receive after it."""
    sends, receives = [], []
    for number in range(9):
        send = await opcodes(partial(layer.send, channel, MESSAGE))
        receive = await opcodes(partial((reader or layer).receive, channel))
        if number > 2:
            sends.append(send)
            receives.append(receive)
    return statistics.mode(sends), statistics.mode(receives)


async def fill(layer: IPCChannelLayer, channels: list[str]) -> None:
    for channel in channels:
        await layer.send(channel, MESSAGE)


def test_send_and_receive_cost_the_same_behind_10000_messages(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        near = await pair(layer, "queue")
        await fill(layer, ["queue"] * 10_000)
        assert_same(near, await pair(layer, "queue"))

    run(main())


def test_send_and_receive_cost_the_same_among_5000_channels(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        # Names fall on longer and shorter chains of the hash table.
        measured = [f"measured.{number}" for number in range(10)]
        await fill(layer, [f"other.{number}" for number in range(10)] + measured)
        near = [await pair(layer, channel) for channel in measured]
        await fill(layer, [f"other.{number}" for number in range(10, 5_000)])
        far = [await pair(layer, channel) for channel in measured]
        # On the chains of the hash table there may be one more to pass.
        assert_same(means(near), means(far), 1.15)

    run(main())


def test_a_broadcast_to_one_process_costs_the_same_for_1_100_and_1000_members(
    layer: IPCChannelLayer,
) -> None:
    async def main() -> None:
        costs = []
        for count in (1, 100, 1000):
            group = f"group-{count}"
            for _ in range(count):
                await layer.group_add(group, await layer.new_channel())
            broadcast = partial(layer.group_send, group, MESSAGE)
            # A record that goes over the edge of an extent is written in pieces: the least.
            costs.append(min([await opcodes(broadcast) for _ in range(9)]))
        one, hundred, thousand = costs
        assert_same([one, one], [hundred, thousand])

    run(main())


def test_joining_and_leaving_cost_the_same_among_5000_members(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        channels = [await layer.new_channel() for _ in range(20)]

        async def join_and_leave() -> list[float]:
            joins, leaves = [], []
            for channel in channels:
                joins.append(await opcodes(partial(layer.group_add, "room", channel)))
            for channel in channels:
                leaves.append(await opcodes(partial(layer.group_discard, "room", channel)))
            return [statistics.median(joins), statistics.median(leaves)]

        await join_and_leave()
        near = await join_and_leave()
        for _ in range(5_000):
            await layer.group_add("room", await layer.new_channel())
        assert_same(near, await join_and_leave(), 1.5)

    run(main())


def means(pairs: list[tuple[int, int]]) -> list[float]:
    return [statistics.mean(column) for column in zip(*pairs, strict=True)]


def assert_same(near: Iterable[float], far: Iterable[float], same: float = _SAME) -> None:
    near, far = list(near), list(far)
    assert all(b <= a * same for a, b in zip(near, far, strict=True)), (near, far)


# Bounds


@pytest.mark.usefixtures("at_leisure")
def test_no_operation_runs_much_more_than_it_did(
    layer: IPCChannelLayer, other: IPCChannelLayer
) -> None:
    async def main() -> dict[str, int]:
        own, answers = await layer.new_channel(), "answers"
        # Queues in use, as most are.
        for _ in range(2 * HOT):
            for channel in (own, "ordinary", answers):
                await other.send(channel, MESSAGE)
                await layer.receive(channel)
        send, receive = await pair(other, own, layer)
        direct_send, direct_receive = await pair(layer, own)
        ordinary_send, ordinary_receive = await pair(layer, "ordinary")
        await layer.group_add("room", own)
        broadcast = await usual(opcodes, partial(other.group_send, "room", MESSAGE))
        async with Trip(layer, other, answers) as trip:
            answer = await usual(opcodes, trip.answer, trip.ask)
        async with Members(layer, "members", 50):
            deliveries = await usual(opcodes, settle, partial(other.group_send, "members", {}))
        return {
            "send": send,
            "receive": receive,
            "direct send": direct_send,
            "direct receive": direct_receive,
            "ordinary send": ordinary_send,
            "ordinary receive": ordinary_receive,
            "broadcast": broadcast,
            "answer": answer,
            "50 deliveries": deliveries,
        }

    counted = run(main())
    dearer = {name: count for name, count in counted.items() if count > _DEARER * _ONCE[name]}
    assert not dearer, f"of {counted}"
