"""Messages from a process to itself that pass by the store: that nobody can tell."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asgi_ipc import SyncIPCChannelLayer
from tests.tools.doubles import (
    PATIENCE,
    run,
    watchdog,
)
from tests.tools.receivers import (
    Pair,
    rest,
)

__all__ = ["watchdog"]

_SECOND = 1_000_000_000


def test_it_overtakes_nothing_on_the_store_or_in_the_buffer() -> None:
    async def main() -> None:
        both = Pair()
        name, second = await both.channel(), await both.channel()
        await both.other.send(name, {"n": 0})
        await both.layer.send(name, {"n": 1})
        assert both.pushed == 1
        await both.other.send(second, {"n": 2})
        await both.other.send(name, {"n": 3})
        # Fetches what is for the other channel, too.
        assert await both.layer.receive(second) == {"n": 2}
        await both.layer.send(name, {"n": 4})
        assert await rest(both.layer, name) == [0, 1, 3, 4]

    run(main())


def test_senders_here_and_elsewhere_each_keep_their_order() -> None:
    async def main() -> None:
        both = Pair(capacity=10**6)
        name, count = await both.channel(), 3_000

        def send(layer: SyncIPCChannelLayer, who: int) -> None:
            for number in range(count):
                layer.send(name, {"who": who, "n": number})

        layers = [both.layer.sync, both.layer.sync, both.other.sync]
        threads = [
            threading.Thread(target=send, args=(layer, who)) for who, layer in enumerate(layers)
        ]
        for thread in threads:
            thread.start()
        got: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for _ in range(count * len(layers)):
            message = await asyncio.wait_for(both.layer.receive(name), PATIENCE)
            got[message["who"]].append(message["n"])
        assert got == {who: list(range(count)) for who in got}
        assert both.pushed > 0

    run(main())


@pytest.mark.parametrize("to_group", [False, True])
def test_what_went_to_the_store_is_there_before_its_bell_is_heard(to_group: bool) -> None:
    async def main() -> None:
        both = Pair()
        _, (waiting,) = await both.readers(1)
        name, ready = await both.channel(), await both.channel()
        await both.layer.group_add("g", name)
        await both.layer.send(ready, {})
        await (both.layer.group_send("g", {}) if to_group else both.layer.send(name, {}))
        assert both.pushed == 1
        task = asyncio.ensure_future(both.layer.receive(name))
        await asyncio.sleep(0)
        assert task.done()
        waiting.cancel()

    run(main())


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_capacity_is_what_it_is_on_either_way(capacity: int) -> None:
    async def main() -> None:
        both = Pair(capacity=capacity)
        names = [await both.channel() for _ in range(3)]
        for name in names:
            await both.layer.group_add(name.replace("!", "."), name)
        for number in range(capacity):
            await both.layer.send(names[number % 3], {"n": number})
        for name in names:
            with pytest.raises(both.layer.ChannelFull, match=f"capacity of {capacity} "):
                await both.layer.send(name, {})
            await both.layer.group_send(name.replace("!", "."), {})
        counts = await both.layer.channel_statistics(names[0])
        assert counts["messages_pending"] == capacity
        assert counts["channel_full_count"] == 6
        found = [await rest(both.layer, name) for name in names]
        assert found == [list(range(start, capacity, 3)) for start in range(3)]

    run(main())


def test_what_was_fetched_later_into_the_same_buffer_takes_no_room() -> None:
    async def main() -> None:
        both = Pair(capacity=2)
        name, second = await both.channel(), await both.channel()
        await both.layer.send(name, {"n": 0})
        assert await both.layer.receive(name) == {"n": 0}
        await both.other.send(name, {"n": 1})
        await both.other.send(second, {})
        await both.layer.receive(second)
        for number in (2, 3):
            await both.layer.send(name, {"n": number})
        with pytest.raises(both.layer.ChannelFull):
            await both.layer.send(name, {})
        assert await rest(both.layer, name) == [1, 2, 3]

    run(main())


def test_what_was_dropped_is_named_though_others_were_passed_directly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        (name,), (task,) = await both.readers(1)
        full, room = await both.other.new_channel("full"), await both.other.new_channel("room")
        await both.layer.send(full, {})
        for channel in (name, full, room):
            await both.layer.group_add("g", channel)
        await both.layer.group_send("g", {"n": 1})
        assert await task == await both.other.receive(room) == {"n": 1}
        assert f"for 1 of 3 channels ({full})" in caplog.text

    both = Pair(channel_capacity={"full.*": 1})
    run(main())


def test_one_that_expired_unread_makes_room() -> None:
    async def main() -> None:
        now = _SECOND
        both = Pair(clock=lambda: now, capacity=1, expiry=10)
        name = await both.channel()
        await both.layer.send(name, {"n": 1})
        with pytest.raises(both.layer.ChannelFull):
            await both.layer.send(name, {"n": 2})
        now += 11 * _SECOND
        await both.layer.send(name, {"n": 3})
        assert await rest(both.layer, name) == [3]
        assert (await both.layer.global_statistics())["expired_count"] == 1

    run(main())


@pytest.mark.parametrize("who", ["layer", "other"])
def test_a_flush_takes_what_was_sent_before_and_no_more(who: str) -> None:
    async def main() -> None:
        both = Pair()
        name = await both.channel()
        await both.layer.send(name, {"n": 1})
        await getattr(both, who).flush()
        await both.layer.send(name, {"n": 2})
        assert both.pushed == 0
        assert await rest(both.layer, name) == [2]

    run(main())


def test_it_is_counted() -> None:
    async def main() -> None:
        both = Pair()
        (name, other), (task, waiting) = await both.readers(2)
        before = await both.layer.global_statistics()
        await both.layer.send(name, {"n": 1})
        await task
        await both.layer.send(name, {"n": 2})
        for counts in (
            await both.layer.channel_statistics(other),
            await both.layer.global_statistics(),
        ):
            assert counts["messages_count"] == before["messages_count"] + 2
            assert counts["received_count"] == before["received_count"] + 1
            assert counts["messages_pending"] == 1
        waiting.cancel()

    run(main())


def test_what_lies_ready_is_not_dropped_for_what_others_were_allowed_to_send() -> None:
    async def main() -> None:
        both = Pair(capacity=2)
        name, second = await both.channel(), await both.channel()
        await both.layer.send(name, {"n": 0})
        for number in (1, 2):
            await both.other.send(name, {"n": number})
        with pytest.raises(both.other.ChannelFull):
            await both.other.send(name, {})
        waiting = asyncio.ensure_future(both.layer.receive(second))
        await asyncio.sleep(0)
        assert await rest(both.layer, name) == [0, 1, 2]
        assert (await both.layer.global_statistics())["overflow_count"] == 0
        waiting.cancel()

    run(main())


def test_what_lies_ready_stays_with_an_engine_that_stays_open() -> None:
    async def main() -> None:
        both = Pair()
        name = await both.channel()
        await both.layer.send(name, {"n": 0})
        await both.other.send(name, {"n": 1})
        await both.layer.close()
        assert await rest(both.layer, name) == [0, 1]

    run(main())
