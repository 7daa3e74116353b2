"""Inside one process: who gets what was fetched for whom (DESIGN §4)."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import time
from typing import Any

import pytest

from asgi_ipc import (
    IPCChannelLayer,
    StoreCorrupt,
    StoreUnavailable,
    SyncIPCChannelLayer,
    loop_waiters,
    loops,
)
from asgi_ipc.engines.base import Popped, Record
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.local_channels import BATCH
from asgi_ipc.loops import LoopListener
from asgi_ipc.names import channel_name

from .doubles import (
    PATIENCE,
    BlockingEngine,
    CountingEngine,
    ForgetfulEngine,
    MuteEngine,
    engine,
    fresh,
    in_thread,
    never_directly,
    patient,
    run,
    watchdog,
    way,
)

__all__ = ["never_directly", "watchdog", "way"]

pytestmark = pytest.mark.usefixtures("way")

KINDS = [CountingEngine, BlockingEngine, MuteEngine, ForgetfulEngine]


async def soon(*awaitables: Any) -> list[asyncio.Task[Any]]:
    """Start them, and let them get as far as they can."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    await asyncio.sleep(0.02)
    return tasks


async def nothing(layer: IPCChannelLayer, channel: str) -> bool:
    """Whether there is no message."""
    try:
        await asyncio.wait_for(layer.receive(channel), 0.1)
    except asyncio.TimeoutError:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("specific", [True, False])
def test_who_waits_is_woken(kind: Any, specific: bool) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind))
        channel = await layer.new_channel() if specific else "c"
        for number in range(3):
            (task,) = await soon(layer.receive(channel))
            await layer.send(channel, {"n": number})
            assert await task == {"n": number}
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("specific", [True, False])
def test_many_receivers_and_cancellations_lose_and_double_nothing(
    kind: Any, specific: bool
) -> None:
    """Receivers are cancelled at every possible moment; order is kept, none is missing (S10)."""

    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind), capacity=1000)
        channel = await layer.new_channel() if specific else "c"
        got: list[int] = []
        total = 60
        rng = random.Random(1)

        async def send() -> None:
            for number in range(total):
                await layer.send(channel, {"n": number})
                await asyncio.sleep(rng.choice([0, 0, 0.001, 0.004]))

        sender = asyncio.ensure_future(send())
        while len(got) < total:
            tasks = [asyncio.ensure_future(layer.receive(channel)) for _ in range(3)]
            await asyncio.sleep(rng.choice([0, 0, 0.001, 0.003]))
            for task in tasks:
                if rng.random() < 0.7:
                    task.cancel()
            done = [task for task in tasks if not task.cancelled()]
            for task in done:
                # Not wait_for, which from 3.12 on may time out on a task that has just got its
                # message.
                await asyncio.wait([task], timeout=0.05)
                task.cancel()
                try:
                    got.append((await task)["n"])
                except asyncio.CancelledError:
                    pass
        await sender
        assert sorted(got) == list(range(total))
        assert await nothing(layer, channel)
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_receive_cancelled_after_it_was_woken_passes_the_message_on(kind: Any) -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine(kind)))
        for channel in (await layer.new_channel(), "c"):
            first, second = await soon(layer.receive(channel), layer.receive(channel))
            listener = layer._core.demux.loops[id(asyncio.get_running_loop())]
            assert isinstance(listener, LoopListener)
            await layer.send(channel, {"n": 1})
            listener._rung()
            first.cancel()  # Woken, or about to be; in any case not resumed yet.
            assert await second == {"n": 1}
            assert first.cancelled()
        await layer.close()

    run(main())


