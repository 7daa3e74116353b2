"""Channels without receives leave their groups, and come back (O6). Time is a number here.

What takes real time, on every engine, is in `conformance/test_suspension.py`. Calls in the middle
of a suspension are in `test_suspension_races.py`, its costs in `test_suspension_costs.py`, its
bounds in `test_suspension_bounds.py`, and what the log says in `test_suspension_log.py`.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery import drop_log
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.doubles import (
    PATIENCE,
    fresh,
    run,
    watchdog,
)
from tests.tools.layers import demux_of
from tests.tools.suspension import EXPIRY, SECOND, Site, begin_receiving, end, log_lines, until

__all__ = ["watchdog"]


# When


def test_a_channel_is_suspended_after_five_times_expiry_and_comes_back_with_the_next_receive() -> (
    None
):
    async def main() -> None:
        site = Site()
        channel = await site.dead("room", "lobby")
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(5 * EXPIRY - 2)
        assert await site.members("room") == await site.members("lobby") == [channel]
        await site.pass_time(4)
        assert await site.members("room") == await site.members("lobby") == []
        waiting = await begin_receiving(site.layer, channel)
        assert await site.members("room") == await site.members("lobby") == [channel]
        await site.other.group_send("lobby", {"type": "again"})
        assert await asyncio.wait_for(waiting, PATIENCE) == {"type": "again"}
        await site.pass_time(3 * EXPIRY)
        assert await site.members("room") == [channel]

    run(main())


def test_a_thread_that_receives_on_a_suspended_channel_brings_back_that_one_alone() -> None:
    async def main() -> None:
        site = Site()
        channels = [await site.suspended("room") for _ in range(2)]
        sync = site.layer.sync
        for block in (False, True):
            assert sync.receive([channels[0]], block, timeout=0) == (None, None)
            assert await site.members("room") == channels[:1]

    run(main())


def test_a_handler_that_takes_three_times_expiry_keeps_its_rooms() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.dead("room")
        for _ in range(4):
            await site.pass_time(
                3 * EXPIRY, lambda: site.other.group_send("room", {"type": "missed"})
            )
            assert await site.members("room") == [channel]
            await site.layer.receive(channel)

    run(main())


@pytest.mark.parametrize("way", ["async", "sync"])
def test_a_receive_that_waits_is_never_suspended(way: str) -> None:
    async def main() -> None:
        site = Site()
        channel = await site.dead("room")
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(4 * EXPIRY)
        queue = site.layer.non_local_name(channel)
        if way == "async":
            waiting = await begin_receiving(site.layer, channel)
        else:
            receive = site.layer.sync.receive
            waiting = asyncio.get_running_loop().run_in_executor(
                None, lambda: receive([queue], block=True, timeout=PATIENCE)
            )
            await until(lambda: bool(demux_of(site.layer).own[queue.encode()].anyone))
        await site.pass_time(30 * EXPIRY)
        assert await site.members("room") == [channel]
        await site.other.group_send("room", {"type": "at last"})
        assert await asyncio.wait_for(waiting, PATIENCE) in (
            {"type": "at last"},
            (channel, {"type": "at last"}),
        )

    run(main())


def test_silence_alone_is_no_reason() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.dead("room")
        await site.pass_time(30 * EXPIRY)
        assert await site.members("room") == [channel]

    run(main())


def test_a_message_to_a_neighbour_that_expires_on_the_same_queue_is_no_reason() -> None:
    async def main() -> None:
        site = Site()
        silent, dead = await site.dead("quiet"), await site.dead("room")
        await site.pass_time(8 * EXPIRY, lambda: site.other.group_send("room", {"type": "unread"}))
        assert await site.members("room") == []
        assert await site.members("quiet") == [silent]
        assert silent.split("!")[0] == dead.split("!")[0]

    run(main())


def test_messages_dropped_to_make_room_for_newer_ones_count_once_they_would_have_expired() -> None:
    async def main() -> None:
        site = Site(capacity=3)
        await site.dead("room")
        neighbour = await begin_receiving(site.layer, await site.layer.new_channel())
        # None of them grows old enough to expire in the buffer.
        await site.pass_time(6 * EXPIRY, lambda: site.other.group_send("room", {"type": "unread"}))
        assert await site.members("room") == []
        await end(neighbour)

    run(main())


def test_receives_that_find_their_message_at_once_count_as_life() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.dead("room")
        other = await site.layer.new_channel()

        async def each() -> None:
            await site.other.group_send("room", {"type": "read"})
            await site.other.send(other, {"type": "unread"})
            await site.layer.receive(channel)
            if site.now // SECOND % 7 == 0:
                await site.pass_time(EXPIRY + 1)  # Unread meanwhile, in the buffer and the queue.

        await site.pass_time(20 * EXPIRY, each)
        assert await site.members("room") == [channel]

    run(main())


def test_a_channel_forgotten_as_idle_between_two_looks_was_received_on_all_the_same() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.dead("room")
        demux = demux_of(site.layer)
        (own,) = demux.own.values()
        waiting = await begin_receiving(site.layer, channel)
        await site.pass_time(2)
        site.let_pass(30, look=False)  # As if there were very many channels to visit.
        await site.other.group_send("room", {"type": "read"})
        await asyncio.wait_for(waiting, PATIENCE)
        with demux.lock:
            own.forget_idle(10)
        await site.pass_time(22, lambda: site.other.group_send("room", {"type": "unread"}))
        assert await site.members("room") == [channel]
        await site.pass_time(3 * EXPIRY)
        assert await site.members("room") == []

    run(main())


def test_a_synchronous_receive_that_finds_nothing_counts_as_life() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.dead("room")
        for _ in range(4):
            await site.other.group_send("room", {"type": "unread"})
            await site.pass_time(4 * EXPIRY)
            found = site.layer.sync.receive([site.layer.non_local_name(channel)])
            assert found == (None, None)
            assert await site.members("room") == [channel]

    run(main())


# What is restored


def test_a_restored_membership_ends_when_it_would_have_ended() -> None:
    async def main() -> None:
        site = Site(group_expiry=20 * EXPIRY)
        channel = await site.suspended("room")
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("room") == [channel]
        site.now += int(13.9 * EXPIRY * SECOND)
        assert await site.members("room") == [channel]
        site.now += int(0.2 * EXPIRY * SECOND)
        assert await site.members("room") == []

    run(main())


def test_a_membership_that_ended_meanwhile_is_not_restored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        site = Site(group_expiry=8 * EXPIRY)
        channel = await site.suspended("room", "lobby")
        await site.layer.group_add("lobby", channel)
        site.now += int(3 * EXPIRY * SECOND)
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("room") == []
        assert await site.members("lobby") == [channel]

    run(main())
    assert len(log_lines(caplog, "raise group_expiry")) == 1


def test_adding_and_discarding_while_suspended_take_effect_with_the_next_receive() -> None:
    async def main() -> None:
        site = Site(group_expiry=20 * EXPIRY)
        channel = await site.suspended("room", "lobby", "kept")
        await site.layer.group_add("new", channel)
        await site.layer.group_discard("lobby", channel)
        await site.layer.group_discard("never", channel)
        site.now += int(10 * EXPIRY * SECOND)
        await site.layer.group_add("kept", channel)
        assert [await site.members(each) for each in ("new", "lobby", "kept")] == [[], [], []]
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("lobby") == []
        for group in ("room", "new", "kept"):
            assert await site.members(group) == [channel]
        site.now += int(6 * EXPIRY * SECOND)
        assert [await site.members(each) for each in ("room", "kept")] == [[], [channel]]

    run(main())


def test_what_another_process_discards_meanwhile_does_not_come_back() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.suspended("room", "lobby")
        await site.other.group_discard("room", channel)
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("room") == []
        assert await site.members("lobby") == [channel]
        await site.layer.group_discard("lobby", channel)
        assert len(site.memberships.awake) == 0
        assert (await site.layer.global_statistics())["memberships_count"] == 0

    run(main())


def test_a_channel_that_left_all_its_groups_while_suspended_is_forgotten() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.suspended("room")
        await site.layer.group_discard("room", channel)
        assert (site.memberships.asleep, site.memberships._count) == ({}, 0)
        assert (await site.layer.global_statistics())["memberships_count"] == 0
        assert not await site.gets(channel, {"type": "for nobody"})

    run(main())


def test_what_another_process_adds_is_left_alone() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.dead("room")
        await site.other.group_add("theirs", channel)
        await site.pass_time(10 * EXPIRY, lambda: site.other.group_send("room", {"type": "unread"}))
        assert await site.members("room") == []
        assert await site.members("theirs") == [channel]
        # Whoever discards it takes it out for good.
        await site.other.group_add("room", channel)
        await site.other.group_discard("room", channel)
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("room") == []

    run(main())


def test_a_synchronous_receive_restores_all_channels_that_it_reads() -> None:
    async def main() -> None:
        site = Site()
        channels = [await site.dead("room") for _ in range(3)]
        await site.other.group_send("room", {"type": "unread"})
        await site.pass_time(6 * EXPIRY)
        assert await site.members("room") == []
        assert site.layer.sync.receive([site.layer.non_local_name(channels[0])]) == (None, None)
        assert sorted(await site.members("room")) == sorted(channels)
        assert site.memberships.asleep == {}

    run(main())


@pytest.mark.parametrize("action", ["group_add", "group_send", "receive"])
def test_without_an_event_loop_the_next_call_looks(action: str) -> None:
    site = Site()
    layer = site.layer.sync
    queue = f"own.{layer.client_prefix}!"
    for name in ("one", "two"):
        layer.group_add(name, f"{queue}{name}")
    site.other.sync.group_send("one", {"type": "unread"})
    for _ in range(int(6 * EXPIRY)):
        site.now += SECOND
        if action == "group_add":
            layer.group_add("elsewhere", f"{queue}three")
        elif action == "group_send":
            layer.group_send("nobody", {"type": "unheard"})
        else:
            layer.receive(["ordinary"])
    assert site.other.sync.group_channels("one") == []
    assert site.other.sync.group_channels("two") == [f"{queue}two"]


# Flush, close, fork


def test_a_flush_forgets_what_was_suspended_and_what_is_added_after_it_counts() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.suspended("room")
        await site.other.flush()
        await site.layer.group_add("lobby", channel)
        assert (site.memberships.asleep, site.memberships._count) == ({}, 1)
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("room") == []
        assert await site.members("lobby") == [channel]
        await site.other.group_send("lobby", {"type": "unread"})
        await site.pass_time(7 * EXPIRY)
        assert await site.members("lobby") == []

    run(main())


def test_a_flush_without_another_call_is_noticed_by_the_next_receive() -> None:
    async def main() -> None:
        site = Site()
        channel = await site.suspended("room")
        await site.other.flush()
        await end(await begin_receiving(site.layer, channel))
        assert await site.members("room") == []
        assert (site.memberships.asleep, site.memberships._count) == ({}, 0)
        assert (await site.layer.global_statistics())["memberships_count"] == 0

    run(main())


@pytest.mark.parametrize("how", ["close", "destroy"])
def test_closing_forgets(how: str) -> None:
    async def main() -> None:
        site = Site()
        await site.suspended("room")
        await site.dead("room")
        await getattr(site.layer, how)()
        assert (len(site.memberships.awake), site.memberships.asleep) == (0, {})

    run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_remembers_nothing_of_its_parent() -> None:
    site = Site()
    channel = run(site.suspended("room"))
    child = os.fork()
    if not child:
        try:
            memberships = demux_of(site.layer).memberships
            clean = not memberships.awake and not memberships.asleep
            clean &= not memberships.lock._is_owned()
            os._exit(0 if clean else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert site.memberships.note_receive(channel, channel.partition("!")[0].encode() + b"!")


# The option


def test_it_can_be_switched_off() -> None:
    async def main() -> None:
        site = Site(suspend_silent_channels=False)
        assert site.layer.suspend_silent_channels is False
        channel = await site.dead("room")
        await site.pass_time(20 * EXPIRY, lambda: site.other.group_send("room", {"type": "unread"}))
        assert await site.members("room") == [channel]
        # Nor is anything fetched for it ahead of a receive.
        assert not demux_of(site.layer).own[site.queue(channel)].filled

    run(main())


def test_of_two_layers_each_has_its_own_patience() -> None:
    async def main() -> None:
        site = Site()
        engine = demux_of(site.layer).engine
        slow = IPCChannelLayer(engine=engine, expiry=10 * EXPIRY)
        off = IPCChannelLayer(engine=engine, expiry=EXPIRY, suspend_silent_channels=False)
        channel = await site.dead("room")
        await slow.group_add("room", channel)
        kept = await site.layer.new_channel()
        await off.group_add("kept", kept)

        async def each() -> None:
            for group in ("room", "kept"):
                await site.other.group_send(group, {"type": "unread"})

        await site.pass_time(50 * EXPIRY, each)
        assert await site.members("room") == [channel]
        await site.pass_time(2, each)
        assert await site.members("room") == []
        assert await site.members("kept") == [kept]
        # It keeps all memberships of a channel that it has added to a group.
        await site.layer.group_add("lobby", kept)
        await site.pass_time(6 * EXPIRY, each)
        assert await site.members("lobby") == [kept]
        await site.layer.group_discard("lobby", kept)
        # A layer that keeps all adds to a suspended channel what will stay.
        await off.group_add("lobby", channel)
        assert await site.members("lobby") == [channel]
        for layer in (slow, off):
            await layer.close()

    run(main())


# Channels


@pytest.mark.parametrize("seconds", [0, 3 * 0.3])
def test_consumers_of_channels_whose_handler_raised_leave_and_whose_handler_waits_stay(
    seconds: float,
) -> None:
    pytest.importorskip("channels")
    from asgiref import testing
    from channels.consumer import AsyncConsumer
    from channels.layers import channel_layers
    from django.conf import settings

    if not settings.configured:
        settings.configure(CHANNEL_LAYERS={})
    communicator: Any = testing.ApplicationCommunicator

    class Chat(AsyncConsumer):  # type: ignore[misc]
        async def test_start(self, event: Any) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.send({"type": "ready"})

        async def chat_ask(self, event: Any) -> None:
            if not seconds:
                raise ZeroDivisionError
            await asyncio.sleep(seconds)  # For a model.
            await self.send({"type": "answer"})

        async def chat_note(self, event: Any) -> None:
            await self.send({"type": "note"})

    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine="memory", expiry=0.3)
        before = channel_layers.set("default", layer)
        try:
            application: Any = communicator(Chat(), {"type": "test"})
            await application.send_input({"type": "test.start"})
            assert await application.receive_output(PATIENCE) == {"type": "ready"}
            await layer.group_send("room", {"type": "chat.ask"})
            if seconds:
                for _ in range(3):
                    assert await application.receive_output(PATIENCE) == {"type": "answer"}
                    assert len(await layer.group_channels("room")) == 1
                    await layer.group_send("room", {"type": "chat.ask"})
                application.future.cancel()
                await asyncio.gather(application.future, return_exceptions=True)
                return
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(application.future, PATIENCE)
            end = time.monotonic() + PATIENCE
            while await layer.group_channels("room"):
                assert time.monotonic() < end
                # From another thread, say: nobody in this loop receives any more.
                layer.sync.group_send("room", {"type": "chat.note"})
                await asyncio.sleep(0.1)
        finally:
            channel_layers.backends.pop("default")
            if before is not None:
                channel_layers.set("default", before)
            await layer.close()

    run(main())


def test_a_loop_in_which_nobody_waits_looks_as_long_as_there_are_channels_to_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drop_log, "INTERVAL", 0.5)

    async def main() -> None:
        prefix = fresh()
        layer = IPCChannelLayer(prefix, engine="memory", expiry=0.1)
        engine = MemoryEngine(prefix, channel_memory=100 * 1024**2, group_memory=20 * 1024**2)
        other = IPCChannelLayer(engine=engine, expiry=0.1)
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "hello"})
        await layer.receive(channel)
        await layer.group_add("room", channel)
        demux = demux_of(layer)
        (listener,) = demux.loops.values()
        end = time.monotonic() + PATIENCE
        while await other.group_channels("room"):
            assert time.monotonic() < end
            await other.group_send("room", {"type": "unread"})
            await asyncio.sleep(0.05)
        # The end of its regular looks, once the last line is written.
        while listener._timer is not None:
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        await other.close()
        await layer.close()

    run(main())
