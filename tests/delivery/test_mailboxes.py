"""Inside one process: what was fetched for others, or lies far back, until somebody reads it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.delivery.mailboxes import BATCH
from asgi_ipc.encoding.names import channel_name
from tests.tools.doubles import (
    KINDS,
    BlockingEngine,
    CountingEngine,
    engine,
    patient,
    run,
    watchdog,
    way,
    without_loopback,
)
from tests.tools.receivers import (
    nothing,
    soon,
)

__all__ = ["watchdog", "way", "without_loopback"]

pytestmark = pytest.mark.usefixtures("way")


def test_a_message_far_back_behind_others_is_found() -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine(), capacity=1000))
        busy, quiet = await layer.new_channel(), await layer.new_channel()
        for number in range(5 * BATCH):
            await layer.send(busy, {"n": number})
        await layer.send(quiet, {"here": True})
        assert await layer.receive(quiet) == {"here": True}
        assert [(await layer.receive(busy))["n"] for _ in range(5 * BATCH)] == list(
            range(5 * BATCH)
        )
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
def test_a_thread_gets_nothing_that_was_fetched_before_a_flush(kind: Any) -> None:
    layer = SyncIPCChannelLayer(engine=engine(kind))
    mine = f"x.{layer.client_prefix}!"
    for number in range(3):
        layer.send(f"{mine}{number}", {"n": number})
    assert layer.receive([mine])[1] == {"n": 0}
    layer.flush()
    assert layer.receive([mine]) == (None, None)
    layer.send(f"{mine}3", {"n": 3})
    assert layer.receive([mine])[1] == {"n": 3}
    layer.close()


def test_a_buffer_holds_a_capacity_and_drops_the_oldest(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(), capacity=3)
        slow, waiting = await layer.new_channel(), await layer.new_channel()
        (task,) = await soon(layer.receive(waiting))
        for number in range(5):
            await layer.send(slow, {"n": number})
            await asyncio.sleep(0.01)
        assert [(await layer.receive(slow))["n"] for _ in range(3)] == [2, 3, 4]
        statistics = await layer.channel_statistics(slow)
        assert statistics["overflow_count"] == 2
        assert statistics["received_count"] == 3
        assert statistics["messages_pending"] == 0
        task.cancel()
        await layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
    # Not one for each: the first at once, and the others in a sum.
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all("1 dropped on channels" in record.getMessage() for record in caplog.records)
    assert "capacity of 3" in caplog.text


def test_with_nobody_waiting_messages_stay_where_capacity_counts_them() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(), capacity=3)
        channel = await layer.new_channel()
        (task,) = await soon(layer.receive(channel))
        await layer.send(channel, {"n": 0})
        await task
        for number in range(3):
            await layer.send(channel, {"n": number})
            await asyncio.sleep(0.01)
        with pytest.raises(layer.ChannelFull, match="capacity of 3"):
            await layer.send(channel, {"n": 4})
        assert [(await layer.receive(channel))["n"] for _ in range(3)] == [0, 1, 2]
        await layer.close()

    run(main())


@pytest.mark.parametrize("capacity", [3, 100])
def test_copies_that_nobody_reads_do_not_hide_what_was_received(
    capacity: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(), capacity=capacity)
        read, *left = [await layer.new_channel() for _ in range(4)]
        for channel in (read, *left):
            await layer.group_add("news", channel)
        for number in range(10):
            await layer.group_send("news", {"n": number})
            assert await layer.receive(read) == {"n": number}
        for statistics in (await layer.global_statistics(), await layer.channel_statistics(read)):
            assert statistics["messages_count"] == statistics["received_count"] == 10
            held = min(10, capacity)
            assert statistics["messages_pending"] == 3 * held
            assert statistics["overflow_count"] == 3 * (10 - held)
        if capacity == 3:
            assert "is read too slowly, or no more (a consumer that failed stays" in caplog.text
        await layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())


@pytest.mark.parametrize("kind", KINDS[:2])
def test_what_expires_in_a_buffer_is_not_delivered_and_counted(kind: Any) -> None:
    async def main() -> None:
        for expiry in (0.2, 2, 20):  # On a slow machine the first may be too short.
            layer = IPCChannelLayer(engine=engine(kind), expiry=expiry)
            late, other = await layer.new_channel(), await layer.new_channel()
            began = time.monotonic()
            await layer.send(late, {"n": 1})
            await layer.send(other, {"n": 2})
            receive = asyncio.ensure_future(layer.receive(other))  # It fetches the first, too.
            await asyncio.wait([receive], timeout=expiry)
            in_time = receive.done() and time.monotonic() < began + expiry
            if in_time:
                assert receive.result() == {"n": 2}
                await asyncio.sleep(1.25 * expiry)
                assert await nothing(layer, late)
                statistics = await layer.channel_statistics(late)
                assert statistics["expired_count"] == statistics["received_count"] == 1
            receive.cancel()
            await layer.close()
            if in_time:
                return
        raise AssertionError("it takes 20 seconds to receive a message")

    run(main())


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_flush_by_anybody_empties_the_buffers(kind: Any) -> None:
    async def main() -> None:
        blocking = engine(kind)
        layer = IPCChannelLayer(engine=blocking)
        one, two = await layer.new_channel(), await layer.new_channel()
        await layer.send(one, {"n": 1})
        await layer.send(two, {"n": 2})
        assert await layer.receive(two) == {"n": 2}
        await asyncio.to_thread(blocking.flush)
        assert await nothing(layer, one)
        await layer.send(one, {"n": 3})
        assert await layer.receive(one) == {"n": 3}
        await layer.close()

    run(main())


def test_a_channel_that_is_being_looked_at_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even if the look fetches messages for a thousand others."""
    monkeypatch.setattr("asgi_ipc.delivery.mailboxes.SWEEP_AT", 1)

    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine()))
        channel = channel_name(await layer.new_channel())
        own = layer._core.demux.queue(channel.queue)
        for last in range(2):
            for number in range(5):
                await layer.send(f"{channel.queue.decode()}{number}", {})
            if last:
                await layer.send(channel.full, {})
            receive = asyncio.ensure_future(layer.receive(channel.full))
            await asyncio.sleep(0.01)
            await layer.send(channel.full, {})
            assert await receive == {}
            own.locals.clear()
            layer._core.demux.channels.clear()
            await layer.close()

    run(main())


def test_idle_local_channels_are_forgotten() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        queue = channel_name(await layer.new_channel()).queue
        for _ in range(5000):
            channel = await layer.new_channel()
            await layer.send(channel, {})
            await layer.receive(channel)
        assert len(layer._core.demux.own[queue].locals) <= 1100
        await layer.close()

    run(main())
