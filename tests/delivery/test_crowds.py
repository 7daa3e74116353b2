"""Thousands of waiting clients and channels: the cost for one does not grow with the others."""

from __future__ import annotations

import asyncio
import resource
import threading
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery.loop_listener import SLICE
from tests.tools.costs import (
    at_leisure,
    countable,
    engine,
    engine_options,
    layer,
    opcodes,
    settle,
)
from tests.tools.doubles import (
    PATIENCE,
    by_the_store,
    in_thread,
    run,
)
from tests.tools.layers import demux_of

__all__ = ["at_leisure", "engine", "engine_options", "layer"]

pytestmark = [countable, pytest.mark.usefixtures("at_leisure")]

_SAME = 1.05


async def waiting(layer: IPCChannelLayer, names: list[str]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(layer.receive(name)) for name in names]
    await asyncio.sleep(0)
    await settle()
    return tasks


async def end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def at(layer: IPCChannelLayer, count: int, measured: Any, kind: str) -> int:
    """The opcodes of something while so many clients or queues wait."""
    if kind == "clients":
        names = [await layer.new_channel() for _ in range(count)]
    elif kind == "prefixes":
        names = [await layer.new_channel(f"p{number}") for number in range(count)]
    else:
        names = [f"ordinary.{count}.{number}" for number in range(count)]
    tasks = await waiting(layer, names)
    try:
        found: int = await measured(names)
        return found
    finally:
        await end(tasks)


@pytest.mark.parametrize("engine", ["posix"], indirect=True)
def test_sending_to_waiting_receivers_in_turn_costs_the_same_for_each(
    layer: IPCChannelLayer,
) -> None:
    """In one go, without letting any of them run."""

    async def send_many(names: list[str]) -> int:
        async def all_of_them() -> None:
            for name in names[:-1]:
                await layer.send(name, {})

        return await opcodes(all_of_them)

    async def main() -> None:
        few = await at(layer, 101, send_many, "clients")
        many = await at(layer, 4001, send_many, "clients")
        assert many / 4000 <= few / 100 * _SAME

    run(main())


@pytest.mark.parametrize("engine", ["posix"], indirect=True)
@pytest.mark.parametrize("kind", ["ordinary", "prefixes"])
def test_a_signal_costs_the_same_however_many_queues_are_waited_for(
    layer: IPCChannelLayer, kind: str
) -> None:
    async def one(names: list[str]) -> int:
        costs = []
        for name in names[5:10]:
            await asyncio.create_task(_from_elsewhere(layer, name))

            async def signalled() -> None:
                await settle()
                await settle()

            costs.append(await opcodes(signalled))
        # Each store hashes in its own way: one name or other shares a bucket.
        return sorted(costs)[len(costs) // 2]

    async def main() -> None:
        few = await at(layer, 20, one, kind)
        many = await at(layer, 1500, one, kind)
        assert many <= few * 1.3, (few, many)  # Chains of the hash table.

    run(main())


async def _from_elsewhere(layer: IPCChannelLayer, name: str) -> None:
    """As another process would send it: by the store."""
    with by_the_store():
        await layer.send(name, {})


@pytest.mark.parametrize("engine", ["posix"], indirect=True)
def test_the_regular_look_costs_the_same_however_many_clients_wait(layer: IPCChannelLayer) -> None:
    async def look(names: list[str]) -> int:
        listener: Any = next(iter(demux_of(layer).loops.values()))
        listener._tick()
        listener._tick()

        async def tick() -> None:
            listener._tick()

        return await opcodes(tick)

    async def main() -> None:
        demux_of(layer).look_again = 1000.0
        few = await at(layer, 100, look, "clients")
        many = await at(layer, 20_000, look, "clients")
        assert many <= few * _SAME, (few, many)

    run(main())


@pytest.mark.parametrize("engine", ["posix"], indirect=True)
def test_the_regular_look_at_thousands_of_channels_comes_in_slices(layer: IPCChannelLayer) -> None:
    async def look(names: list[str]) -> int:
        listener: Any = next(iter(demux_of(layer).loops.values()))
        looks: list[bytes] = []
        before = listener._check_queue

        def look_again(queue: bytes, looked: bool) -> bool:
            looks.append(queue)
            found: bool = before(queue, looked)
            return found

        listener._check_queue = look_again
        costs = []
        for _ in range(3 + 2000 // SLICE):
            looks.clear()
            listener._tick()
            assert len(looks) <= SLICE
            costs.extend(looks)
        assert set(costs) >= {name.encode() for name in names}  # All of them, by and by.
        return 0

    async def main() -> None:
        demux_of(layer).look_again = 1000.0
        await at(layer, 2000, look, "ordinary")

    run(main())


@pytest.mark.parametrize("engine", ["posix"], indirect=True)
def test_fifty_thousand_idle_clients_cost_next_to_nothing(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        tasks = await waiting(layer, [await layer.new_channel() for _ in range(50_000)])
        await asyncio.sleep(2.5)  # What is being made comes to rest.
        before = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(5)
        after = resource.getrusage(resource.RUSAGE_SELF)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        # A thousandth of five seconds is 0.005; a machine that is busy counts coarsely.
        assert used < 0.05, used
        await end(tasks)

    run(main())


# Fairness


@pytest.mark.parametrize("engine", ["posix"], indirect=True)
@pytest.mark.parametrize("kind", ["own", "ordinary"])
def test_a_receiver_of_a_busy_channel_lets_its_loop_have_a_turn(
    layer: IPCChannelLayer, kind: str
) -> None:
    async def main() -> None:
        name = await layer.new_channel() if kind == "own" else "busy"
        for _ in range(1000):
            await _from_elsewhere(layer, name)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        for _ in range(1000):
            await layer.receive(name)
        assert 10 <= turns <= 100
        other.cancel()

    run(main())


@pytest.mark.parametrize("engine", ["posix"], indirect=True)
@pytest.mark.parametrize("kind", ["own", "ordinary"])
def test_a_loop_that_is_held_up_does_not_keep_a_message_from_the_others(
    layer: IPCChannelLayer, kind: str
) -> None:
    """The regular look of the others finds it, though the bell that rang is not theirs."""
    held, done = threading.Event(), threading.Event()
    names = {"own": run(layer.new_channel()), "ordinary": "ordinary"}
    name = names[kind]

    async def hold_up() -> None:
        receiving = asyncio.create_task(layer.receive(name))
        await asyncio.sleep(0.05)
        held.set()
        done.wait(PATIENCE)  # The loop does not run meanwhile.
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)

    thread = in_thread(lambda: run(hold_up()))
    assert held.wait(PATIENCE)

    async def other() -> None:
        receiving = asyncio.create_task(layer.receive(name))
        await asyncio.sleep(0.05)
        # For an own channel the first in the line is woken, and is held up: two, then.
        await _from_elsewhere(layer, name)
        await _from_elsewhere(layer, name)
        assert await asyncio.wait_for(receiving, PATIENCE / 2) == {}

    run(other())
    done.set()
    thread.join(PATIENCE)
