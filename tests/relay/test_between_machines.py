"""Messages between machines: R1, R2, R3, R4, R6."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Collection
from threading import Event
from types import FrameType

import pytest

from asgi_ipc.relay import relay
from asgi_ipc.relay.frames import MOST_EXCLUDED
from asgi_ipc.relay.way_out import HEARD, NOTICES
from tests.tools.clocks import Clock
from tests.tools.machines import Machine, Site, eventually, received, run

SECOND = 1_000_000_000


def test_a_group_message_reaches_every_member_on_every_machine_once(site: Site) -> None:
    """R1."""

    async def main() -> None:
        machines = await site.joined(3)
        members = [(m, await m.member("room", "other")) for m in machines for _ in range(2)]
        for number in range(5):
            await machines[number % 3].layer.group_send("room", {"n": number})
        for machine in machines:
            await machine.layer.group_send("other", {"n": "end"})
        for machine, channel in members:
            found: list[object] = []
            while found.count("end") < 3:
                found += await received(machine.layer, channel)
            assert sorted(map(str, found)) == ["0", "1", "2", "3", "4", "end", "end", "end"]
            assert machine.count("gaps") == 0
        for machine in machines:
            mine = sorted(channel for m, channel in members if m is machine)
            assert sorted(await machine.layer.group_channels("room")) == mine

    run(main)


def test_a_broadcast_leaves_out_whom_it_excludes_on_every_machine(site: Site) -> None:
    """R1."""

    async def main() -> None:
        one, two = await site.joined(2)
        near = [await one.member("room") for _ in range(2)]
        far = [await two.member("room") for _ in range(2)]
        for machine in (one, two):
            await machine.layer.group_add("room", "everywhere")
        exclusions = [near[0], far[0], [near[1], far[1]], "everywhere", [*near, *far], far]
        for number, exclude in enumerate(exclusions):
            assert await one.layer.group_send("room", {"n": number}, exclude=exclude) == ()
        await one.layer.group_send("room", {"n": "end"})
        for machine, channels in ((one, near), (two, far)):
            for channel in (*channels, "everywhere"):
                wanted = [n for n, each in enumerate(exclusions) if channel not in each]
                assert await received(machine.layer, channel, "end") == [*wanted, "end"]
        assert two.count("gaps") == 0
        strangers = [f"specific.{number:032x}!{number:032x}" for number in range(MOST_EXCLUDED)]
        await one.layer.group_send("room", {"n": "most"}, exclude=strangers)
        assert await received(two.layer, far[0]) == ["most"]
        with pytest.raises(ValueError, match="at most 10,000 travel"):
            await one.layer.group_send("room", {"n": 1}, exclude=[*strangers, far[0]])

    run(main)


def test_a_channel_of_another_machine_is_sent_to_and_enters_and_leaves_groups(site: Site) -> None:
    """R2."""

    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.layer.new_channel()
        await one.layer.send(channel, {"n": "direct"})
        assert await received(two.layer, channel) == ["direct"]
        await one.layer.group_add("room", channel)
        await eventually(lambda: two.hears("room"))
        assert await two.layer.group_channels("room") == [channel]
        assert await one.layer.group_channels("room") == []
        await one.layer.group_send("room", {"n": "group"})
        assert await received(two.layer, channel) == ["group"]
        await one.layer.group_discard("room", channel)
        await one.layer.group_send("room", {"n": "not a member"})
        await one.layer.send(channel, {"n": "direct"})
        assert await received(two.layer, channel) == ["direct"]

    run(main)


def test_what_is_for_no_machine_or_no_process_is_dropped_and_counted(site: Site) -> None:
    """R2."""

    async def main() -> None:
        one, two = await site.joined(2)
        await eventually(one.relay_now._knows_all)
        stranger = f"specific.{'ab' * 16}!{'cd' * 16}"
        await one.layer.send(stranger, {"n": 1})
        await eventually(lambda: one.count("dropped_no_machine"))
        # A process that is not there, of a machine that is.
        ended = f"specific.{two.node.hex()}{'ab' * 11}!{'cd' * 16}"
        await one.layer.send(ended, {"n": 1})
        channel = await two.layer.new_channel()
        await one.layer.send(channel, {"n": 2})
        assert await received(two.layer, channel) == [2]

    run(main)


def test_one_senders_direct_and_group_messages_to_a_channel_come_in_order(site: Site) -> None:
    """R3."""

    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.member("a", "b")
        random.seed(3)
        for number in range(300):
            where = random.choice(["a", "b", channel])
            send = one.layer.send if where == channel else one.layer.group_send
            await send(where, {"n": number})
            if number % 50 == 0:
                await asyncio.sleep(0)
        assert await received(two.layer, channel, 299) == list(range(300))

    run(main)


def test_the_remaining_lifetime_travels(site: Site) -> None:
    """R4."""
    clock = Clock()

    async def main() -> None:
        one, two = await site.joined(2, expiry=30, clock=clock)
        channel, other = await two.member("room"), await two.layer.new_channel()
        one.end()
        await one.layer.group_send("room", {"n": "before"})
        clock.now += 31 * SECOND
        await one.layer.group_send("room", {"n": "after"})
        one.begin()
        await eventually(lambda: one.knows(two))
        assert await received(two.layer, channel) == ["after"]
        # Also what has used up part of it on the way.
        one.end()
        await one.layer.send(channel, {"n": "before"})
        clock.now += 15 * SECOND
        await one.layer.send(other, {"n": "behind it"})
        one.begin()
        assert await received(two.layer, other) == ["behind it"]
        clock.now += 20 * SECOND
        await one.layer.send(channel, {"n": "after"})
        assert await received(two.layer, channel) == ["after"]

    run(main)


def test_a_machine_hears_only_the_shards_in_which_it_has_groups(site: Site) -> None:
    """R6."""

    async def main() -> None:
        one, two = await site.joined(2)
        heard, sent = two.count("frames_in"), one.count("frames_out")
        for number in range(20):
            await one.layer.group_send(f"room-{number}", {"n": number})
        await eventually(lambda: one.count("frames_out") >= sent + 20)
        channel = await two.member("room-7")
        await one.layer.group_send("room-7", {"n": "member"})
        assert await received(two.layer, channel) == ["member"]
        assert two.count("frames_in") - heard < 20, "one, and beats"
        assert two.count("gaps") == 0, "what it did not want to hear is none"
        # In a group that is suspended, or empty, it still hears; without it no more.
        shards, wire = two.relay_now.shards, two.relay_now._wire
        await _in_thread(two, shards.unsubscribe_unused(wire))
        assert two.hears("room-7")
        await two.layer.group_discard("room-7", channel)
        await _in_thread(two, shards.unsubscribe_unused(wire))
        assert not two.hears("room-7")
        channel = await two.member("room-7")
        await one.layer.group_send("room-7", {"n": "again"})
        assert await received(two.layer, channel) == ["again"]

    run(main)


def test_a_group_that_begins_while_its_shard_is_left_is_heard(site: Site) -> None:
    """R6."""

    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.member("room")
        await two.layer.group_discard("room", channel)
        shards, wire = two.relay_now.shards, two.relay_now._wire
        site.server.freeze()
        leaving = asyncio.ensure_future(_in_thread(two, shards.unsubscribe_unused(wire)))
        await eventually(lambda: not two.engine.members(HEARD).names)
        await two.layer.group_add("room", channel)
        await eventually(lambda: not two.engine.peek(NOTICES))
        assert not leaving.done()
        site.server.thaw()
        await leaving
        await eventually(lambda: two.hears("room"))
        await one.layer.group_send("room", {"n": 1})
        assert await received(two.layer, channel) == [1]

    run(main)


def test_a_group_that_begins_before_its_process_is_told_otherwise_is_heard(site: Site) -> None:
    """R6: the process has just seen that the shard is heard, and so leaves no notice."""

    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.member("room")
        await two.layer.group_discard("room", channel)
        shards, wire = two.relay_now.shards, two.relay_now._wire
        tell = shards._tell

        def tell_late(heard: set[int]) -> None:
            shards._tell = tell
            two.layer.sync.group_add("room", channel)
            tell(heard)

        shards._tell = tell_late
        await _in_thread(two, shards.unsubscribe_unused(wire))
        assert two.hears("room")
        await one.layer.group_send("room", {"n": 1})
        assert await received(two.layer, channel) == [1]

    run(main)


async def _published(machine: Machine, number: int) -> None:
    sent = machine.count("frames_out")
    await machine.layer.group_send("room", {"n": number})
    await eventually(lambda: machine.count("frames_out") > sent)


async def _beats_are_heard(machine: Machine) -> None:
    heard = machine.count("frames_in")
    await eventually(lambda: machine.count("frames_in") >= heard + 3)


def test_what_is_published_in_a_shard_that_was_just_left_is_no_gap(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5: a beat that comes together with the server's confirmation tells of it."""
    monkeypatch.setattr(relay, "BEAT", 0.1)

    async def main() -> None:
        one, two, channel = await site.in_a_room()
        await two.layer.group_discard("room", channel)
        shards, wire = two.relay_now.shards, two.relay_now._wire
        unsubscribe, left, told = wire.unsubscribe, Event(), Event()

        async def confirmed_late(topics: Collection[bytes]) -> None:
            await unsubscribe(topics)
            left.set()
            await eventually(told.is_set)

        monkeypatch.setattr(wire, "unsubscribe", confirmed_late)
        leaving = asyncio.ensure_future(_in_thread(two, shards.unsubscribe_unused(wire)))
        await eventually(left.is_set)
        await _published(one, 1)
        await _beats_are_heard(two)
        told.set()
        await leaving
        assert two.count("gaps") == 0

    run(main)


