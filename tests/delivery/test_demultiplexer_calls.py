"""Inside one process: how seldom the engine is asked, however many wait."""

from __future__ import annotations

import asyncio
import time

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery.mailboxes import BATCH
from asgi_ipc.encoding.names import channel_name
from asgi_ipc.engines.base import Record
from tests.tools.doubles import (
    engine,
    run,
    watchdog,
    way,
    without_loopback,
)
from tests.tools.receivers import (
    soon,
)

__all__ = ["watchdog", "way", "without_loopback"]

pytestmark = pytest.mark.usefixtures("way")


def test_a_batch_is_handed_out_to_all_it_is_for_in_order() -> None:
    async def main() -> None:
        counting = engine()
        layer = IPCChannelLayer(engine=counting, capacity=1000)
        channels = [await layer.new_channel() for _ in range(10)]
        for number in range(BATCH):
            await layer.send(channels[number % 10], {"n": number})
        counting.calls.clear()
        for start in range(10):
            expected = [{"n": n} for n in range(start, BATCH, 10)]
            assert [await layer.receive(channels[start]) for _ in expected] == expected
        assert counting.calls["pop"] == 1
        await layer.close()

    run(main())


@pytest.mark.usefixtures("without_loopback")
def test_members_of_a_group_in_one_process_get_one_record_and_a_message_each() -> None:
    async def main() -> None:
        counting = engine()
        layer = IPCChannelLayer(engine=counting)
        channels = [await layer.new_channel() for _ in range(20)]
        for channel in channels:
            await layer.group_add("g", channel)
        tasks = await soon(*(layer.receive(channel) for channel in channels))
        counting.calls.clear()
        await layer.group_send("g", {"list": []})
        messages = await asyncio.gather(*tasks)
        assert messages == [{"list": []}] * 20
        assert len({id(message["list"]) for message in messages}) == 20  # Nobody shares.
        assert counting.calls["records"] == 1
        assert counting.calls["pop"] <= 2
        await layer.close()

    run(main())


def test_waiting_on_an_empty_queue_whose_bell_is_armed_asks_the_engine_nothing() -> None:
    async def main() -> None:
        counting = engine()
        layer = IPCChannelLayer(engine=counting)
        channels = [await layer.new_channel() for _ in range(20)]
        first = await soon(layer.receive(channels[0]))
        counting.calls.clear()
        rest = await soon(*(layer.receive(channel) for channel in channels[1:]))
        assert counting.calls["pop"] == 0
        for task in (*first, *rest):
            task.cancel()
        await layer.close()

    run(main())


def test_a_ping_pong_costs_a_look_at_the_queue_per_message() -> None:
    async def main() -> None:
        counting = engine()
        layer = IPCChannelLayer(engine=counting)
        channel = await layer.new_channel()

        async def read() -> None:
            for _ in range(50):
                await layer.receive(channel)

        (reader,) = await soon(read())
        counting.calls.clear()
        for _ in range(50):
            # As another process does it, which does not tell the demultiplexer.
            name = channel_name(channel)
            record = Record(name.queue, name.header + b"\x80", counting.clock() + 10**10, 100)
            counting.push([record])
            await asyncio.sleep(0.002)
        await reader
        assert counting.calls["pop"] <= 55
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", ["own", "ordinary", "both"])
def test_idle_receivers_look_again_about_once_a_second_and_no_more(kind: str) -> None:
    async def main() -> None:
        counting = engine()
        layer = IPCChannelLayer(engine=counting)
        channels = []
        for number in range(50):
            if kind != "ordinary":
                channels.append(await layer.new_channel())
            if kind != "own":
                channels += [f"x.{number}"] * (1 + number % 2)
        tasks = await soon(*map(layer.receive, channels))
        counting.calls.clear()
        began = time.monotonic()
        await asyncio.sleep(3.6)
        assert 2 <= counting.calls["pop"] <= 1 + (time.monotonic() - began)
        for task in tasks:
            task.cancel()
        await layer.close()

    run(main())
