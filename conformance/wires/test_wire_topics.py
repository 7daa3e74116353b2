"""Frames on topics: W5 to W9."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import pytest

from asgi_ipc.exceptions import WireError, WireLost
from asgi_ipc.relay.wire import MAX_TOPIC, WINDOW, Frame

from .case import eventually, in_loop, numbered, publish, within

if TYPE_CHECKING:
    from .case import WireCase

#: Bytes that may have a meaning in a protocol, in names and in frames.
AWKWARD = [b"\r\n", b"\0", b" ", b".", b"*", b">", b":", b"{t}", b"\xff\xfe", bytes(range(128))]


@pytest.mark.clause("W5")
@in_loop
async def test_a_frame_is_heard_with_its_topic_by_all_that_subscribe(wires: WireCase) -> None:
    one = await wires.listener([b"a", b"b"])
    other = await wires.listener([b"b"])
    await one.wire.publish([Frame(b"a", b"1"), Frame(b"b", b"2"), Frame(b"c", b"3")])
    await publish(one.wire, b"b", b"end")
    await other.until(b"end")
    await eventually(lambda: b"end" in one.payloads)
    assert one.frames == [(b"a", b"1"), (b"b", b"2"), (b"b", b"end")], "its own ones too"
    assert other.frames == []


@pytest.mark.clause("W5")
@in_loop
async def test_any_bytes_are_a_topic_and_a_frame(wires: WireCase) -> None:
    topics = [*AWKWARD, b"x" * MAX_TOPIC, os.urandom(MAX_TOPIC)]
    listener = await wires.listener(topics)
    frames = [Frame(topic, b"\r\n+OK\r\n" + topic) for topic in topics]
    frames += [Frame(b".", b""), Frame(b".", os.urandom(300_000))]
    await listener.wire.publish(frames)
    await eventually(lambda: len(listener.frames) >= len(frames))
    assert listener.frames == frames


@pytest.mark.clause("W5")
@in_loop
async def test_names_of_no_use_are_refused_and_nothing_is_sent(wires: WireCase) -> None:
    listener = await wires.listener([b"t"])
    for name in (b"", b"x" * (MAX_TOPIC + 1)):
        with pytest.raises(ValueError, match=str(MAX_TOPIC)):
            await listener.wire.publish([Frame(b"t", b"no"), Frame(name, b"no")])
        with pytest.raises(ValueError, match=str(MAX_TOPIC)):
            await listener.wire.subscribe([b"u", name])
    await publish(listener.wire, b"t", b"end")
    assert await listener.until(b"end") == []


@pytest.mark.clause("W5")
@in_loop
async def test_prefixes_are_apart(wires: WireCase) -> None:
    """Those too that look like a part of another."""
    prefixes = [wires.prefix, f"{wires.prefix}.t", f"{wires.prefix}-t", wires.prefix[:-1]]
    listeners = [await wires.listener([b"t", b"t.t"], prefix) for prefix in prefixes]
    for at, listener in enumerate(listeners):
        await publish(listener.wire, b"t", b"of %d" % at)
        await listener.until(b"of %d" % at)
    for listener in listeners:
        await publish(listener.wire, b"t", b"end")
        assert await listener.until(b"end") == []


@pytest.mark.clause("W6")
@in_loop
async def test_the_frames_of_each_wire_are_heard_in_order_over_all_topics(wires: WireCase) -> None:
    topics = [b"t%d" % number for number in range(20)]
    publishers = [await wires.listener() for _ in range(2)]
    listener = await wires.listener(topics)
    dice = random.Random(1)

    async def send(at: int) -> None:
        batch = [Frame(dice.choice(topics), b"%d:%d" % (at, number)) for number in range(500)]
        while batch:
            size = dice.choice([1, 2, 5, 100])
            await publishers[at].wire.publish(batch[:size])
            del batch[:size]

    await asyncio.gather(send(0), send(1))
    await eventually(lambda: len(listener.frames) == 1000)
    for at in range(2):
        heard = [payload for payload in listener.payloads if payload.startswith(b"%d:" % at)]
        assert heard == [b"%d:%d" % (at, number) for number in range(500)]


@pytest.mark.clause("W7")
@in_loop
async def test_a_subscription_counts_from_its_return(wires: WireCase) -> None:
    """The line is slow for the subscriber alone, so one confirmed too early misses frames."""
    publisher = await wires.listener(url=wires.line.direct)
    listener = await wires.listener()
    if wires.line.proxy is not None:
        wires.line.proxy.lag = 0.005
    for number in range(10):
        topics = [b"%d/%d" % (number, at) for at in range(50)]
        await within(listener.wire.subscribe(topics))
        await publish(publisher.wire, topics[-1], b"%d" % number)
    await eventually(lambda: len(listener.frames) == 10)


@pytest.mark.clause("W7")
@in_loop
async def test_what_is_subscribed_twice_is_heard_once_and_ends_at_once(wires: WireCase) -> None:
    listener = await wires.listener([b"t", b"u"])
    await listener.wire.subscribe([b"t"])
    await listener.wire.subscribe([b"t", b"t"])
    await publish(listener.wire, b"t", b"1")
    await publish(listener.wire, b"u", b"end")
    assert await listener.until(b"end") == [b"1"]
    await listener.wire.unsubscribe([b"t", b"never"])
    await publish(listener.wire, b"t", b"2")
    await publish(listener.wire, b"u", b"end")
    assert await listener.until(b"end") == []
    await listener.wire.subscribe([b"t"])
    await listener.wire.subscribe([])
    await listener.wire.unsubscribe([])
    await publish(listener.wire, b"t", b"3", b"end")
    assert await listener.until(b"end") == [b"3"]


@pytest.mark.clause("W7")
@in_loop
async def test_nothing_is_heard_after_an_unsubscription_that_was_on_its_way(
    wires: WireCase,
) -> None:
    listener = await wires.listener([b"t", b"u"])
    publisher = await wires.listener()
    await publish(publisher.wire, b"t", *numbered(200))
    await listener.wire.unsubscribe([b"t"])
    heard = list(listener.payloads)
    await publish(publisher.wire, b"u", b"end")
    await listener.until(b"end")
    assert heard == list(numbered(len(heard)))
    assert listener.frames == []


@pytest.mark.clause("W7")
@in_loop
async def test_subscriptions_that_overlap_count_in_the_order_of_the_calls(wires: WireCase) -> None:
    listener = await wires.listener([b"end"])
    wire = listener.wire
    await within(
        asyncio.gather(wire.subscribe([b"t"]), wire.unsubscribe([b"t"]), wire.subscribe([b"t"]))
    )
    await within(asyncio.gather(wire.subscribe([b"u"]), wire.unsubscribe([b"u"])))
    await publish(wire, b"t", b"heard")
    await publish(wire, b"u", b"not heard")
    await publish(wire, b"end", b"end")
    assert await listener.until(b"end") == [b"heard"]


@pytest.mark.clause("W8")
@in_loop
async def test_publishing_waits_while_much_is_unconfirmed(wires: WireCase) -> None:
    publisher = await wires.listener(timeout=60)
    listener = await wires.listener([b"t"], timeout=60)
    wires.line.freeze()
    frames = [Frame(b"t", b"%06d" % number + b"x" * 50_000) for number in range(60)]
    assert sum(len(frame.payload) for frame in frames) > 2 * WINDOW

    async def publish_all() -> None:
        for at in range(0, 60, 3):  # It waits for what earlier calls have sent, too.
            await publisher.wire.publish(frames[at : at + 3])

    waiting = asyncio.ensure_future(publish_all())
    if wires.line.proxy is not None:
        await asyncio.sleep(0.1)
        assert not waiting.done(), "the memory of this process would grow"
    wires.line.thaw()
    await within(waiting)
    await eventually(lambda: len(listener.frames) == 60)
    assert listener.frames == frames


@pytest.mark.clause("W8")
@pytest.mark.needs("network")
@pytest.mark.parametrize("how", ["is lost", "is closed"])
@in_loop
async def test_what_waits_behind_the_window_counts_as_not_sent(wires: WireCase, how: str) -> None:
    listener = await wires.listener(timeout=60)
    wires.line.freeze()
    waiting = asyncio.ensure_future(publish(listener.wire, b"t", *[bytes(50_000)] * 60))
    await asyncio.sleep(0.1)
    if how == "is closed":  # As by a relay that ends.
        await within(listener.wire.close())
    wires.line.cut()
    wires.line.thaw()
    with pytest.raises(WireLost) as caught:
        await within(waiting)
    assert 60 - caught.value.unsent <= WINDOW // 50_000 + 2
    assert caught.value.unsent < 60, "it had sent the first"


@pytest.mark.clause("W8")
@in_loop
async def test_a_wire_lost_while_publishing_tells_what_was_certainly_not_sent(
    wires: WireCase,
) -> None:
    """Ten times at random: what was sent is heard at most once and in order, the rest never."""
    listener = await wires.listener([b"t"], url=wires.line.direct)
    dice = random.Random(2)
    for attempt in range(10):
        publisher = await wires.listener()
        frames = [b"%d:%04d" % (attempt, n) + b"x" * 10_000 for n in range(200)]
        wires.line.cut_after(dice.randrange(1_500_000))
        sent = 0
        with pytest.raises(WireLost) as caught:  # noqa: PT012 (which call it is, is chance)
            for _ in range(20):
                await within(publish(publisher.wire, b"t", *frames))
                sent += len(frames)
        assert caught.value.unsent <= len(frames)
        sent += len(frames) - caught.value.unsent
        await publisher.wire.close()
        other = await wires.listener(url=wires.line.direct)
        await publish(other.wire, b"t", b"end")
        heard = await listener.until(b"end")
        assert len(heard) <= sent
        assert heard == (frames * 20)[: len(heard)]
        await other.wire.close()


@pytest.mark.clause("W8")
@in_loop
async def test_a_lost_wire_has_sent_nothing_of_the_next_batch(wires: WireCase) -> None:
    listener = await wires.listener()
    wires.line.cut()
    await within(listener.wire.lost())
    with pytest.raises(WireLost) as caught:
        await publish(listener.wire, b"t", b"1", b"2", b"3")
    assert caught.value.unsent == 3


@pytest.mark.clause("W8")
@in_loop
async def test_a_frame_that_is_too_large_is_refused_and_the_wire_goes_on(wires: WireCase) -> None:
    listener = await wires.listener([b"t"])
    limit = listener.wire.frame_limit
    assert limit >= 512 * 1024, "the suite needs a server that takes frames of 512 KiB"
    with pytest.raises(ValueError, match=str(limit)):
        await listener.wire.publish([Frame(b"t", b"no"), Frame(b"t", bytes(limit + 1))])
    await publish(listener.wire, b"t", bytes(limit), b"end")
    assert await listener.until(b"end") == [bytes(limit)]


@pytest.mark.clause("W9")
@in_loop
async def test_a_callback_that_raises_loses_no_frame_after_it(wires: WireCase) -> None:
    wire = wires.make()
    heard = []

    def hear(topic: bytes, payload: bytes) -> None:
        heard.append(payload)
        if payload == b"1":
            raise ZeroDivisionError

    await wire.start(hear)
    await wire.subscribe([b"t"])
    await publish(wire, b"t", b"0", b"1", b"2")
    await publish(wire, b"t", b"3")
    await eventually(lambda: len(heard) == 4)
    assert heard == [b"0", b"1", b"2", b"3"]
    (complaint,) = wires.complaints
    assert isinstance(complaint["exception"], ZeroDivisionError)
    wires.complaints.clear()


@pytest.mark.clause("W9")
@in_loop
async def test_calls_that_are_cancelled_leave_the_wire_usable(wires: WireCase) -> None:
    listener = await wires.listener([b"end"], timeout=60)
    wire = listener.wire
    frames = [Frame(b"t", b"%06d" % number + b"x" * 50_000) for number in range(60)]
    wires.line.freeze()
    calls = [
        asyncio.ensure_future(call)
        for call in (
            wire.subscribe([b"t"]),
            wire.publish(frames),
            wire.publish(frames),
            wire.unsubscribe([b"u"]),
            wire.lost(),
        )
    ]
    await asyncio.sleep(0.02)
    for call in calls[:2] + calls[3:]:
        call.cancel()
    wires.line.thaw()
    await within(asyncio.wait(calls))
    # The one that waited beside a cancelled one goes on.
    assert not calls[2].cancelled()
    assert calls[2].exception() is None
    await within(wire.subscribe([b"u"]))
    await publish(wire, b"u", b"1")
    await publish(wire, b"end", b"end")
    heard = await listener.until(b"end")
    assert heard[-1] == b"1"
    counts = {payload: heard.count(payload) for payload in heard[:-1]}
    assert all(count <= 2 for count in counts.values())


@pytest.mark.clause("W9")
@in_loop
async def test_waiting_for_the_loss_can_be_cancelled_and_is_told_to_all(wires: WireCase) -> None:
    listener = await wires.listener()
    waiting = [asyncio.ensure_future(listener.wire.lost()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    wires.line.cut()
    for error in await within(asyncio.gather(*waiting)):
        assert isinstance(error, WireError)
