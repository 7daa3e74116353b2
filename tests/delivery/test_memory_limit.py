"""What one process holds unread: no count where none was given, and a bound in bytes (O5, S8)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import tracemalloc
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, StoreFull, SyncIPCChannelLayer
from asgi_ipc.encoding.codec import SharedBody
from asgi_ipc.encoding.envelope import address
from asgi_ipc.encoding.names import channel_name
from asgi_ipc.engines.base import Record
from tests.tools.doubles import (
    engine,
    patient,
    run,
    watchdog,
    way,
    without_loopback,
)
from tests.tools.layers import demux_of
from tests.tools.limits import SMALLEST_UNREAD
from tests.tools.messages import encode
from tests.tools.receivers import (
    Pair,
    rest,
)

__all__ = ["watchdog", "way", "without_loopback"]

_MIB = 1 << 20
#: Nearly the largest message.
_LARGE = 1_000_000
#: Seconds in nanoseconds.
_SECOND = 10**9


class Holding:
    """A layer of one process that fetches all that comes for its channels."""

    def __init__(self, **options: Any) -> None:
        self.now = 10**15
        store = engine(channel_memory=1 << 40, clock=lambda: self.now)
        self.layer = SyncIPCChannelLayer(
            engine=store, **{"process_memory": SMALLEST_UNREAD, **options}
        )
        self.demux = demux_of(self.layer)
        self.queue = f"specific.{self.layer.client_prefix}!"
        self.number = 0
        self.demux.notice_flush()

    def channel(self, local: str, known: bool = True) -> Any:
        """A channel on which somebody has received, or nobody has."""
        name = channel_name(self.queue + local)
        with self.demux.lock:
            found = self.demux.channel(name)
            found.known = known
        return found

    def send(self, *channels: Any, size: int = 10) -> None:
        """Send a message of some size, numbered, to one channel or to several at once."""
        own = channels[0].own
        body = encode({"n": self.number, "x": b"x" * size})
        self.number += 1
        with self.demux.lock:
            own.put([each.local for each in channels], body, self.now + 60 * _SECOND, None)

    def numbers(self, channel: Any) -> list[int]:
        """What a channel holds."""
        found = []
        with self.demux.lock:
            for body, _, _ in channel.items:
                shared = body if isinstance(body, SharedBody) else SharedBody(body)
                found.append(shared.decode()["n"])
        return found

    def overflowed(self) -> float:
        return self.layer.global_statistics()["overflow_count"]


# Counts


@pytest.mark.usefixtures("way")
def test_without_a_capacity_only_ordinary_channels_are_counted() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        assert layer.capacity == 100
        idle = [await layer.new_channel() for _ in range(300)]
        for number, channel in enumerate(idle):
            await layer.send(channel, {"n": number})
        for number in range(300):
            await layer.send(idle[0], {"n": number})
            await layer.send("http.response!abc", {"n": number})
        for number in range(100):
            await layer.send("ordinary", {"n": number})
        with pytest.raises(
            layer.ChannelFull, match=r"^channel ordinary is at its capacity of 100 unread"
        ):
            await layer.send("ordinary", {})
        assert await rest(layer, idle[0]) == [0, *range(300)]
        for number, channel in enumerate(idle[1:], 1):
            assert await layer.receive(channel) == {"n": number}
        await layer.close()

    run(main())


def test_a_capacity_given_counts_everywhere() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(), capacity=100)
        own = await layer.new_channel()
        for channel in (own, "ordinary"):
            for number in range(100):
                await layer.send(channel, {"n": number})
            with pytest.raises(layer.ChannelFull, match="capacity of 100 "):
                await layer.send(channel, {})
        await layer.close()

    run(main())


def test_a_burst_to_a_room_is_held_whole_and_each_body_once() -> None:
    holding = Holding()
    members = [holding.channel(str(number)) for number in range(100)]
    for _ in range(5_000):
        holding.send(*members, size=200)
    assert holding.overflowed() == 0
    assert all(len(each.items) == 5_000 for each in members)
    holding.layer.close()


# Bytes


@pytest.mark.usefixtures("way")
def test_a_client_that_never_reads_costs_no_more_than_the_bound_and_others_nothing() -> None:
    async def main() -> None:
        layer = patient(
            IPCChannelLayer(engine=engine(channel_memory=1 << 40), process_memory=SMALLEST_UNREAD)
        )
        silent, lively, quiet = [await layer.new_channel() for _ in range(3)]
        waiting = asyncio.ensure_future(layer.receive(quiet))
        for channel in (silent, lively):
            await layer.group_add("room", channel)
        reading = asyncio.ensure_future(layer.receive(lively))
        await asyncio.sleep(0)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(5_000):
            await layer.group_send("room", {"n": number, "text": "x" * 4000})
            assert (await reading)["n"] == number
            reading = asyncio.ensure_future(layer.receive(lively))
            await layer.send(silent, {"n": number, "text": "x" * 4000})
            await asyncio.sleep(0)
        assert tracemalloc.get_traced_memory()[1] - before < SMALLEST_UNREAD
        tracemalloc.stop()
        held = await layer.channel_statistics(silent)
        assert held["overflow_count"] > 0
        assert held["messages_pending"] > 0.25 * SMALLEST_UNREAD / 4300
        numbers = [each["n"] for each in [await layer.receive(silent) for _ in range(1000)]]
        assert numbers == sorted(numbers)
        await layer.send(quiet, {"n": -1})
        assert await waiting == {"n": -1}
        reading.cancel()
        await layer.close()

    run(main())


def test_a_flooded_channel_loses_its_own_oldest_and_a_quiet_one_nothing() -> None:
    holding = Holding()
    flooded, quiet = holding.channel("flooded"), holding.channel("quiet")
    heard = []
    for number in range(40_000):
        if number % 400 == 0:
            heard.append(holding.number)
            holding.send(quiet, size=1000)
        holding.send(flooded, size=1000)
    assert holding.numbers(quiet) == heard
    left = holding.numbers(flooded)
    assert left[-1] == holding.number - 1
    assert len(left) == 40_000 - holding.overflowed()
    assert left == [n for n in range(left[0], holding.number) if n not in heard]
    holding.layer.close()


def test_who_holds_most_is_told_by_bytes_and_not_by_messages() -> None:
    holding = Holding()
    large, many = holding.channel("large"), holding.channel("many")
    for _ in range(3_000):
        holding.send(many)
    for _ in range(40):
        holding.send(large, size=_LARGE)
    assert len(many.items) == 3_000
    assert holding.overflowed() == 40 - len(large.items) > 0
    holding.layer.close()


def test_a_flooded_room_loses_before_a_client_that_holds_less_than_each_of_its_members() -> None:
    holding = Holding()
    members = [holding.channel(f"member{number}") for number in range(50)]
    alone = holding.channel("alone")
    # More than a member's part of what the room holds, and less than what each member has unread.
    for _ in range(2_000):
        holding.send(alone, size=1000)
    for _ in range(12_000):
        holding.send(*members, size=1000)
    assert len(alone.items) == 2_000
    assert {len(each.items) for each in members}.issubset(range(1, 12_000))
    holding.layer.close()


def test_of_equal_channels_those_that_nobody_has_read_lose_first() -> None:
    holding = Holding()
    known = [holding.channel(f"known{number}") for number in range(3)]
    others = [holding.channel(f"other{number}", known=False) for number in range(25)]
    for each in [*known, *others]:
        holding.send(each, size=SMALLEST_UNREAD // 24)
    assert not all(each.items for each in others)
    assert all(each.items for each in known)
    # What is empty and was never read is not kept.
    assert set(known[0].own.locals) >= {each.local for each in known}
    assert len(known[0].own.locals) == sum(bool(each.items) for each in (*known, *others))
    holding.layer.close()


def test_process_memory_is_never_exceeded_and_half_of_it_is_used() -> None:
    holding = Holding()
    channels = [holding.channel(str(number)) for number in range(20)]
    largest = 0
    for number in range(4_000):
        sizes = (10, 40_000, 1_000, 700_000)
        holding.send(channels[number * number % 20], size=sizes[number % 4] if number % 7 else 3)
        held = sum(len(body) + 208 for each in channels for body, _, _ in each.items)
        assert held <= SMALLEST_UNREAD
        largest = max(largest, held)
    assert largest > 0.75 * SMALLEST_UNREAD
    assert held > 0.25 * SMALLEST_UNREAD
    holding.layer.close()


def test_process_memory_includes_the_places_in_the_buffers_of_a_large_room() -> None:
    holding = Holding()
    members = [holding.channel(str(number)) for number in range(1_000)]
    for _ in range(3_000):
        holding.send(*members)
    assert 0.25 * SMALLEST_UNREAD < 8 * sum(len(each.items) for each in members) < SMALLEST_UNREAD
    holding.layer.close()


def test_the_regular_look_goes_through_a_bounded_number_of_messages_at_a_time() -> None:
    holding = Holding()
    channels = [holding.channel(str(number)) for number in range(20)]
    for each in channels:
        for _ in range(1_000):
            holding.send(each)
    own = channels[0].own
    holding.now += 61 * _SECOND
    looks = 0
    with holding.demux.lock:
        while any(each.items for each in channels):
            left = sum(len(each.items) for each in channels)
            own.sweep(100)
            assert 0 < left - sum(len(each.items) for each in channels) <= 8_000
            looks += 1
    assert looks > 1
    holding.layer.close()


def test_what_has_expired_goes_before_anything_is_dropped() -> None:
    holding = Holding()
    one, other = holding.channel("one"), holding.channel("other")
    for _ in range(12):
        holding.send(one, size=_LARGE)
    holding.now += 61 * _SECOND
    for _ in range(12):
        holding.send(other, size=_LARGE)
    assert (len(one.items), len(other.items)) == (0, 12)
    counts = holding.layer.global_statistics()
    assert (counts["overflow_count"], counts["expired_count"]) == (0, 12)
    holding.layer.close()


def test_the_largest_bound_of_the_layers_on_a_store_counts() -> None:
    store = engine(channel_memory=1 << 40)
    small = SyncIPCChannelLayer(engine=store, process_memory=SMALLEST_UNREAD)
    large = SyncIPCChannelLayer(engine=store, process_memory=4 * SMALLEST_UNREAD)
    demux = demux_of(small)
    with demux.lock:
        own = demux.queue(f"x.{small.client_prefix}!".encode())
        channel = own.channel(b"a")

    def held_after(count: int) -> int:
        for _ in range(count):
            with demux.lock:
                own.put([b"a"], b"x" * _MIB, 10**20, None)
        return len(channel.items)

    assert held_after(40) == 40
    large.close()
    assert held_after(80) <= 16
    small.close()


def test_forged_records_for_channels_that_nobody_reads_are_bounded_in_bytes() -> None:
    holding = Holding()
    known = holding.channel("known")
    holding.send(known)
    store = holding.demux.engine
    for number in range(200):
        names = [b"%d.%d" % (number, each) for each in range(20)]
        # Twenty in one record, and each in a record of its own.
        for group in (names, *([name] for name in names[:5])):
            payload = address(group) + b"\x80" * 100_000
            record = Record(holding.queue.encode(), payload, holding.now + _SECOND, 10**6)
            assert store.push([record]) == []
        with holding.demux.lock:
            holding.demux.fetch(known.own, None, known)
            bodies = {
                id(body): getattr(body, "size", 0) or len(body)
                for channel in known.own.locals.values()
                for body, _, _ in channel.items
            }
        assert sum(bodies.values()) < SMALLEST_UNREAD
    assert holding.numbers(known) == [0]
    assert len(known.own.locals) < 200 * 25
    holding.layer.close()


def test_a_message_of_many_small_entries_is_not_kept_decoded() -> None:
    body = encode({str(number): None for number in range(20_000)})
    kept = []
    tracemalloc.start()
    try:
        for _ in range(3):  # Python keeps room for the keys, which are interned, at the first ones.
            before = tracemalloc.get_traced_memory()[0]
            shared = SharedBody(body)
            assert len(shared.decode()) == len(shared.decode()) == 20_000
            gc.collect()
            kept.append(tracemalloc.get_traced_memory()[0] - before)
            del shared
    finally:
        tracemalloc.stop()
    assert min(kept) < len(body)


# What is told


def test_drops_for_memory_are_told_once_with_the_sum_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    holding = Holding()
    silent = holding.channel("silent")
    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        dropped = 0
        for _ in range(5):
            for _ in range(20):
                holding.send(silent, size=_LARGE)
            dropped = int(holding.overflowed())  # A call, on whose way out it is told.
        holding.layer.close()
    first, last = [each.getMessage() for each in caplog.records if "allows" in each.getMessage()]
    for text in (first, last):
        assert "process_memory (16,777,216 bytes)" in text
        assert f"1 channel ({holding.queue}silent)" in text
    told = [int(text.rpartition("; ")[2].split()[0]) for text in (first, last)]
    assert sum(told) == dropped > told[0]


def test_a_refusal_names_the_queue_or_the_store_that_is_full() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(channel_memory=_MIB))
        own = await layer.new_channel()
        queue = own[: own.index("!") + 1]
        for _ in range(100):
            with contextlib.suppress(StoreFull):
                await layer.send(own, {"x": b"x" * 10_000})
        with pytest.raises(StoreFull, match=f"{own}: queue {queue} has its share of the store: "):
            await layer.send(own, {"x": b"x" * 10_000})
        with pytest.raises(StoreFull, match="channel other: the store is full: "):
            await layer.send("other", {"x": b"x" * 1_000_000})
        await layer.close()
        counted = IPCChannelLayer(engine=engine(), capacity=1)
        own = await counted.new_channel()
        queue = own[: own.index("!") + 1]
        await counted.send(own, {})
        with pytest.raises(counted.ChannelFull) as caught:
            await counted.send(own, {})
        assert f"queue {queue} is at its capacity of 1 unread messages, those of all its" in str(
            caught.value
        )
        await counted.close()

    run(main())


def test_drops_of_many_groups_for_one_full_queue_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        both = Pair(capacity=1)
        name = await both.other.new_channel()
        await both.layer.send(name, {})
        for number in range(20):
            await both.layer.group_add(f"g{number}", name)
            await both.layer.group_send(f"g{number}", {})
        await both.layer.close()
        await both.other.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
    first, last = [each.getMessage() for each in caplog.records]
    assert "is at its capacity of 1 unread" in first
    assert "; 1 dropped since" in first
    assert "; 19 dropped since" in last