def test_a_receiver_that_leaves_lets_the_ring_go_to_another_process() -> None:
    """Two demultiplexers on one store stand for two processes (E14)."""

    async def main() -> None:
        prefix = fresh()
        sizes = {"channel_memory": 10**6, "group_memory": 10**6}
        one = patient(IPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
        two = patient(IPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
        assert one._core.demux is not two._core.demux
        for how in ("cancelled while it waits", "cancelled when woken", "got a message"):
            (first,) = await soon(one.receive("c"))
            (second,) = await soon(two.receive("c"))
            if how == "got a message":
                await one.send("c", {"n": 0})
                assert await first == {"n": 0}
                await asyncio.sleep(0.2)
            elif how == "cancelled when woken":
                await two.send("c", {"n": 1})
                listener = one._core.demux.loops[id(asyncio.get_running_loop())]
                listener._rung()
                first.cancel()
            else:
                first.cancel()
                await asyncio.sleep(0)
            if how != "cancelled when woken":
                await two.send("c", {"n": 1})
            await asyncio.sleep(0)
            assert await second == {"n": 1}
        await one.close()
        await two.close()

    run(main())


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


@pytest.mark.usefixtures("never_directly")
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


class FailingEngine(MuteEngine):
    """Can't be reached while ``down``, not even to be peeked at; and rings no bells."""

    capabilities = MemoryEngine.capabilities
    down = False

    def pop(self, queue: bytes, limit: int = 1, bell: Any = None) -> list[Popped]:
        if self.down:
            raise StoreUnavailable("it is down")
        return super().pop(queue, limit, bell)

    def peek(self, queue: bytes) -> bool:
        if self.down:
            raise StoreUnavailable("it is down")
        return super().peek(queue)


def test_when_the_store_is_gone_all_who_wait_get_to_know_and_those_who_come_later_are_served() -> (
    None
):
    async def main() -> None:
        store = engine(FailingEngine)
        layer = IPCChannelLayer(engine=store)
        layer._core.demux.look_again = 0.05
        channels = [await layer.new_channel(), "a", "b"]
        tasks = await soon(*map(layer.receive, channels))
        store.down = True
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [StoreUnavailable] * 3
        store.down = False
        tasks = await soon(*map(layer.receive, channels))
        for channel in channels:
            await layer.send(channel, {"for": channel})
        assert await asyncio.gather(*tasks) == [{"for": channel} for channel in channels]
        await layer.close()

    run(main())


@pytest.mark.parametrize("specific", [False, True])
def test_a_thread_that_waits_gets_to_know_that_its_layer_was_closed(specific: bool) -> None:
    """Also one to which an engine was passed in, which stays open."""
    layer = patient(IPCChannelLayer(engine=engine()))
    channel = run(layer.new_channel()).partition("!")[0] + "!" if specific else "x"
    raised: list[str] = []

    def wait() -> None:
        try:
            layer.sync.receive([channel], block=True)
        except StoreUnavailable as error:
            raised.append(str(error))

    thread = in_thread(wait)
    while not layer._core.demux.threads:
        time.sleep(0.001)
    layer.sync.close()
    thread.join(60)
    assert raised == ["the channel layer was closed while this receive waited"]


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
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # Not one for each.
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


def test_a_channel_that_is_being_looked_at_is_not_forgotten() -> None:
    """Not even if the look fetches messages for a thousand others."""

    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine()))
        channel = channel_name(await layer.new_channel())
        own = layer._core.demux.queue(channel.queue)
        own.sweep_at = 1
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
            own.sweep_at = 1
        await layer.close()

    run(main())


