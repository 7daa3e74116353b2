"""Queues that all machines share: W9 to W14."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from asgi_ipc.exceptions import WireLost

from .case import eventually, in_loop, numbered, publish, within

if TYPE_CHECKING:
    from .case import WireCase

pytestmark: pytest.MarkDecorator = pytest.mark.needs("queues")
#: A lifetime that no test outlasts, and a capacity that none reaches.
LONG, MANY = 3600.0, 1 << 20


@pytest.mark.clause("W9")
@in_loop
async def test_a_callback_that_raises_is_called_again(wires: WireCase) -> None:
    wire, told = wires.make(), []

    def ready(queue: bytes) -> None:
        told.append(queue)
        raise ZeroDivisionError

    await wire.start(lambda topic, payload: None, ready)
    for number in (1, 2):
        assert await wire.pop(b"q") == []
        await wire.push(b"q", b"%d" % number, LONG, MANY)
        await eventually(lambda number=number: len(told) == number)  # type: ignore[misc]
        assert await wire.pop(b"q") == [b"%d" % number]
    assert [type(each["exception"]) for each in wires.complaints] == 2 * [ZeroDivisionError]
    wires.complaints.clear()


@pytest.mark.clause("W9")
@in_loop
async def test_calls_on_queues_that_are_cancelled_leave_the_wire_usable(wires: WireCase) -> None:
    wire = (await wires.listener(timeout=60)).wire
    wires.line.freeze()
    calls: list[asyncio.Future[object]] = [
        asyncio.ensure_future(call)
        for call in (
            wire.push(b"q", b"1", LONG, MANY),
            wire.length(b"q"),
            wire.pop(b"q"),
            wire.disarm(b"q"),
            wire.push(b"other", b"2", LONG, MANY),
            wire.length(b"other"),
        )
    ]
    await asyncio.sleep(0.02)
    for call in calls[:4]:
        call.cancel()
    wires.line.thaw()
    await within(asyncio.wait(calls))
    assert [call.result() for call in calls[4:]] == [(1, None), 1]
    assert await within(wire.pop(b"other", 5)) == [b"2"]


@pytest.mark.clause("W10")
@in_loop
async def test_each_frame_is_popped_once_by_one_wire_in_order(wires: WireCase) -> None:
    listeners = [await wires.listener() for _ in range(3)]
    first = listeners[0].wire
    # Overlapping calls count in their order.
    await within(asyncio.gather(*(first.push(b"q", each, LONG, MANY) for each in numbered(200))))

    async def take(at: int) -> list[bytes]:
        taken: list[bytes] = []
        while found := await listeners[at].wire.pop(b"q", 1 + at):
            taken += found
        return taken

    taken = await within(asyncio.gather(*map(take, range(3))))
    assert sorted(itertools.chain(*taken)) == sorted(numbered(200))
    for each in taken:
        assert [int(number) for number in each] == sorted(map(int, each))


@pytest.mark.clause("W10")
@in_loop
async def test_any_bytes_are_a_queue_and_a_frame(wires: WireCase) -> None:
    wire = (await wires.listener()).wire
    queues = [b"\r\n", b"\0", b" ", b"q*", b"\xff", bytes(range(128)), b"q", b"q:q"]
    for queue in queues:
        assert (await wire.push(queue, b"\r\n\0" + queue, LONG, MANY)).length == 1
    for queue in queues:
        assert await wire.pop(queue, 5) == [b"\r\n\0" + queue]
    assert (await wire.push(b"q", b"", LONG, MANY)).refused is None
    assert await wire.pop(b"q", 5) == [b""]
    with pytest.raises(ValueError, match="128"):
        await wire.push(b"", b"", LONG, MANY)


@pytest.mark.clause("W11")
@in_loop
async def test_a_full_queue_refuses_and_says_how_long_it_is(wires: WireCase) -> None:
    wire = (await wires.listener()).wire
    other = (await wires.listener()).wire
    assert await wire.push(b"q", b"1", LONG, 2) == (1, None)
    assert await other.push(b"q", b"2", LONG, 2) == (2, None)
    assert await wire.push(b"q", b"3", LONG, 2) == (2, "capacity")
    assert await wire.push(b"other", b"3", LONG, 2) == (1, None)
    assert await wire.push(b"q", b"3", LONG, 3) == (3, None)
    assert await other.length(b"q") == 3
    assert await other.pop(b"q", 9) == [b"1", b"2", b"3"]
    assert await wire.length(b"q") == 0
    assert await wire.push(b"q", b"4", LONG, 1) == (1, None)


@pytest.mark.clause("W12")
@in_loop
async def test_a_frame_is_not_popped_after_its_lifetime_and_counts_no_more(
    wires: WireCase,
) -> None:
    """In front of living ones, and behind them."""
    wire = (await wires.listener()).wire
    for queue in (b"p", b"q"):
        assert (await wire.push(queue, b"dead", 0.02, 3)).refused is None
        assert (await wire.push(queue, b"alive", LONG, 3)).refused is None
        assert (await wire.push(queue, b"dead too", 0.02, 3)).refused is None
    await asyncio.sleep(0.05)
    assert await wire.length(b"q") == 1
    assert await wire.push(b"q", b"next", LONG, 2) == (2, None)
    assert await wire.pop(b"q", 5) == [b"alive", b"next"]
    assert await wire.pop(b"p", 5) == [b"alive"], "nobody has looked at that queue meanwhile"
    assert (await wire.push(b"q", b"born dead", 0.0, 5)).refused is None
    assert await wire.pop(b"q", 5) == []


@pytest.mark.clause("W13")
@in_loop
async def test_a_wire_that_found_too_little_is_told_of_the_next_frame_once(
    wires: WireCase,
) -> None:
    listener, pusher = await wires.listener([b"t"]), await wires.listener()
    assert await listener.wire.pop(b"q") == []
    assert await listener.wire.pop(b"q") == [], "arming twice is arming once"
    await pusher.wire.push(b"other", b"", LONG, MANY)
    await pusher.wire.push(b"q", b"1", LONG, MANY)
    await eventually(lambda: listener.ready)
    await pusher.wire.push(b"q", b"2", LONG, MANY)
    await publish(pusher.wire, b"t", b"end")
    await listener.until(b"end")
    assert listener.ready == [b"q"]
    assert await listener.wire.pop(b"q", 2) == [b"1", b"2"], "which arms nothing"
    await pusher.wire.push(b"q", b"3", LONG, MANY)
    assert await listener.wire.pop(b"q", 2) == [b"3"], "which arms"
    await pusher.wire.push(b"q", b"4", LONG, MANY)
    await eventually(lambda: listener.ready == [b"q", b"q"])


@pytest.mark.clause("W13")
@in_loop
async def test_one_of_those_that_wait_is_told_the_first_first_and_none_that_is_gone(
    wires: WireCase,
) -> None:
    gone, first, second, third = [await wires.listener([b"t"]) for _ in range(4)]
    pusher = await wires.listener()
    for each in (gone, first, second, third):
        assert await each.wire.pop(b"q") == []
        await asyncio.sleep(0.003)  # A server may order them by its clock.
    standing = wires.line.standing
    await gone.wire.close()
    await eventually(lambda: wires.line.standing < standing)
    for _ in range(3):
        await pusher.wire.length(b"q")  # By then the server has seen it too.
    await second.wire.disarm(b"q")
    await pusher.wire.push(b"q", b"1", LONG, MANY)
    await eventually(lambda: first.ready)
    await pusher.wire.push(b"q", b"2", LONG, MANY)
    await eventually(lambda: third.ready)
    await publish(pusher.wire, b"t", b"end")
    await second.until(b"end")
    assert (first.ready, second.ready, third.ready) == ([b"q"], [], [b"q"])


@pytest.mark.clause("W13")
@in_loop
async def test_a_wire_that_was_told_and_waits_no_more_passes_it_on(wires: WireCase) -> None:
    first, second = [await wires.listener() for _ in range(2)]
    assert await first.wire.pop(b"q") == []
    await asyncio.sleep(0.003)
    assert await second.wire.pop(b"q") == []
    await second.wire.push(b"q", b"1", LONG, MANY)
    await eventually(lambda: first.ready)
    await first.wire.disarm(b"q")
    await eventually(lambda: second.ready)
    assert await second.wire.pop(b"q") == [b"1"]


@pytest.mark.clause("W14")
@in_loop
async def test_clear_empties_all_queues_of_the_prefix_alone(wires: WireCase) -> None:
    wire = (await wires.listener()).wire
    other = (await wires.listener(prefix=f"{wires.prefix}.x")).wire
    for queue in (b"q", b"\xff\r\n"):
        await wire.push(queue, b"1", LONG, MANY)
        await other.push(queue, b"1", LONG, MANY)
    await wire.clear()
    assert [await wire.length(b"q"), await wire.length(b"\xff\r\n")] == [0, 0]
    assert await wire.pop(b"q", 5) == []
    assert [await other.length(b"q"), await other.length(b"\xff\r\n")] == [1, 1]
    assert await wire.push(b"q", b"2", LONG, 1) == (1, None)


@pytest.mark.clause("W10")
@pytest.mark.clause("W3")
@in_loop
async def test_a_push_on_a_wire_that_is_lost_raises_and_counts_at_most_once(
    wires: WireCase,
) -> None:
    listener = await wires.listener()
    pushing = [
        asyncio.ensure_future(listener.wire.push(b"q", each, LONG, MANY)) for each in numbered(50)
    ]
    await asyncio.sleep(0)
    wires.line.cut()
    done = await within(asyncio.gather(*pushing, return_exceptions=True))
    assert all(isinstance(each, (tuple, WireLost)) for each in done)
    taken = [
        number for number, each in zip(numbered(50), done, strict=True) if isinstance(each, tuple)
    ]
    other = await wires.listener()
    found = await other.wire.pop(b"q", 100)
    assert len(set(found)) == len(found)
    assert set(taken) <= set(found)
