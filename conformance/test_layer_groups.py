"""Groups and flushing on the asynchronous layer: S13 to S18 of Channels' specification."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from .case import in_loop
from .receiving import all_of, at_some_pace, within
from .tools import ENOUGH, patient

if TYPE_CHECKING:
    from .case import Case


@pytest.mark.clause("S13")
@in_loop
async def test_adding_twice_is_once_and_a_stranger_can_be_discarded(case: Case) -> None:
    layer = case.layer()
    await layer.group_add("g", "c")
    await layer.group_add("g", "c")
    await layer.group_discard("g", "stranger")
    await layer.group_discard("no.such.group", "c")
    await layer.group_send("g", {"n": 1})
    assert await all_of(layer, "c") == [{"n": 1}]
    await layer.group_discard("g", "c")
    await layer.group_send("g", {"n": 2})
    assert await all_of(layer, "c") == []
    await layer.group_send("no.such.group", {"n": 3})


@pytest.mark.clause("S14")
@in_loop
async def test_a_group_reaches_each_member_once(case: Case) -> None:
    layer, other = case.layer(), case.layer()
    members = ["one", "two"]
    members += [await each.new_channel("test-gr") for each in (layer, layer, other)]
    outsider = await layer.new_channel("test-gr")
    for member in members:
        await layer.group_add("g", member)
    await other.group_add("g", "left")
    await layer.group_discard("g", "left")
    assert sorted(await other.group_channels("g")) == sorted(members)
    for number in range(3):
        await other.group_send("g", {"n": number})
    for number, member in enumerate(members):
        reader = (layer, other)[number == 4]
        assert [message["n"] for message in await all_of(reader, member)] == [0, 1, 2]
    assert await within(0.03, layer, outsider) is None
    assert await within(0.03, layer, "left") is None


@pytest.mark.clause("S14")
@pytest.mark.needs("crosses_processes")
@in_loop
async def test_a_group_reaches_members_in_other_processes(case: Case) -> None:
    layer, others = case.layer(), [case.process() for _ in range(2)]
    theirs = [each.call("async_layer", "new_channel") for each in others for _ in range(3)]
    ours = await layer.new_channel()
    for channel in (*theirs, ours):
        await layer.group_add("g", channel)
    await layer.group_send("g", {"x": 1})
    others[0].call("async_layer", "group_send", "g", {"x": 2})
    for number, channel in enumerate(theirs):
        process = others[number // 3]
        assert process.call("async_layer", "receive", channel) == {"x": 1}
        assert process.call("async_layer", "receive", channel) == {"x": 2}
    assert await all_of(layer, ours) == [{"x": 1}, {"x": 2}]


@pytest.mark.clause("S14")
@in_loop
async def test_a_full_member_is_left_out_and_the_others_are_reached(case: Case) -> None:
    layer = case.layer(capacity=3)
    specific = await layer.new_channel()
    for member in ("full", "empty", specific):
        await layer.group_add("g", member)
    for _ in range(3):
        await layer.send("full", {"n": -1})
    for number in range(3):
        await layer.group_send("g", {"n": number})
    assert len(await all_of(layer, "full")) == 3
    assert [message["n"] for message in await all_of(layer, "empty")] == [0, 1, 2]
    assert [message["n"] for message in await all_of(layer, specific)] == [0, 1, 2]
    for _ in range(8):
        await layer.group_send("g", {})


@pytest.mark.clause("S14")
@in_loop
async def test_members_may_come_and_go_while_a_group_is_sent_to(case: Case) -> None:
    layer = case.layer(capacity=1000)
    stay = await layer.new_channel()
    await layer.group_add("g", stay)

    async def come_and_go() -> None:
        for number in range(60):
            await layer.group_add("g", f"visitor.{number}")
            await asyncio.sleep(0)
            await layer.group_discard("g", f"visitor.{number}")

    async def send() -> None:
        for number in range(60):
            await layer.group_send("g", {"n": number})
            await asyncio.sleep(0)

    await asyncio.gather(come_and_go(), send(), come_and_go())
    assert [message["n"] for message in await all_of(layer, stay)] == list(range(60))
    assert await layer.group_channels("g") == [stay]


@pytest.mark.clause("S15")
@in_loop
async def test_membership_ends_and_adding_again_renews_it(case: Case) -> None:
    async def scenario(pace: float) -> bool:
        layer = case.layer(group_expiry=0.3 * pace)
        assert layer.group_expiry == 0.3 * pace
        await layer.group_add("g", "forgotten")
        await layer.group_add("g", "renewed")
        await asyncio.sleep(0.2 * pace)
        renewed = time.monotonic()
        await layer.group_add("g", "renewed")
        await asyncio.sleep(0.15 * pace)
        members = list(await layer.group_channels("g"))
        await layer.group_send("g", {"n": 1})
        in_time = time.monotonic() < renewed + 0.3 * pace
        found = await all_of(layer, "renewed")
        if in_time:
            assert members == ["renewed"]
            assert await within(0.03, layer, "forgotten") is None
            assert found == [{"n": 1}]
        return in_time

    await at_some_pace(scenario)


@pytest.mark.clause("S16")
@in_loop
async def test_membership_outlasts_messages_that_are_read(case: Case) -> None:
    async def scenario(pace: float) -> bool:
        layer = case.layer(expiry=0.2 * pace)
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        for number in range(4):
            sent = time.monotonic()
            await layer.group_send("g", {"n": number})
            found = await within(0.2 * pace, layer, channel)
            if time.monotonic() > sent + 0.2 * pace:
                await layer.group_discard("g", channel)
                return False
            assert found == {"n": number}
            await asyncio.sleep(0.1 * pace)
        await layer.group_send("g", {"unread": True})
        assert list(await layer.group_channels("g")) == [channel]
        return True

    await at_some_pace(scenario)


@pytest.mark.clause("S17")
@in_loop
async def test_after_a_flush_no_message_and_no_membership_is_left(case: Case) -> None:
    layer, other = case.layer(), case.layer()
    read, unread = await layer.new_channel(), await layer.new_channel()
    await layer.send("normal", {})
    await layer.send(unread, {})
    await layer.send(read, {})
    await layer.receive(read)  # This receive has fetched the earlier messages.
    await layer.group_add("g", unread)
    await other.flush()
    assert await within(0.03, layer, "normal") is None
    assert await within(0.03, layer, unread) is None
    await layer.group_send("g", {})
    assert await within(0.03, layer, unread) is None
    await layer.send(unread, {"x": 1})
    assert await layer.receive(unread) == {"x": 1}


@pytest.mark.clause("S17")
@pytest.mark.clause("S10")
@in_loop
async def test_a_receiver_waiting_through_a_flush_gets_what_comes_after(case: Case) -> None:
    layer = case.layer()
    for channel in ("normal", await layer.new_channel()):
        waiting = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0.02)
        await layer.flush()
        await layer.send(channel, {"x": 1})
        assert await asyncio.wait_for(waiting, patient(ENOUGH)) == {"x": 1}


@pytest.mark.clause("S18")
@in_loop
async def test_the_layer_names_its_extensions(case: Case) -> None:
    layer = case.layer(expiry=7, group_expiry=8, capacity=9)
    assert set(layer.extensions) >= {"groups", "flush", "statistics"}
    assert (layer.expiry, layer.group_expiry, layer.capacity) == (7, 8, 9)
