"""Rings of several extents: what a busy queue has while its reader is behind."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from asgi_ipc.engines.base import Popped
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.queues import linked_list, ring_extents, rings
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from asgi_ipc.exceptions import StoreCorrupt, StoreFull
from tests.engines.shm.queues.test_rings import (
    SECOND,
    Clock,
    clock,
    give_ring,
    in_front,
    in_list,
    pop,
    push,
    word,
)
from tests.engines.shm.queues.test_rings import (
    engine as whole,
)
from tests.tools.stores import (
    KIB,
    assert_sound,
    in_child,
    open_store,
    record,
    room,
    sweep,
)

__all__ = ["clock", "whole"]

# The engine has extents of 16 KiB.

#: Nanoseconds: a second, and what may stand before it in a ring that gets longer.
LONGER = 3 * SECOND // 2
#: Of these, 16 fill an extent.
SIZE = 1_000
FULL = 16


@pytest.fixture
def engine(whole: SharedMemoryEngine) -> SharedMemoryEngine:
    """One that gives a ring of large messages four extents at most."""
    whole._queues._rings._most_large = 3
    return whole


def payloads(count: int, size: int = SIZE) -> list[bytes]:
    return [b"%d:" % number + bytes(size - 4) for number in range(count)]


def extents(engine: SharedMemoryEngine) -> int:
    """Those of the one ring that there is."""
    words = engine._channels.words
    found: int = words[layout.RINGS] + words[layout.BACKLOG]
    return found


def test_a_backlog_goes_on_in_more_extents_and_gives_each_back(
    engine: SharedMemoryEngine,
) -> None:
    give_ring(engine)
    sent = payloads(4 * FULL)
    push(engine, *sent)
    assert extents(engine) == 4
    assert not in_list(engine)
    assert_sound(engine)
    for number, payload in enumerate(sent):
        assert pop(engine) == [payload]
        assert extents(engine) >= 4 - number // FULL - 1
    assert extents(engine) == 1
    assert engine.statistics()["pending"] == 0


def test_what_has_no_room_in_the_extents_either_goes_to_the_list(
    engine: SharedMemoryEngine,
) -> None:
    give_ring(engine)
    sent = payloads(6 * FULL)
    push(engine, *sent)
    assert extents(engine) == 4
    assert in_list(engine)
    assert_sound(engine)
    assert pop(engine, 3 * FULL) == sent[: 3 * FULL]
    # The list is younger than the ring, and so is what comes now.
    push(engine, b"last")
    assert pop(engine, 999) == [*sent[3 * FULL :], b"last"]
    push(engine, b"through the ring again")
    assert not in_list(engine)
    assert pop(engine) == [b"through the ring again"]


def test_a_queue_that_is_read_as_it_is_filled_goes_round_in_one_extent(
    engine: SharedMemoryEngine,
) -> None:
    give_ring(engine)
    push(engine, b"ahead", b"of it")
    for payload in payloads(300):
        push(engine, payload)
        assert pop(engine)
        assert extents(engine) == 1
    assert not in_list(engine)


def test_a_ring_that_went_round_can_go_on_elsewhere(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    sent = payloads(60)
    push(engine, *sent[:13])
    assert pop(engine, 12) == sent[:12]
    push(engine, *sent[13:20])
    assert word(engine, layout.Q_IN) % (1 << 32) < word(engine, layout.Q_OUT) % (1 << 32)
    assert extents(engine) == 1
    push(engine, *sent[20:50])
    assert extents(engine) == 3
    assert not in_list(engine)
    assert_sound(engine)
    assert pop(engine, 2) == sent[12:14]
    # There is room in front of the oldest up to what went round to the beginning.
    for number in (13, 12, 11):
        assert not in_front(engine)
        engine.restore(b"q", Popped(sent[number], engine.clock() + SECOND))
        assert_sound(engine)
    assert in_front(engine)
    assert extents(engine) == 3
    assert pop(engine, 99) == sent[11:50]


def test_what_expired_gives_the_extents_back_that_it_filled(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    give_ring(engine)
    push(engine, *payloads(2 * FULL + 5), lifetime=SECOND)
    push(engine, b"live")
    assert extents(engine) == 3
    clock.now += 2 * SECOND
    sweep(engine, clock.now)
    assert extents(engine) == 1
    counts = engine.statistics()
    assert (counts["expired"], counts["pending"]) == (2 * FULL + 5, 1)
    assert_sound(engine)
    assert pop(engine, 9) == [b"live"]


def test_what_expired_behind_a_live_one_is_passed_over_extent_by_extent(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    give_ring(engine)
    push(engine, b"old", lifetime=LONGER)
    push(engine, *payloads(2 * FULL + 5), lifetime=SECOND)
    push(engine, b"young")
    clock.now += SECOND
    sweep(engine, clock.now)
    assert extents(engine) == 3
    assert_sound(engine)
    assert engine.statistics(b"q")["oldest_age"] >= SECOND
    assert pop(engine) == [b"old"]
    assert pop(engine) == [b"young"]
    assert extents(engine) == 1


def test_a_ring_of_which_only_the_dead_are_left_goes_with_all_its_extents(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    give_ring(engine)
    push(engine, b"old", lifetime=LONGER)
    push(engine, *payloads(2 * FULL + 5), lifetime=SECOND)
    clock.now += SECOND
    sweep(engine, clock.now)
    assert pop(engine) == [b"old"]
    assert extents(engine) == 3
    sweep(engine, clock.now, everything=True)
    assert extents(engine) == 0
    assert engine.statistics()["queues"] == 0


def test_an_empty_ring_gets_no_more_extents(engine: SharedMemoryEngine, clock: Clock) -> None:
    """Of which the first would hold nothing."""
    give_ring(engine)
    push(engine, *payloads(5))
    assert len(pop(engine, 5)) == 5
    # Too large for what is left behind the newest, and for what is before the oldest.
    push(engine, bytes(12_000), lifetime=SECOND)
    assert extents(engine) == 1
    clock.now += 2 * SECOND
    sweep(engine, clock.now)
    assert_sound(engine)
    push(engine, b"next")
    assert pop(engine, 9) == [b"next"]


def test_a_backlog_goes_with_the_owner_of_its_queue(
    tmp_path: Path, engine: SharedMemoryEngine, clock: Clock
) -> None:
    def dies() -> None:
        mine = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
        for _ in range(HOT + 1):
            assert mine.push([record(mine, b"own", owner=mine.identity)]) == []
            mine.pop(b"own")
        records = [
            record(mine, b"own", each, owner=mine.identity, lifetime=lifetime)
            for lifetime in (100 * SECOND, SECOND)
            for each in payloads(3 * FULL // 2)
        ]
        assert mine.push(records) == []
        clock.now += 2 * SECOND
        sweep(mine, clock.now)

    in_child(dies)
    clock.now += 2 * SECOND
    assert extents(engine) > 1
    engine._channels.words[layout.NEXT_SWEEP] = 0
    engine._next_look = 0
    counts = engine.statistics()
    assert (counts["orphaned"], counts["expired"]) == (3 * FULL // 2, 3 * FULL // 2)
    assert (counts["queues"], counts["pending"]) == (0, 0)
    assert extents(engine) == 0


def test_a_backlog_of_small_ones_takes_all_that_a_queue_may_have(whole: SharedMemoryEngine) -> None:
    words, count = whole._channels.words, 0
    while not whole.push([record(whole, b"q", b"%200d" % count)]):
        count += 1
    assert words[layout.BACKLOG] > 0.85 * room(whole) // (16 * KIB)
    assert 200 * count > 0.75 * room(whole)
    assert (words[layout.RINGS], words[layout.BACKLOG]) == (1, extents(whole) - 1)
    assert_sound(whole)
    assert pop(whole, 10**5) == [b"%200d" % number for number in range(count)]
    assert words[layout.BACKLOG] == 0
    push(whole, *payloads(60), queue=b"other")
    assert pop(whole, 99, b"other") == payloads(60)


def test_what_expires_long_before_an_older_one_makes_room_all_the_same(
    whole: SharedMemoryEngine, clock: Clock
) -> None:
    """In a ring it would keep its place until that is read."""

    def fill() -> int:
        count = 0
        while not whole.push([record(whole, b"q", bytes(200), lifetime=10 * SECOND)]):
            count += 1
        return count

    push(whole, b"in front", lifetime=100 * SECOND)
    room = fill()
    for _ in range(3):
        clock.now += 10 * SECOND
        assert fill() > 0.95 * room
        assert_sound(whole)
    assert pop(whole) == [b"in front"]


def test_messages_that_expire_ever_sooner_lengthen_no_ring_either(
    engine: SharedMemoryEngine,
) -> None:
    give_ring(engine)
    for number, payload in enumerate(payloads(2 * FULL)):
        push(engine, payload, lifetime=20 * SECOND - number * SECOND // 5)
    assert extents(engine) == 1
    assert in_list(engine)


def test_the_order_of_expiry_is_looked_at_once(
    engine: SharedMemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_ring(engine)
    push(engine, b"in front", lifetime=100 * SECOND)
    push(engine, *payloads(2 * FULL), lifetime=SECOND)
    assert in_list(engine)
    monkeypatch.setattr(engine._queues._rings, "_entries_of", None)
    push(engine, *payloads(FULL), lifetime=SECOND)
    monkeypatch.undo()
    assert len(pop(engine, 99)) == 1 + 3 * FULL


def test_a_ring_lies_where_anything_may_have_been(engine: SharedMemoryEngine) -> None:
    push(engine, bytes([255]) * 1_000_000, queue=b"before")
    assert len(pop(engine, 1, b"before")) == 1
    sent = payloads(4 * 80, 200)
    push(engine, *sent)
    assert extents(engine) > 4
    assert pop(engine, 999) == sent


def test_the_order_of_expiry_is_looked_at_from_extent_to_extent(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    give_ring(engine)
    sent = payloads(4 * FULL)
    push(engine, *sent[:FULL], lifetime=10 * SECOND)
    assert extents(engine) == 1
    push(engine, *sent[FULL:], lifetime=8 * SECOND)
    assert extents(engine) == 2
    assert in_list(engine)
    # It is so until the ring was empty.
    assert pop(engine, 2 * FULL) == sent[: 2 * FULL]
    push(engine, *sent, lifetime=10 * SECOND)
    assert extents(engine) <= 2
    assert pop(engine, 99) == [*sent[2 * FULL :], *sent]
    push(engine, *sent, lifetime=10 * SECOND)
    assert extents(engine) == 4
    assert pop(engine, 99) == sent


def test_a_backlog_of_large_ones_takes_less_as_they_may_leave_extents_half_empty(
    whole: SharedMemoryEngine,
) -> None:
    give_ring(whole)
    sent = payloads(20, 9_000)
    push(whole, *sent)
    assert whole._channels.words[layout.BACKLOG] == 4
    assert in_list(whole)
    assert pop(whole, 99) == sent


def test_a_queue_of_large_ones_that_nobody_reads_yet_gets_no_ring(
    engine: SharedMemoryEngine,
) -> None:
    sent = payloads(2 * HOT)
    push(engine, *sent)
    assert extents(engine) == 0
    assert pop(engine) == sent[:1]
    assert extents(engine) == 1
    push(engine, b"small")
    assert pop(engine, 99) == [*sent[1:], b"small"]


def test_a_flush_takes_a_backlog_too(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    push(engine, *payloads(4 * FULL))
    assert extents(engine) == 4
    engine.flush()
    assert extents(engine) == 0
    assert_sound(engine)
    give_ring(engine)
    push(engine, *payloads(4 * FULL))
    assert extents(engine) == 4


def test_a_link_to_another_queues_extent_is_told(tmp_path: Path, clock: Clock) -> None:
    engine = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
    give_ring(engine)
    give_ring(engine, b"other")
    push(engine, *payloads(FULL + 5))
    push(engine, b"theirs", queue=b"other")
    theirs, end = (word(engine, each, b"other") for each in (layout.Q_RING_IN, layout.Q_IN))
    ring, words = word(engine, layout.Q_RING_OUT), engine._channels.words
    words[ring + layout.L_NEXT] = theirs
    words[theirs + layout.L_STOP] = end & layout.OFFSET_MASK
    with pytest.raises(StoreCorrupt, match="ring"):
        pop(engine, FULL)
    engine.destroy()


def test_a_ring_that_counts_more_than_it_holds_is_told(tmp_path: Path, clock: Clock) -> None:
    engine = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
    give_ring(engine)
    push(engine, b"1")
    address = engine._queues.find(b"q")
    engine._channels.words[address + layout.Q_IN] += 1 << layout.COUNT_SHIFT
    with pytest.raises(StoreCorrupt, match="ring"):
        pop(engine, 9)
    engine.destroy()


def test_a_ring_whose_counts_have_grown_large_gets_nothing_from_the_list(
    engine: SharedMemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could never be exchanged."""
    give_ring(engine)
    for module in (rings, ring_extents, linked_list):
        monkeypatch.setattr(module, "WORN", 20 << layout.COUNT_SHIFT)
    push(engine, *[b"ahead"] * 5)
    for number in range(60):
        push(engine, b"%d" % number)
        assert len(pop(engine)) == 1
        assert word(engine, layout.Q_IN) >> layout.COUNT_SHIFT <= 20


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_events_gives_what_a_list_gives(
    engine: SharedMemoryEngine, clock: Clock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_extents, "HOT", 1)
    dice = random.Random(seed)
    expected: list[Popped] = []
    held: list[Popped] = []
    most = 0
    # With the others no ring gets longer for long.
    alike = seed % 2 > 0
    lifetimes = [SECOND, LONGER] if alike else [SECOND // 10, SECOND, 100 * SECOND, 100 * SECOND]
    for step in range(4_000):
        choice = dice.random()
        expected = [each for each in expected if each.deadline > clock.now]
        if choice < (0.7 if step // 200 % 2 else 0.35):
            payload = b"%d:" % step + bytes(dice.choice([0, 7, 100, 900, 900, 5_000, 15_000]))
            lifetime = dice.choice(lifetimes)
            if not engine.push([record(engine, b"q", payload, lifetime=lifetime)]):
                expected.append(Popped(payload, clock.now + lifetime))
        elif choice < 0.88:
            limit = dice.choice([1, 1, 1, 5, 40])
            taken = engine.pop(b"q", limit)
            assert taken == expected[:limit]
            del expected[:limit]
            held = (held + dice.sample(taken, len(taken)))[-20:]
        elif choice < 0.93 and held:
            back = held.pop(dice.randrange(len(held)))
            try:
                engine.restore(b"q", back)
                expected.insert(0, back)
            except StoreFull:
                pass
        elif choice < 0.96:
            sweep(engine, clock.now, everything=dice.random() < 0.2)
        else:
            clock.now += dice.choice([SECOND // 20, SECOND // 20, SECOND])
        most = max(most, extents(engine))
        if not step % 20:
            assert_sound(engine)
    assert most >= 4 or not alike
    assert engine.pop(b"q", 10**6) == [each for each in expected if each.deadline > clock.now]