def test_what_is_published_before_a_shard_is_heard_is_no_gap(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5, R6: a beat that comes before the server's confirmation tells of what came before."""
    monkeypatch.setattr(relay, "BEAT", 0.1)

    async def main() -> None:
        one, two = await site.joined(2)
        wire = two.relay_now._wire
        subscribe, asked, told = wire.subscribe, Event(), Event()

        async def late(topics: Collection[bytes]) -> None:
            asked.set()
            await eventually(told.is_set)
            await subscribe(topics)

        monkeypatch.setattr(wire, "subscribe", late)
        channel = await two.layer.new_channel()
        await two.layer.group_add("room", channel)
        await eventually(asked.is_set)
        for number in range(2):
            await _published(one, number)
            await _beats_are_heard(two)
        await _published(one, 2)
        told.set()
        await eventually(lambda: two.hears("room"))
        await one.layer.group_send("room", {"n": 3})
        assert await received(two.layer, channel) == [3]
        assert two.count("gaps") == 0

    run(main)


def test_what_a_machine_hears_no_more_after_an_outage_is_no_gap(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5, R6."""
    monkeypatch.setattr(relay, "BEAT", 0.1)

    async def main() -> None:
        one, two, channel = await site.in_a_room()
        site.server.go_away()
        await eventually(lambda: two.relay_now.state == "away")
        await two.layer.group_discard("room", channel)
        site.server.come_back()
        await eventually(lambda: one.knows(two) and two.knows(one) and not two.hears("room"))
        await _published(one, 1)
        await _beats_are_heard(two)
        assert two.count("gaps") == 0

    run(main)


def test_a_group_message_sent_in_the_middle_of_another_call_arrives_once(site: Site) -> None:
    """R1: as a finalizer sends it, where its thread is just in the store."""

    async def main() -> None:
        one, two = await site.joined(2)
        channels = [await machine.member("room") for machine in (one, two)]
        layer, inside = one.layer.sync, one.engine.inside
        layer.group_send("room", {"n": 0})

        def interrupt(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and inside():
                sys.setprofile(None)
                # So large that its sender looks whether the way out is within its bound.
                layer.group_send("room", {"n": 1, "text": 50_000 * "x"})

        sys.setprofile(interrupt)
        layer.send("other", {})
        assert sys.getprofile() is None
        layer.group_send("room", {"n": "end"})
        for machine, channel in zip((one, two), channels, strict=True):
            assert await received(machine.layer, channel, "end") == [0, 1, "end"]

    run(main)


async def _in_thread(machine: object, coroutine: object) -> None:
    """Run a coroutine of a relay in its loop."""
    loop = machine.relay._loop  # type: ignore[attr-defined]
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))  # type: ignore[arg-type]


def test_groups_from_before_the_relay_began_are_heard(site: Site) -> None:
    """R6."""

    async def main() -> None:
        (one,) = await site.joined(1)
        two = site.machine()
        channel = await two.layer.new_channel()
        await two.layer.group_add("room", channel)
        two.begin()
        await eventually(lambda: two.knows(one))
        await one.layer.group_send("room", {"n": 1})
        assert await received(two.layer, channel) == [1]

    run(main)
