"""Rings: a busy queue behaves as any other, whichever way its messages go."""

from __future__ import annotations

import random
import select
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_ipc.engines.base import Bell, Popped
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.queues import linked_list, queues, ring_extents, rings
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from tests.tools.stores import (
    KIB,
    assert_sound,
    in_child,
    open_store,
    record,
    room,
    sweep,
)

SECOND = 1_000_000_000


class Clock:
    """Nanoseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> Iterator[SharedMemoryEngine]:
    # 16 KiB for an extent, and so for a ring.
    engine = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
    engine._next_look = 1 << 63
    yield engine
    assert_sound(engine)
    engine.destroy()


def push(engine: SharedMemoryEngine, *payloads: bytes, queue: bytes = b"q", **more: int) -> None:
    assert engine.push([record(engine, queue, each, **more) for each in payloads]) == []  # type: ignore[arg-type]


def pop(engine: SharedMemoryEngine, limit: int = 1, queue: bytes = b"q") -> list[bytes]:
    return [each.payload for each in engine.pop(queue, limit)]


def word(engine: SharedMemoryEngine, offset: int, queue: bytes = b"q") -> int:
    with engine._channels as heap:
        found: int = heap.words[engine._queues.find(queue) + offset]
        return found


def give_ring(engine: SharedMemoryEngine, queue: bytes = b"q") -> None:
    push(engine, *[b"%d" % number for number in range(HOT - 1)], queue=queue)
    assert not word(engine, layout.Q_RING_IN, queue)
    push(engine, b"one more", queue=queue)
    assert word(engine, layout.Q_RING_IN, queue)
    assert len(pop(engine, HOT, queue)) == HOT


def in_list(engine: SharedMemoryEngine) -> bool:
    return bool(word(engine, layout.Q_HEADS) & layout.LINK_MASK)


def in_front(engine: SharedMemoryEngine, queue: bytes = b"q") -> bool:
    return word(engine, layout.Q_HEADS, queue) >> layout.FRONT_SHIFT > 0


def test_no_ring_lies_where_its_ends_could_not_be_told(
    engine: SharedMemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a store of more than 32 GiB."""
    extents = engine._channels.heap.geometry.first_extent
    monkeypatch.setattr(ring_extents, "OFFSET_MASK", extents - 1)
    for _ in range(3):
        payloads = [b"%d" % number for number in range(HOT)]
        push(engine, *payloads)
        assert pop(engine, HOT) == payloads
    assert not word(engine, layout.Q_RING_IN)


def push_without_ring(engine: SharedMemoryEngine, *payloads: bytes) -> None:
    """As if there was no ring to be had when these come."""
    rings = engine._queues._rings
    most, rings._most_unread = rings._most_unread, 0
    push(engine, *payloads)
    rings._most_unread = most
    assert not word(engine, layout.Q_RING_IN)


def test_a_queue_gets_a_ring_once_it_was_used(engine: SharedMemoryEngine) -> None:
    push(engine, b"once")
    assert pop(engine) == [b"once"]
    push(engine, *[b"more"] * (HOT - 2))
    assert not word(engine, layout.Q_RING_IN)
    push(engine, b"last")
    assert word(engine, layout.Q_RING_IN)
    assert in_list(engine)
    assert pop(engine, 99) == [*[b"more"] * (HOT - 2), b"last"]
    push(engine, b"through it")
    assert not in_list(engine)
    assert pop(engine) == [b"through it"]


def test_what_nobody_reads_yet_moves_to_the_ring_as_more_comes(engine: SharedMemoryEngine) -> None:
    sent = [b"%d" % number for number in range(3 * HOT)]
    push(engine, *sent[: HOT + 1])
    assert in_list(engine)
    push(engine, *sent[HOT + 1 :])
    assert not in_list(engine)
    counts = engine.statistics(b"q")
    assert (counts["pushed"], counts["pending"], counts["high_water"]) == (48, 48, 48)
    assert pop(engine, 99) == sent


