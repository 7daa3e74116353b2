"""Channels' channel layer specification on the asynchronous layer: S1 to S12.

They cover what the test suites of Channels' in-memory layer and of channels_redis check.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

import asgi_ipc

from .case import in_loop
from .receiving import all_of, at_some_pace, within
from .tools import ENOUGH, patient

if TYPE_CHECKING:
    from .case import Case

#: None of them is a valid channel name.
BAD_NAMES: list[Any] = [
    *("", " ", "a b", "=+135!", "a/b", "a\n", "\na", "ü", "a!b!c", "a!!", "a:b", "a*"),
    "x" * 100,
    b"bytes",
    None,
    5,
]


@pytest.mark.clause("S1")
@in_loop
async def test_every_type_arrives_as_it_was_sent(case: Case) -> None:
    layer = case.layer()
    message: dict[str, Any] = {
        "type": "test.message",
        "bytes": b"\xc2\xa3\x00\xff",
        "str": "\u00a3 \U0001f612 \x00",
        "ints": [0, -1, 2**63 - 1, -(2**63)],
        "floats": [0.1, -2.5e300, 1.0, float("inf")],
        "others": {"yes": True, "no": False, "none": None, "empty": [[], {}, "", b""]},
        "nested": {"a": [{"b": [b"b", "s"]}]},
    }
    for channel in ("normal", await layer.new_channel()):
        await layer.send(channel, message)
        received = await layer.receive(channel)
        assert received == message
        assert repr(received) == repr(message), "1, 1.0 and True are equal and not the same"


@pytest.mark.clause("S1")
@in_loop
async def test_a_tuple_arrives_as_a_list(case: Case) -> None:
    layer = case.layer()
    await layer.send("c", {"t": (1, (2, "x"))})
    assert await layer.receive("c") == {"t": [1, [2, "x"]]}


@pytest.mark.clause("S2")
@in_loop
async def test_a_message_of_one_megabyte_is_carried(case: Case) -> None:
    layer = case.layer()
    for message in (
        {"text": "x" * 999_980},
        {"bytes": random.Random(1).randbytes(999_980)},
        {"list": list(range(150_000))},
        {"floats": [0.5] * 249_000},
    ):
        for channel in ("c", await layer.new_channel()):
            await layer.send(channel, message)
            assert await layer.receive(channel) == message
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.group_send("g", message)
        assert await layer.receive(channel) == message
        await layer.group_discard("g", channel)


@pytest.mark.clause("S2")
@pytest.mark.clause("S14")
@in_loop
async def test_a_larger_one_is_refused_naming_both_sizes(case: Case) -> None:
    layer = case.layer()
    await layer.group_add("g", "c")
    for send in (
        layer.send("c", {"x": b"x" * 2_000_000}),
        layer.group_send("g", {"x": "x" * 2_000_000}),
    ):
        with pytest.raises(layer.MessageTooLarge, match=r"20000\d\d.*1048576"):
            await send
    assert layer.MessageTooLarge is asgi_ipc.MessageTooLarge
    assert await all_of(layer, "c") == []


@pytest.mark.clause("S3")
@in_loop
async def test_what_the_sender_changes_afterwards_changes_nothing(case: Case) -> None:
    layer = case.layer()
    one, two = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("g", one)
    await layer.group_add("g", two)
    message = {"value": [1, 2]}
    await layer.send("c", message)
    await layer.group_send("g", message)
    message["value"].append(3)
    assert await layer.receive("c") == {"value": [1, 2]}
    received = await layer.receive(one)
    received["value"].append(4)
    assert await layer.receive(two) == {"value": [1, 2]}, "nor does what a receiver changes"


@pytest.mark.clause("S4")
@in_loop
async def test_a_bad_name_is_a_type_error_everywhere(case: Case) -> None:
    layer = case.layer()
    method: Any
    args: Any
    for bad in BAD_NAMES:
        for method, args in (
            (layer.send, (bad, {})),
            (layer.receive, (bad,)),
            (layer.group_add, ("g", bad)),
            (layer.group_add, (bad, "c")),
            (layer.group_discard, ("g", bad)),
            (layer.group_discard, (bad, "c")),
            (layer.group_send, (bad, {})),
        ):
            with pytest.raises(TypeError):
                await asyncio.wait_for(method(*args), patient(ENOUGH))
    with pytest.raises(TypeError):
        await layer.group_send("a!b", {})


@pytest.mark.clause("S4")
@in_loop
async def test_every_good_name_works(case: Case) -> None:
    layer = case.layer()
    for name in ("a", "A-b_c.9", "-", "x" * 99, "http.request"):
        await layer.send(name, {"to": name})
        assert await layer.receive(name) == {"to": name}
        await layer.group_add(name, "c")
        await layer.group_send(name, {"group": name})
        assert await layer.receive("c") == {"group": name}


@pytest.mark.clause("S5")
@in_loop
async def test_messages_arrive_once_and_in_order(case: Case) -> None:
    layer, other = case.layer(), case.layer()
    for channel in ("normal", await layer.new_channel()):
        for number in range(60):
            await (layer, other)[number % 2].send(channel, {"n": number})
        assert [message["n"] for message in await all_of(layer, channel)] == list(range(60))


@pytest.mark.clause("S5")
@pytest.mark.clause("S10")
@in_loop
async def test_of_many_waiting_receivers_one_gets_each_message(case: Case) -> None:
    layer, other = case.layer(), case.layer()
    specific = await layer.new_channel()
    for channel in ("normal", specific):
        waiting = [asyncio.ensure_future((layer, other)[n % 2].receive(channel)) for n in range(6)]
        await asyncio.sleep(0.02)
        for number in range(6):
            await layer.send(channel, {"n": number})
        found = await asyncio.wait_for(asyncio.gather(*waiting), patient(ENOUGH))
        assert sorted(message["n"] for message in found) == list(range(6))
        assert await within(0.05, layer, channel) is None


@pytest.mark.clause("S6")
@in_loop
async def test_local_channels_of_a_process_each_get_their_own(case: Case) -> None:
    layer = case.layer()
    channels = [await layer.new_channel() for _ in range(20)]
    assert len({channel.partition("!")[0] for channel in channels}) == 1
    for number in range(3):
        for channel in channels:
            await layer.send(channel, {"to": channel, "n": number})
    for channel in reversed(channels):
        assert await all_of(layer, channel) == [{"to": channel, "n": n} for n in range(3)]


@pytest.mark.clause("S6")
@pytest.mark.needs("crosses_processes")
@in_loop
async def test_a_channel_of_another_process_can_be_sent_to_and_not_received_from(
    case: Case,
) -> None:
    layer, other = case.layer(), case.process()
    theirs = other.call("async_layer", "new_channel")
    for number in range(30):
        await layer.send(theirs, {"n": number})
    for number in range(30):
        assert other.call("async_layer", "receive", theirs) == {"n": number}
    ours = await layer.new_channel()
    assert other.call("async_layer", "send", ours, {"x": b"y"}) is None
    assert await layer.receive(ours) == {"x": b"y"}
    with pytest.raises((AssertionError, RuntimeError, TypeError, ValueError), match="!"):
        await asyncio.wait_for(layer.receive(theirs), patient(ENOUGH))


@pytest.mark.clause("S6")
@in_loop
async def test_a_process_specific_channel_of_a_stranger_is_refused(case: Case) -> None:
    layer = case.layer()
    stranger = f"specific.{'0' * 32}!{'1' * 32}"
    with pytest.raises((AssertionError, RuntimeError, TypeError, ValueError), match="!"):
        await asyncio.wait_for(layer.receive(stranger), patient(ENOUGH))


@pytest.mark.clause("S7")
@in_loop
async def test_over_capacity_send_raises_and_a_receive_makes_room(case: Case) -> None:
    layer = case.layer(capacity=3)
    for channel in ("normal", await layer.new_channel()):
        for number in range(3):
            await layer.send(channel, {"n": number})
        with pytest.raises(layer.ChannelFull):
            await layer.send(channel, {"n": 3})
        assert await layer.receive(channel) == {"n": 0}
    await layer.send("normal", {"n": 4})
    assert [message["n"] for message in await all_of(layer, "normal")] == [1, 2, 4]
    assert layer.ChannelFull is asgi_ipc.ChannelFull


@pytest.mark.clause("S7")
@in_loop
async def test_capacity_may_differ_by_channel(case: Case) -> None:
    layer = case.layer(
        capacity=5,
        channel_capacity={
            "one": 1,
            "http.response!*": 2,
            re.compile(r"^websocket.send\!.+"): 3,
            "on*": 4,
        },
    )
    for channel, capacity in {
        "one": 1,
        "only": 4,
        "other": 5,
        "http.response!abc": 2,
        "websocket.send!abc": 3,
    }.items():
        for _ in range(capacity):
            await layer.send(channel, {})
        with pytest.raises(layer.ChannelFull):
            await layer.send(channel, {})


@pytest.mark.clause("S8")
@in_loop
async def test_capacity_counts_all_local_channels_of_a_process_together(case: Case) -> None:
    layer = case.layer(capacity=4)
    channels = [await layer.new_channel() for _ in range(5)]
    for channel in channels[:4]:
        await layer.send(channel, {})
    with pytest.raises(layer.ChannelFull):
        await layer.send(channels[4], {})
    await layer.send("normal", {})


@pytest.mark.clause("S9")
@in_loop
async def test_a_message_expires_unread_and_later_ones_do_not(case: Case) -> None:
    async def scenario(pace: float) -> bool:
        layer = case.layer(expiry=0.3 * pace)
        for channel in ("normal", await layer.new_channel()):
            await layer.send(channel, {"n": 1})
            await asyncio.sleep(0.2 * pace)
            sent = time.monotonic()
            await layer.send(channel, {"n": 2})
            await asyncio.sleep(0.15 * pace)
            found = await all_of(layer, channel)
            if time.monotonic() > sent + 0.3 * pace:
                return False
            assert found == [{"n": 2}]
        return True

    await at_some_pace(scenario)


@pytest.mark.clause("S9")
@in_loop
async def test_a_message_expires_too_when_its_process_has_fetched_it(case: Case) -> None:
    async def scenario(pace: float) -> bool:
        layer = case.layer(expiry=0.2 * pace)
        read, unread = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("g", unread)
        began = time.monotonic()
        await layer.send(unread, {})
        await layer.group_send("g", {})
        await layer.send(read, {"x": 1})
        found = await within(0.2 * pace, layer, read)
        if time.monotonic() > began + 0.2 * pace:
            return False
        assert found == {"x": 1}, "and with it comes what lay before it"
        await asyncio.sleep(0.25 * pace)
        assert await within(0.05, layer, unread) is None
        return True

    await at_some_pace(scenario)


@pytest.mark.clause("S10")
@in_loop
async def test_receive_waits_for_what_comes_later(case: Case) -> None:
    layer, other = case.layer(), case.layer()
    for channel in ("normal", await layer.new_channel()):
        waiting = asyncio.ensure_future(layer.receive(channel))
        for number in range(3):
            await asyncio.sleep(0.03)
            assert not waiting.done()
            await other.send(channel, {"n": number})
            assert await asyncio.wait_for(waiting, patient(ENOUGH)) == {"n": number}
            waiting = asyncio.ensure_future(layer.receive(channel))
        waiting.cancel()


@pytest.mark.clause("S10")
@in_loop
async def test_cancelling_at_any_moment_loses_no_message(case: Case) -> None:
    layer = case.layer(capacity=1000)
    for channel in ("normal", await layer.new_channel()):
        received = []
        for number in range(120):
            task = asyncio.ensure_future(layer.receive(channel))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            await layer.send(channel, {"n": number})
            for _ in range(number // 4 % 4):
                await asyncio.sleep(0)
            if number % 5 == 0:
                await asyncio.sleep(0.002)
            task.cancel()
            try:
                received.append((await task)["n"])
            except asyncio.CancelledError:
                pass
        received += [message["n"] for message in await all_of(layer, channel)]
        assert received == list(range(120))


@pytest.mark.clause("S10")
@in_loop
async def test_a_receiver_that_gave_up_does_not_take_the_others_message(case: Case) -> None:
    layer = case.layer()
    for channel in ("normal", await layer.new_channel()):
        for _ in range(20):
            assert await within(0.001, layer, channel) is None
        first = asyncio.ensure_future(layer.receive(channel))
        second = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0.01)
        await layer.send(channel, {"n": 1})
        first.cancel()
        done, _ = await asyncio.wait(
            (first, second), timeout=patient(ENOUGH), return_when="FIRST_COMPLETED"
        )
        results = await asyncio.wait_for(
            asyncio.gather(*done, return_exceptions=True), patient(ENOUGH)
        )
        if not any(isinstance(result, dict) for result in results):
            assert await asyncio.wait_for(second, patient(ENOUGH)) == {"n": 1}
        second.cancel()


@pytest.mark.clause("S11")
@in_loop
async def test_new_channels_are_never_given_twice(case: Case) -> None:
    layer, other = case.layer(), case.layer()
    names = []
    for each in (layer, other, layer):
        random.seed(1)
        names += [await each.new_channel() for _ in range(30)]
    assert len(set(names)) == 90
    for name in names:
        assert name.startswith("specific.")
        assert name.count("!") == 1
        assert len(name) < 100
    named = await layer.new_channel(prefix="my.prefix")
    assert named.startswith("my.prefix")
    await layer.send(named, {"x": 1})
    assert await layer.receive(named) == {"x": 1}


@pytest.mark.clause("S12")
@in_loop
async def test_a_busy_local_channel_does_not_starve_a_quiet_one(case: Case) -> None:
    layer = case.layer(capacity=1000)
    busy, quiet = await layer.new_channel(), await layer.new_channel()
    for _ in range(400):
        await layer.send(busy, {})
    waiting = asyncio.ensure_future(layer.receive(quiet))
    await layer.send(quiet, {"x": 1})
    for _ in range(300):
        await layer.receive(busy)
        if waiting.done():
            break
    assert await asyncio.wait_for(waiting, patient(ENOUGH)) == {"x": 1}