def test_who_waits_with_others_is_served_and_cancelled_as_who_waits_alone() -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine()))
        other, channel = await layer.new_channel(), await layer.new_channel()
        first, zero, *rest = await soon(
            layer.receive(other), *(layer.receive(channel) for _ in range(6))
        )
        one, two, three, four, five = rest
        # Who came first did not find others, and would see to those who come now.
        await layer.send(channel, {"n": 0})
        assert await zero == {"n": 0}
        # Not woken, and just woken.
        one.cancel()
        await layer.send(channel, {"n": 1})
        two.cancel()
        assert await three == {"n": 1}
        # In either order: one of them may have been woken for nothing, and waits anew.
        await layer.send(channel, {"n": 2})
        await layer.send(channel, {"n": 3})
        assert sorted([(await four)["n"], (await five)["n"]]) == [2, 3]
        await asyncio.gather(one, two, return_exceptions=True)
        (own,) = layer._core.demux.own.values()
        assert [len(waiters) for waiters in own.waiter_lists()] == [0, 1, 0]
        await layer.send(other, {"n": 4})
        assert await first == {"n": 4}
        assert not own.waiting
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", KINDS[:2])
def test_each_loop_is_woken_as_asyncio_demands_from_wherever(kind: Any) -> None:
    """Its debug mode tells if a loop is touched from outside."""
    layer = IPCChannelLayer(engine=engine(kind))
    names: list[str] = []

    async def receive() -> None:
        mine = [await layer.new_channel() for _ in range(3)]
        waiting = [asyncio.ensure_future(layer.receive(name)) for name in mine]
        await asyncio.sleep(0.02)
        names.extend(mine)
        for number in range(10):
            for place, name in enumerate(mine):
                assert await asyncio.wait_for(waiting[place], PATIENCE) == {"n": number}
                waiting[place] = asyncio.ensure_future(layer.receive(name))
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    failed: list[BaseException] = []

    def loop() -> None:
        try:
            asyncio.run(receive(), debug=True)
        except BaseException as error:
            failed.append(error)

    threads = [in_thread(loop) for _ in range(3)]
    while len(names) < 9 and not failed:
        time.sleep(0.01)
    for number in range(10):
        for name in names:
            layer.sync.send(name, {"n": number})
        time.sleep(0.02)
    for thread in threads:
        thread.join(PATIENCE)
    assert failed == []
    layer.sync.close()