def test_a_queue_that_found_no_ring_gets_one_when_it_is_read(engine: SharedMemoryEngine) -> None:
    push_without_ring(engine, *[b"%d" % number for number in range(2 * HOT)])
    assert pop(engine) == [b"0"]
    assert word(engine, layout.Q_RING_IN)


def test_queues_that_nobody_reads_leave_half_of_the_rings_to_others(
    engine: SharedMemoryEngine,
) -> None:
    names = [b"q%d" % number for number in range(20)]
    for name in names:
        push(engine, *[b"x"] * HOT, queue=name)
    assert engine._channels.words[layout.RINGS] == 4
    for name in reversed(names):
        assert pop(engine, HOT, name) == [b"x"] * HOT
    assert engine._channels.words[layout.RINGS] == 8
    assert word(engine, layout.Q_RING_IN, names[-1])


def test_readers_that_never_empty_a_list_move_it_to_the_ring(engine: SharedMemoryEngine) -> None:
    """As a writer and a reader that take turns at the lock: what lies there never gets less."""
    ahead = [b"%d" % number for number in range(300)]
    push_without_ring(engine, *ahead)
    for number in range(300):
        push(engine, b"next %d" % number)
        assert pop(engine) == [ahead[number]]
        if not number % 50:
            assert_sound(engine)
    assert not in_list(engine)
    assert pop(engine, 999) == [b"next %d" % number for number in range(300)]
    counts = engine.statistics(b"q")
    assert (counts["pushed"], counts["high_water"]) == (600, 301)


def push_and_pop(engine: SharedMemoryEngine) -> None:
    push(engine, b"2")
    pop(engine)


