"""A record that was taken and is put back comes first, wherever there is room for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from asgi_ipc.engines.base import Popped
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from asgi_ipc.exceptions import StoreFull
from tests.tools.clocks import Clock
from tests.tools.queues import (
    FULL,
    SECOND,
    engine,
    extents,
    give_ring,
    in_front,
    in_list,
    payloads,
    pop,
    push,
    word,
)
from tests.tools.stores import (
    KIB,
    assert_sound,
    in_child,
    open_store,
    record,
    sweep,
)

# The engine has extents of 16 KiB.
__all__ = ["engine"]


def put_back(engine: SharedMemoryEngine, *taken: Popped) -> None:
    for each in reversed(taken):
        engine.restore(b"q", each)
        assert_sound(engine)


@pytest.mark.parametrize("between", [0, 1, 9, 13, 20])
def test_what_is_restored_comes_first_again(engine: SharedMemoryEngine, between: int) -> None:
    give_ring(engine)
    big = b"B" * 1_200
    push(engine, b"1" * 5_000, b"2", b"3")
    (first,) = engine.pop(b"q")
    # Which may fill the ring up to what is its oldest now.
    push(engine, *[big] * between)
    engine.restore(b"q", first)
    assert_sound(engine)
    assert pop(engine, 99) == [b"1" * 5_000, b"2", b"3", *[big] * between]
    counts = engine.statistics(b"q")
    assert counts["pushed"] == counts["popped"] == HOT + 3 + between


def test_what_is_restored_to_an_empty_ring_is_there(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    engine.restore(b"q", Popped(b"never pushed here", engine.clock() + SECOND))
    push(engine, b"next")
    assert pop(engine, 9) == [b"never pushed here", b"next"]
    assert engine.statistics()["pending"] == 0


@pytest.mark.parametrize("gone", ["nothing", "what expired", "what a flush took"])
def test_what_was_taken_is_put_back_into_a_store_made_anew(
    tmp_path: Path, engine: SharedMemoryEngine, clock: Clock, gone: str
) -> None:
    push(engine, b"taken", lifetime=10 * SECOND)
    (taken,) = engine.pop(b"q")
    open_store(tmp_path, channel_memory=2048 * KIB, clock=clock).destroy()
    if gone != "nothing":
        push(engine, b"gone", queue=b"other", lifetime=SECOND)
    if gone == "what expired":
        clock.now += SECOND
        assert engine.statistics(b"other")["expired"] == 1
    elif gone != "nothing":
        engine.flush()
        assert engine.statistics()["flushed"] == 1
    engine.restore(b"q", taken)
    assert_sound(engine)
    assert engine.statistics()["pending"] == 1
    assert pop(engine, 9) == [b"taken"]


def test_what_was_the_last_of_an_extent_has_room_elsewhere(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    sent = payloads(3 * FULL)
    push(engine, *sent)
    assert extents(engine) == 3
    taken = engine.pop(b"q", FULL + 1)
    assert extents(engine) == 2
    put_back(engine, *taken)
    assert in_front(engine)
    assert not in_list(engine)
    counts = engine.statistics(b"q")
    assert (counts["pushed"], counts["popped"]) == (3 * FULL + HOT, HOT)
    assert pop(engine, FULL - 1) == sent[: FULL - 1]
    assert pop(engine, 99) == sent[FULL - 1 :]
    assert not in_front(engine)


def test_what_went_round_to_where_it_was_stays_behind_it(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    sent = payloads(24)
    push(engine, *sent[:13])
    taken = engine.pop(b"q", 10)
    push(engine, *sent[13:])
    assert word(engine, layout.Q_IN) % (1 << 32) < word(engine, layout.Q_OUT) % (1 << 32)
    put_back(engine, *taken)
    assert in_front(engine)
    behind = payloads(10, 999)
    push(engine, *behind)
    assert_sound(engine)
    assert [pop(engine) for _ in range(34)] == [[each] for each in [*sent, *behind]]


def test_what_came_through_the_list_goes_before_the_ring_that_was_given_since(
    engine: SharedMemoryEngine,
) -> None:
    sent = [b"%d" % number for number in range(HOT)]
    push(engine, *sent[:-1])
    (first,) = engine.pop(b"q")
    push(engine, *sent[-1:])
    assert extents(engine) == 1
    put_back(engine, first)
    counts = engine.statistics(b"q")
    assert (counts["pushed"], counts["popped"], counts["pending"]) == (HOT, 0, HOT)
    assert pop(engine, 99) == sent


def test_what_never_was_in_a_queue_is_put_there_all_the_same(engine: SharedMemoryEngine) -> None:
    sent = [b"%d" % number for number in range(HOT)]
    push(engine, *sent)
    assert extents(engine) == 1
    put_back(engine, Popped(b"first", engine.clock() + SECOND))
    counts = engine.statistics(b"q")
    assert (counts["pushed"], counts["popped"], counts["pending"]) == (HOT + 1, 0, HOT + 1)
    assert pop(engine, 99) == [b"first", *sent]


def test_what_never_was_in_a_ring_of_the_expired_is_counted_as_pushed(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    push(engine, *[b"x"] * 3 * HOT, lifetime=SECOND)
    clock.now += SECOND
    assert engine.statistics(b"q")["expired"] == 3 * HOT
    assert word(engine, layout.Q_OUT) >> 32 > 0
    put_back(engine, Popped(b"first", engine.clock() + SECOND))
    counts = engine.statistics(b"q")
    assert (counts["pushed"], counts["popped"], counts["pending"]) == (3 * HOT + 1, 0, 1)


def test_one_larger_than_an_extent_goes_before_a_ring(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    sent = [bytes(40_000), *payloads(3)]
    push(engine, sent[0])
    (large,) = engine.pop(b"q")
    push(engine, *sent[1:])
    put_back(engine, large)
    assert in_front(engine)
    counts = engine.statistics(b"q")
    assert (counts["pushed"], counts["popped"], counts["pending"]) == (HOT + 4, HOT, 4)
    assert pop(engine, 2) == sent[:2]
    assert pop(engine, 9) == sent[2:]


def test_what_came_and_went_through_the_ring_counts_as_of_the_list(
    engine: SharedMemoryEngine,
) -> None:
    push(engine, *[b"x"] * 3 * HOT)
    assert not in_list(engine)
    assert len(engine.pop(b"q", 9)) == 9
    assert word(engine, layout.Q_GONE) == 0
    # None of these, but the queue can't know.
    put_back(engine, Popped(bytes(17_000), engine.clock() + SECOND))
    assert in_front(engine)
    counts = engine.statistics(b"q")
    assert (counts["pushed"], counts["popped"]) == (3 * HOT, 8)
    assert pop(engine, 99) == [bytes(17_000), *[b"x"] * (3 * HOT - 9)]


def test_what_counts_as_of_the_list_is_not_put_back_to_the_ring_later(
    engine: SharedMemoryEngine,
) -> None:
    push(engine, *[b"x"] * 3 * HOT)
    assert pop(engine) == [b"x"]
    put_back(engine, Popped(bytes(17_000), engine.clock() + SECOND))
    assert pop(engine) == [bytes(17_000)]
    # There is room in the ring, but it has not seen anything go.
    assert word(engine, layout.Q_OUT) >> 32 == 0
    put_back(engine, Popped(b"first", engine.clock() + SECOND))
    assert in_front(engine)
    assert pop(engine, 99) == [b"first", *[b"x"] * (3 * HOT - 1)]


def test_what_is_in_front_expires_and_is_counted_and_aged(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    give_ring(engine)
    for number, lifetime in enumerate((3, 1, 2, 1)):
        engine.restore(b"q", Popped(b"%d" % number * 17_000, clock.now + lifetime * SECOND))
    clock.now += SECOND // 2
    push(engine, b"in the ring", b"behind it")
    clock.now += SECOND // 2
    counts = engine.statistics(b"q")
    assert (counts["expired"], counts["pending"], counts["oldest_age"]) == (2, 4, SECOND)
    assert_sound(engine)
    assert [each[:1] for each in pop(engine, 2)] == [b"2", b"0"]
    assert not in_front(engine)
    assert pop(engine, 9) == [b"in the ring", b"behind it"]


def test_what_is_in_front_counts_for_capacity(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    push(engine, b"ring")
    put_back(engine, Popped(bytes(17_000), engine.clock() + SECOND))
    assert engine.push([record(engine, b"q", b"third", capacity=2)])
    assert engine.push([record(engine, b"q", b"third", capacity=3)]) == []
    assert engine.push([record(engine, b"q", b"fourth", capacity=3)])
    assert len(pop(engine, 9)) == 3


def test_what_is_in_front_is_removed_with_the_owner_of_its_queue(
    tmp_path: Path, engine: SharedMemoryEngine, clock: Clock
) -> None:
    def dies() -> None:
        mine = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
        assert mine.push([record(mine, b"own", owner=mine.identity)] * 2 * HOT) == []
        for _ in range(3):
            mine.restore(b"own", Popped(bytes(17_000), mine.clock() + SECOND))
        assert in_front(mine, b"own")

    in_child(dies)
    engine.session.channels.words[layout.NEXT_SWEEP] = 0
    engine.upkeep.due = 0
    counts = engine.statistics()
    assert (counts["orphaned"], counts["queues"], counts["pending"]) == (2 * HOT + 3, 0, 0)


def test_what_was_taken_from_a_full_store_is_put_back(engine: SharedMemoryEngine) -> None:
    count = 0
    while not engine.push([record(engine, b"q", b"%200d" % count)]):
        count += 1
    taken = engine.pop(b"q", 64)
    put_back(engine, *taken)
    assert not in_front(engine), "there is no room but where they were"
    assert pop(engine, 10**5) == [b"%200d" % number for number in range(count)]


def test_what_finds_no_room_is_refused_and_all_is_as_before(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    push(engine, b"1", b"2")
    size, number = 5_000, 0
    while size > 100:
        # A queue may not have it all.
        number += 1
        if engine.push([record(engine, b"fill%d" % (number % 8), bytes(size))]):
            size //= 2
    before = engine.statistics()
    with pytest.raises(StoreFull):
        engine.restore(b"q", Popped(bytes(17_000), engine.clock() + SECOND))
    assert_sound(engine)
    assert engine.statistics() == before
    assert pop(engine, 9) == [b"1", b"2"]


def test_an_idle_ring_is_removed_while_a_record_is_in_front_of_it(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    give_ring(engine)
    put_back(engine, Popped(bytes(17_000), engine.clock() + 100 * SECOND))
    for _ in range(3):
        sweep(engine, clock.now, everything=True)
    assert len(pop(engine)) == 1
    sweep(engine, clock.now, everything=True)
    assert engine.statistics()["queues"] == 0


def test_a_flush_takes_what_is_in_front(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    push(engine, b"1")
    put_back(engine, Popped(bytes(17_000), engine.clock() + SECOND))
    engine.flush()
    assert_sound(engine)
    assert not engine.peek(b"q") or engine.pop(b"q", 1) == []


def test_what_was_put_back_is_counted(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    before = engine.statistics()
    push(engine, *payloads(3))
    put_back(engine, *engine.pop(b"q", 2))
    pop(engine, 3)
    counts = engine.statistics()
    grown = {name: counts[name] - before[name] for name in ("pushed", "popped", "restored")}
    assert grown == {"pushed": 3, "popped": 3, "restored": 2}