@pytest.mark.parametrize("members", [1, 100])
def test_a_broadcast_asks_but_once_which_loop_runs(
    members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to CPython 3.11 that is a system call."""

    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine()))
        names = [await layer.new_channel() for _ in range(members + 1)]
        for name in names:
            await layer.group_add("g", name)
        asked = 0

        def counted() -> Any:
            nonlocal asked
            asked += 1
            return asyncio._get_running_loop()

        async def receive_twice(name: str) -> None:
            await layer.receive(name)
            await layer.receive(name)

        tasks = await soon(*(receive_twice(name) for name in names))
        for module in (loops, loop_waiters):
            monkeypatch.setattr(module, "running_loop", counted)
        for _ in range(2):
            await layer.group_send("g", {"n": 1})
            await asyncio.sleep(0.02)
        await asyncio.gather(*tasks)
        assert asked <= 10
        await layer.close()

    run(main())


def test_who_waits_with_others_gets_the_error_of_a_layer_that_is_closed() -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine()))
        channels = [await layer.new_channel() for _ in range(3)]
        tasks = await soon(*(layer.receive(channel) for channel in channels))
        await layer.close()
        for task in tasks:
            with pytest.raises(StoreUnavailable):
                await task

    run(main())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda own, channel: channel.items.append((b"", 1 << 62, 0)),
        lambda own, channel: setattr(own, "certain", False),
        lambda own, channel: setattr(own, "armed_by", None),
        lambda own, channel: own.waiting.clear(),
        lambda own, channel: setattr(channel, "known", False),
        lambda own, channel: setattr(own.armed_by.demux, "closed", True),
    ],
    ids=["a message", "a ring", "another's bell", "nobody", "forgotten", "closed"],
)
def test_who_waits_goes_the_short_way_only_while_it_is_open(spoil: Any) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        demux = layer._core.demux
        names = [await layer.new_channel() for _ in range(2)]
        waiting, given_up = await soon(*(layer.receive(name) for name in names))
        given_up.cancel()
        await asyncio.sleep(0)
        channel = demux.channels[names[1]]
        listener = channel.own.armed_by
        assert isinstance(listener, LoopListener)
        waiter = listener.expect(channel)
        assert waiter is not None
        listener.give_up(channel, waiter)
        spoil(channel.own, channel)
        assert listener.expect(channel) is None
        waiting.cancel()

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


# A hostile store


@pytest.mark.parametrize("payload", [b"", b"\1", b"\xff\xff\xff\xff", b"\1\0\0\0\xff\x80"])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_corrupt_record_is_an_error_for_who_waits_and_harms_no_other(
    kind: Any, payload: bytes
) -> None:
    async def main() -> None:
        corrupt = engine(kind)
        layer = IPCChannelLayer(engine=corrupt)
        channel = await layer.new_channel()
        (task,) = await soon(layer.receive(channel))
        name = channel_name(channel)
        deadline = corrupt.clock() + 10**10

        bad = Record(name.queue, payload, deadline, 100)
        good = bad._replace(payload=name.header + b"\x80")
        await asyncio.to_thread(corrupt.push, [bad])
        with pytest.raises(StoreCorrupt):
            await task
        await asyncio.to_thread(corrupt.push, [bad, good])
        if kind is CountingEngine:  # Else it is somebody else's call that meets it.
            with pytest.raises(StoreCorrupt):
                await layer.receive(channel)
        assert await layer.receive(channel) == {}
        await layer.close()

    run(main())


def test_an_error_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        corrupt = engine()
        layer = IPCChannelLayer(engine=corrupt)
        channel = channel_name(await layer.new_channel())
        (task,) = await soon(layer.receive(channel.full))
        bad = Record(channel.queue, b"", corrupt.clock() + 10**10, 100)
        corrupt.push([bad._replace(payload=channel.header + b"\x80"), bad])
        assert await task == {}
        await layer.close()

    run(main())
    assert "says that its message starts" in caplog.text
    assert len(caplog.records) == 1


def test_an_engine_that_fails_when_its_bell_rings_fails_those_who_wait() -> None:
    class Failing(CountingEngine):
        broken = False

        def pop(self, *arguments: Any, **options: Any) -> list[Popped]:
            if self.broken:
                raise StoreUnavailable("gone")
            return super().pop(*arguments, **options)

    async def main() -> None:
        failing = engine(Failing)
        layer = IPCChannelLayer(engine=failing)
        tasks = await soon(layer.receive(await layer.new_channel()), layer.receive("c"))
        failing.broken = True
        await layer.send(await layer.new_channel(), {})
        await layer.send("c", {})
        for task in tasks:
            with pytest.raises(StoreUnavailable, match="gone"):
                await task
        await layer.close()

    run(main())


# Loops and threads


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("specific", [True, False])
def test_loops_in_threads_share_a_layer(kind: Any, specific: bool) -> None:
    layer = IPCChannelLayer(engine=engine(kind), capacity=10_000)
    got: list[list[int]] = [[] for _ in range(3)]
    channels = [run(layer.new_channel()) if specific else f"c{n}" for n in range(3)]

    def work(number: int) -> None:
        async def main() -> None:
            for _ in range(100):
                got[number].append((await layer.receive(channels[number]))["n"])

        run(main())

    threads = [in_thread(work, number) for number in range(3)]

    async def send() -> None:
        for number in range(100):
            for channel in channels:
                await layer.send(channel, {"n": number})
            await asyncio.sleep(0.001)

    run(send())
    for thread in threads:
        thread.join(PATIENCE)
    assert got == [list(range(100))] * 3
    layer.sync.close()


def test_a_loop_that_closes_leaves_its_bell_to_nobody() -> None:
    """A loop that got its message leaves its bell armed; another must not wait for it."""

    async def receive(channel: str) -> dict[str, Any]:
        message: dict[str, Any] = await layer.receive(channel)
        return message

    async def rest() -> None:
        for number in range(5):
            (task,) = await soon(layer.receive(channel))
            await layer.send(channel, {"n": number})
            assert await task == {"n": number}

    counting = engine()
    layer = patient(IPCChannelLayer(engine=counting))
    for channel in (run(layer.new_channel()), "c"):

        async def wait_and_get(channel: str = channel) -> None:
            (task,) = await soon(receive(channel))
            await layer.send(channel, {})
            assert await task == {}

        for _ in range(3):
            run(wait_and_get())
        run(rest())
    assert len(layer._core.demux.loops) == 1
    layer.sync.close()


def test_closed_loops_leave_no_descriptors_behind() -> None:
    layer = IPCChannelLayer(engine=engine())
    layer.sync.send("a", {})

    async def wait() -> None:
        assert await nothing(layer, "c")
        assert await nothing(layer, await layer.new_channel())

    run(wait())
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        run(wait())
    gc.collect()
    assert len(os.listdir("/dev/fd")) <= before + 1
    layer.sync.close()


@pytest.mark.parametrize("how", ["cancelled", "served", "closed"])
def test_who_waits_in_one_loop_is_served_when_the_loop_that_was_armed_goes(how: str) -> None:
    layer = patient(IPCChannelLayer(engine=engine()))
    first, second = run(layer.new_channel()), run(layer.new_channel())
    demux, queue = layer._core.demux, channel_name(first).queue
    loop = asyncio.new_event_loop()
    task = loop.create_task(layer.receive(first))
    loop.run_until_complete(asyncio.sleep(0.05))
    assert demux.own[queue].armed_by is demux.loops[id(loop)]
    got: list[Any] = []
    thread = in_thread(lambda: got.append(run(layer.receive(second))))
    while sum(demux.own[queue].waiting.values()) < 2:
        time.sleep(0.001)
    if how == "served":
        layer.sync.send(first, {})
        assert loop.run_until_complete(task) == {}
    elif how == "cancelled":
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    else:
        # Without a word; the next loop that comes along notices.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        (coroutine,) = [task.get_coro()]
        assert coroutine is not None
        run(listen_shortly(layer))
    layer.sync.send(second, {"n": 1})
    thread.join(PATIENCE)
    assert got == [{"n": 1}]
    loop.close()
    layer.sync.close()


async def listen_shortly(layer: IPCChannelLayer) -> None:
    assert await nothing(layer, "c")


def test_a_loop_that_rests_is_not_relied_upon() -> None:
    layer = patient(IPCChannelLayer(engine=engine()))
    channel = run(layer.new_channel())
    resting = asyncio.new_event_loop()
    task = resting.create_task(layer.receive(channel))
    resting.run_until_complete(asyncio.sleep(0.01))
    layer.sync.send(channel, {"n": 1})
    assert resting.run_until_complete(task) == {"n": 1}  # And its bell is armed again.

    async def main() -> None:
        (task,) = await soon(layer.receive(channel))
        await asyncio.to_thread(layer.sync.send, channel, {"n": 2})
        assert await task == {"n": 2}

    run(main())
    layer.sync.close()
    resting.close()


def test_a_message_that_is_there_is_received_without_waiting_for_the_bells_loop() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        channel = await layer.new_channel()
        (task,) = await soon(layer.receive(channel))
        await layer.send(channel, {})
        await task  # The bell is armed again.
        await layer.group_add("g", channel)
        for send in (layer.send(channel, {"n": 1}), layer.group_send("g", {"n": 1})):
            await send
            receive = layer.receive(channel)
            with pytest.raises(StopIteration) as stopped:
                receive.send(None)
            assert stopped.value.value == {"n": 1}
            await asyncio.sleep(0.01)
        await layer.close()

    run(main())


@pytest.mark.parametrize("linger", [0.01, 1000.0])
def test_a_ring_that_nobody_here_wants_any_more_goes_to_another_process(
    linger: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines on one store stand for two processes.

    The first takes a message that rang the second, so that its own bell is still armed,
    and then turns away. It disarms the bell a little later, or when it rings.
    """
    monkeypatch.setattr("asgi_ipc.loops.LINGER", linger)

    async def main() -> None:
        prefix = fresh()
        sizes = {"channel_memory": 10**6, "group_memory": 10**6}
        one = patient(IPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
        two = patient(IPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
        (second,) = await soon(two.receive("c"))
        (first,) = await soon(one.receive("c"))
        listener = one._core.demux.loops[id(asyncio.get_running_loop())]
        await two.send("c", {"n": 1})
        listener._rung()  # For another queue, say.
        assert await first == {"n": 1}
        await asyncio.sleep(0.1)
        assert (b"c" in listener.watches) == (linger == 1000)
        assert not second.done()
        await one.send("c", {"n": 2})
        assert await second == {"n": 2}
        assert not listener.watches
        await one.close()
        await two.close()

    run(main())


def test_a_layer_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()

    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        for channel in (await layer.new_channel(), "c"):
            (task,) = await soon(layer.receive(channel))
            await layer.send(channel, {"n": 1})
            assert await task == {"n": 1}
            assert await nothing(layer, channel)
        await layer.close()

    loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    loop.close()
    del loop
    gc.collect()