#: To a queue that holds message 1, and is never empty meanwhile: how it gets there, what another
#: process does.
NEVER_EMPTY: dict[str, tuple[Callable[..., None], Callable[..., object]]] = {
    "from list to ring": (
        lambda engine: push_without_ring(engine, b"1"),
        lambda other: push(other, b"2"),
    ),
    "through the ring": (
        lambda engine: push(engine, b"1"),
        push_and_pop,
    ),
    "off the list": (
        lambda engine: push_without_ring(engine, b"1", b"2"),
        lambda other: pop(other),
    ),
    "in front and behind": (
        lambda engine: engine.restore(b"q", Popped(b"1" * 17_000, engine.clock() + SECOND)),
        push_and_pop,
    ),
    "behind and in front": (
        lambda engine: push(engine, b"1", b"2"),
        lambda other: (other.pop(b"q", 1), other.restore(b"q", Popped(b"1" * 17_000, SECOND))),
    ),
}


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("case", NEVER_EMPTY)
def test_what_moves_is_never_out_of_sight(
    tmp_path: Path,
    engine: SharedMemoryEngine,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    turn: int,
) -> None:
    """To who peeks, without the lock, while another process has its turn between two reads."""
    prepare, step = NEVER_EMPTY[case]
    other = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
    give_ring(engine)
    if "list" in case:
        with engine._channels:
            engine._queues._rings.drop(engine._queues.find(b"q"))
    prepare(engine)
    assert engine.peek(b"q")
    read = [layout.Q_TAG, layout.Q_OUT, layout.Q_HEADS, layout.Q_IN]
    assert read == sorted(read), "they are read in this order"

    def slowly(view: memoryview, offset: int) -> tuple[int, ...]:
        found = []
        for number, each in enumerate(read):
            if number == turn:
                step(other)
            found.append(engine._channels.words[offset // layout.WORD - layout.Q_TAG + each])
        return tuple(found)

    monkeypatch.setattr(queues, "_peek", slowly)
    assert engine.peek(b"q")
    other.close()


def test_the_order_is_kept_over_ring_and_list_for_any_sizes(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    dice = random.Random(7)
    expected: deque[bytes] = deque()
    ways = set()
    for step in range(6_000):
        # For a while more comes than goes, and then the other way round.
        if dice.random() < (0.6 if step // 200 % 2 else 0.42):
            size = dice.choice([0, 1, 7, 8, 9, 100, 900, 5_000, 20_000])
            payload = b"%d:" % step + bytes(size)
            if engine.push([record(engine, b"q", payload)]):
                continue
            expected.append(payload)
        else:
            count = dice.choice([1, 1, 5])
            for payload in pop(engine, count):
                assert payload == expected.popleft()
        ways.add((in_list(engine), word(engine, layout.Q_IN) < word(engine, layout.Q_OUT)))
        if not step % 500:
            assert_sound(engine)
        assert engine.statistics(b"q")["pending"] == len(expected)
    assert {True, False} == {listed for listed, _ in ways}
    assert pop(engine, 10**6) == list(expected)


def test_capacity_is_exact_in_a_ring(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    for _ in range(3):
        for number in range(5):
            assert engine.push([record(engine, b"q", b"%d" % number, capacity=5)]) == []
        (refused,) = engine.push([record(engine, b"q", b"6", capacity=5)])
        assert not refused.no_room
        assert not in_list(engine)
        assert pop(engine, 9) == [b"0", b"1", b"2", b"3", b"4"]
    counts = engine.statistics(b"q")
    assert counts["refused"] == 3
    assert counts["pushed"] == HOT + 15 == counts["popped"]
    assert engine.statistics()["pushed"] == HOT + 15


def test_what_expired_anywhere_in_a_ring_makes_room(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    give_ring(engine)
    push(engine, b"old")
    push(engine, b"x1", b"x2", lifetime=SECOND)
    push(engine, b"young")
    push(engine, b"x3", lifetime=SECOND)
    clock.now += 2 * SECOND
    assert engine.push([record(engine, b"q", b"new", capacity=3)]) == []
    counts = engine.statistics(b"q")
    assert (counts["expired"], counts["pending"]) == (3, 3)
    assert counts["oldest_age"] >= 2 * SECOND
    assert_sound(engine)
    assert engine.push([record(engine, b"q", b"over", capacity=3)]) != []
    assert pop(engine, 9) == [b"old", b"young", b"new"]


def test_what_expired_in_front_of_a_ring_is_passed_over(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    give_ring(engine)
    push(engine, b"x1", b"x2", lifetime=SECOND)
    push(engine, b"live")
    clock.now += 2 * SECOND
    assert pop(engine, 9) == [b"live"]
    counts = engine.statistics()
    assert (counts["expired"], counts["pending"], counts["popped"]) == (2, 0, HOT + 1)


@pytest.mark.parametrize("used_often", [False, True])
def test_the_store_knows_when_something_expires_that_came_after_a_sweep(
    engine: SharedMemoryEngine, clock: Clock, used_often: bool
) -> None:
    """A full store looks for what has expired only then."""
    if used_often:
        give_ring(engine)
    push(engine, b"gone before", lifetime=SECOND)
    assert pop(engine)
    sweep(engine, clock.now)
    push(engine, b"later", lifetime=2 * SECOND)
    assert engine._channels.words[layout.SOONEST] <= clock.now + 2 * SECOND
    assert_sound(engine)


def test_a_flush_is_not_outlived_by_what_is_remembered(
    tmp_path: Path, engine: SharedMemoryEngine, clock: Clock
) -> None:
    other = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
    give_ring(engine)
    push(other, b"seen")
    assert pop(other) == [b"seen"]
    engine.flush()
    # Its memory still looks as it did.
    assert pop(other, 9) == []
    push(other, b"after")
    assert engine.statistics()["pending"] == 1
    assert_sound(engine)
    assert pop(engine) == [b"after"]
    give_ring(engine, b"another")
    push(other, b"x", b"y")
    assert pop(engine, 9) == [b"x", b"y"]
    other.close()


def test_a_queue_that_went_and_came_is_not_taken_for_the_old_one(
    tmp_path: Path, engine: SharedMemoryEngine, clock: Clock
) -> None:
    other = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
    for round_ in range(3):
        give_ring(engine)
        push(other, b"seen")
        assert pop(other) == [b"seen"]
        sweep(engine, clock.now, everything=True)
        assert engine.statistics()["queues"] == 0
        # Something else lies there now.
        push(engine, b"fresh", bytes(3_000), queue=b"o%d" % round_)
        push(other, b"mine")
        assert pop(engine) == [b"mine"]
        assert pop(other, 9, b"o%d" % round_) == [b"fresh", bytes(3_000)]
        assert_sound(engine)
        sweep(engine, clock.now, everything=True)
    other.close()


def test_an_idle_ring_goes_and_the_queue_stays_with_who_waits(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    bell = engine.bell()
    give_ring(engine)
    push(engine, b"1")
    assert len(engine.pop(b"q", 9, bell)) == 1
    for _ in range(2):
        sweep(engine, clock.now)
    assert not word(engine, layout.Q_RING_IN)
    assert engine._channels.words[layout.RINGS] == 0
    push(engine, b"2")
    assert bell_rang(bell)
    assert pop(engine) == [b"2"]
    counts = engine.statistics(b"q")
    assert counts["pushed"] == counts["popped"] == HOT + 2


def bell_rang(bell: Bell, within: float = 10) -> bool:
    return bool(select.select([bell], [], [], within)[0])


def test_who_waits_in_line_is_signalled_in_turn(engine: SharedMemoryEngine) -> None:
    give_ring(engine)
    bells = [engine.bell() for _ in range(3)]
    for bell in [*bells, *bells]:
        assert engine.pop(b"q", 1, bell) == []
    engine.disarm(b"q", bells[1])
    for bell, payload in ((bells[0], b"1"), (bells[2], b"2")):
        push(engine, payload)
        assert bell_rang(bell)
        bell.clear()
    push(engine, b"3")
    assert pop(engine, 9) == [b"1", b"2", b"3"]
    assert [bell_rang(bell, 0) for bell in bells] == [False] * 3


def test_rings_take_at_most_their_share_and_give_it_back_when_room_is_needed(
    engine: SharedMemoryEngine,
) -> None:
    names = [b"q%d" % number for number in range(40)]
    for name in names:
        push(engine, *[b"x"] * HOT, queue=name)
        pop(engine, HOT, name)
    have = [name for name in names if word(engine, layout.Q_RING_IN, name)]
    assert len(have) == engine._channels.heap.geometry.extents // 16 > 2
    stored = 0
    # A queue may not have it all.
    while not engine.push([record(engine, b"fill%d" % (stored % 8), bytes(5_000))]):
        stored += 1
    assert engine._channels.words[layout.RINGS] == 0
    assert stored * 5_000 > 0.88 * room(engine)


def test_a_ring_whose_counts_grow_large_is_exchanged(
    engine: SharedMemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_ring(engine)
    for module in (rings, ring_extents, linked_list):
        monkeypatch.setattr(module, "WORN", 20 << layout.COUNT_SHIFT)
    total = HOT
    exchanged = 0
    before = word(engine, layout.Q_IN)
    for number in range(100):
        push(engine, b"%d" % number, b"and more")
        assert pop(engine, 9) == [b"%d" % number, b"and more"]
        total += 2
        exchanged += word(engine, layout.Q_IN) >> 32 < before >> 32
        before = word(engine, layout.Q_IN)
        assert engine.statistics(b"q")["pushed"] == total
    assert exchanged > 2


def test_a_ring_goes_with_the_owner_of_its_queue(
    tmp_path: Path, engine: SharedMemoryEngine, clock: Clock
) -> None:
    def dies() -> None:
        mine = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
        identity = mine.identity
        for _ in range(HOT + 1):
            assert mine.push([record(mine, b"own", owner=identity)]) == []
            mine.pop(b"own")
        assert mine.push([record(mine, b"own", owner=identity)] * 3) == []
        assert word(mine, layout.Q_RING_IN, b"own")

    in_child(dies)
    engine._channels.words[layout.NEXT_SWEEP] = 0
    engine._next_look = 0
    counts = engine.statistics()
    assert (counts["orphaned"], counts["queues"], counts["pending"]) == (3, 0, 0)
    assert engine._channels.words[layout.RINGS] == 0
