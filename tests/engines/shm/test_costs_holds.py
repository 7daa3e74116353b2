"""No lock is held for long: what one hold may run, for every operation and however much there is.

What takes long is done in many holds, and others come in between. A message's own bytes are
copied in C and count for nothing here; the pieces it is in do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_ipc.engines.base import LOOK_RECORDS, MAX_PAYLOAD, Popped, Record, Refused
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.returns import SLICE
from asgi_ipc.engines.shm.locks.base import FIRST_SLOT
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from asgi_ipc.exceptions import StoreFull
from tests.tools.clocks import Clock
from tests.tools.costs import (
    countable,
    holds,
)
from tests.tools.stores import (
    KIB,
    assert_sound,
    room,
)

pytestmark = countable

#: Opcodes of one hold.
MOST = 20_000
FAR = 1 << 62
#: More than one hold could ever see to, of whatever it is.
MANY = 3_000


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> Iterator[SharedMemoryEngine]:
    engine = make(tmp_path, clock)
    yield engine
    assert_sound(engine)
    engine.destroy()


def make(directory: Path, clock: Clock, memory: int = 16 * 1024 * KIB) -> SharedMemoryEngine:
    engine = MmapEngine(
        "store", directory=directory, channel_memory=memory, group_memory=memory, clock=clock
    )
    engine.upkeep.due = 1 << 62
    return engine


def within(action: Callable[[], object], at_least: int = 1) -> None:
    """It holds a lock for no longer than it may; and is long enough to be worth looking at."""
    counts = holds(action)
    assert max(counts) <= MOST, sorted(counts)[-5:]
    assert len(counts) >= at_least, counts


def push(engine: SharedMemoryEngine, queue: bytes, *payloads: bytes, **how: int) -> None:
    records = [
        Record(queue, payload, how.get("deadline", FAR), how.get("capacity", 10**9))
        for payload in payloads
    ]
    assert engine.push(records) == []


def without_rings(engine: SharedMemoryEngine) -> None:
    engine.session.queues._rings.extents._most = (
        engine.session.queues._rings.extents._most_unread
    ) = 0


def in_ring(engine: SharedMemoryEngine, queue: bytes) -> None:
    push(engine, queue, *[b"x"] * HOT)
    assert len(engine.pop(queue, HOT)) == HOT


def in_pieces(engine: SharedMemoryEngine) -> int:
    """Fill the memory with messages of many queues and take every other one; how many are left."""
    without_rings(engine)
    count = 0
    while not engine.push([Record(b"q%d" % (count % 40), bytes(900), FAR, 10**9)]):
        count += 1
    for number in range(20):
        count -= len(engine.pop(b"q%d" % (2 * number), 10**6)) if number % 4 else 0
    return count


# ---- pushing


@pytest.mark.parametrize("size", [100, 60_000, 1024 * KIB])
def test_a_push_to_a_nearly_full_store(engine: SharedMemoryEngine, size: int) -> None:
    in_pieces(engine)
    refused: list[Refused] = []
    most = number = 0
    # The free extents go first; then there is nothing but holes.
    while not refused and number < 300:
        record = Record(b"l%d" % number, bytes(size), FAR, 9)
        counts = holds(lambda: refused.extend(engine.push([record])))  # noqa: B023
        assert max(counts) <= MOST, sorted(counts)[-5:]
        most = max(most, len(counts))
        number += 1
    assert most > 5 or size == 100


@pytest.mark.parametrize("size", [1024 * KIB, MAX_PAYLOAD])
def test_a_push_and_a_pop_of_a_large_message(engine: SharedMemoryEngine, size: int) -> None:
    counts = holds(lambda: push(engine, b"q", bytes(size)))
    # To write each of its pieces is to copy what is its own.
    assert max(counts) <= MOST + 300 * (size // (64 * KIB)), counts
    taken: list[Popped] = []
    within(lambda: taken.extend(engine.pop(b"q", 5)))
    assert [each.payload for each in taken] == [bytes(size)]


def test_a_message_that_takes_a_small_store_nearly_whole(tmp_path: Path, clock: Clock) -> None:
    engine = make(tmp_path, clock, 4092 * KIB)
    # One queue may have seven eighths.
    size = room(engine) * 85 // 100
    counts = holds(lambda: push(engine, b"q", bytes(size)))
    # Here each of its many pieces is of 16 KiB: they are its own bytes.
    assert max(counts) <= MOST + 300 * (size // (16 * KIB)), counts
    counts = holds(lambda: engine.pop(b"q", 5))
    assert max(counts) <= MOST + 60 * (size // (16 * KIB)), counts
    # It is freed bit by bit.
    assert engine.session.channels.words[layout.LEFTOVER]
    assert_sound(engine)
    within(lambda: push(engine, b"q", bytes(100_000)), at_least=2)
    assert not engine.session.channels.words[layout.LEFTOVER]
    assert_sound(engine)
    engine.destroy()


@pytest.mark.parametrize("ring", [False, True])
def test_a_large_batch(engine: SharedMemoryEngine, ring: bool) -> None:
    names = [b"q%d" % number for number in range(20 if ring else MANY)]
    if ring:
        for name in names:
            in_ring(engine, name)
        names *= 50
    within(lambda: engine.push([Record(name, b"x", FAR, 10**9) for name in names]), 10)


@pytest.mark.parametrize("in_order", [True, False])
def test_a_ring_of_tiny_messages_gets_longer(engine: SharedMemoryEngine, in_order: bool) -> None:
    in_ring(engine, b"q")
    per_extent = engine.session.channels.heap.geometry.extent_words // 3
    for number in range(per_extent - 20):
        push(engine, b"q", b"", deadline=FAR + (number if in_order else -number))
    for number in range(per_extent, per_extent + 100):
        within(lambda: push(engine, b"q", b"", deadline=FAR + number))  # noqa: B023


@pytest.mark.parametrize("ring", [False, True])
def test_a_push_at_capacity_of_which_some_have_expired(
    engine: SharedMemoryEngine, clock: Clock, ring: bool
) -> None:
    if ring:
        in_ring(engine, b"q")
    else:
        without_rings(engine)
    for number in range(MANY):
        push(engine, b"q", b"x", deadline=clock.now + 10 if number % 10 == 5 else FAR)
    clock.now += 10
    within(lambda: push(engine, b"q", b"y", capacity=MANY), 2)
    refused = [Record(b"q", b"y", FAR, 100)]
    within(lambda: engine.push(refused), 4)
    # At once: nothing has expired since.
    assert len(holds(lambda: engine.push(refused))) == 1
    assert len(engine.pop(b"q", 10**6)) == MANY * 9 // 10 + 1


# ---- popping


@pytest.mark.parametrize("ring", [False, True])
def test_a_pop_of_very_many(engine: SharedMemoryEngine, ring: bool) -> None:
    in_ring(engine, b"q") if ring else without_rings(engine)
    payloads = [b"%d" % number for number in range(MANY)]
    push(engine, b"q", *payloads)
    taken: list[Popped] = []
    within(lambda: taken.extend(engine.pop(b"q", 10**6)), 5)
    assert [each.payload for each in taken] == payloads


@pytest.mark.parametrize("ring", [False, True])
def test_a_pop_behind_very_many_that_have_expired(
    engine: SharedMemoryEngine, clock: Clock, ring: bool
) -> None:
    in_ring(engine, b"q") if ring else without_rings(engine)
    push(engine, b"q", *[b"old"] * MANY, deadline=clock.now + 10)
    push(engine, b"q", b"new")
    clock.now += 10
    taken: list[Popped] = []
    within(lambda: taken.extend(engine.pop(b"q")), 5)
    assert [each.payload for each in taken] == [b"new"]


def test_putting_back_into_a_nearly_full_store(engine: SharedMemoryEngine) -> None:
    in_pieces(engine)
    back = Popped(bytes(1024 * KIB), FAR)
    while len(counts := holds(lambda: engine.restore(b"q1", back))) < 10:
        assert max(counts) <= MOST
    assert max(counts) <= MOST


def test_many_that_wait_and_go(engine: SharedMemoryEngine) -> None:
    bells = [engine.bell() for _ in range(3)]
    for bell in bells:
        engine.pop(b"q", 1, bell)
    address, words = engine.session.queues.find(b"q"), engine.session.channels.words
    # As if each node were there, for a process of which others are dead.
    with engine.session.channels as heap:
        for number in range(1, layout.NODES - 1):
            change: dict[int, int] = {}
            engine.session.queues._armed_bells.arm(change, address, 0xFFFF | number << 32)
            heap.commit(change)
    assert words[layout.NODES_USED] == layout.NODES
    within(lambda: engine.pop(b"q", 1, bells[2]))
    within(lambda: engine.disarm(b"q", bells[2]))
    for _ in range(3):
        within(lambda: engine.statistics())
    within(lambda: engine.upkeep._sweep_segment(layout.CHANNELS, engine.clock()))
    for bell in bells:
        bell.close()


# ---- looking at everything


def test_a_listing_of_many_queues_and_of_all_who_wait(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    engine.push([Record(b"q%d" % number, b"x", clock.now + 10, 9) for number in range(MANY)])
    bell = engine.bell()
    engine.pop(b"awaited", 1, bell)
    address = engine.session.queues.find(b"awaited")
    with engine.session.channels as heap:
        for number in range(1, layout.NODES):
            change: dict[int, int] = {}
            engine.session.queues._armed_bells.arm(change, address, 0xFFFF | number << 32)
            heap.commit(change)
    names: set[bytes] = set()
    within(lambda: names.update(each.name for each in engine.queues()), 50)
    assert len(names) == MANY + 1
    clock.now += 10
    within(lambda: sum(each.pending for each in engine.queues()), 50)
    within(lambda: list(engine.processes()), 5)
    bell.close()


def test_a_listing_of_many_tables(engine: SharedMemoryEngine) -> None:
    for number in range(MANY):
        engine.put(b"t%d" % (number % (MANY // 2)), b"m%d" % number, FAR)
    members: list[int] = []
    within(lambda: members.extend(each.members for each in engine.tables()), 5)
    assert members == [2] * (MANY // 2)


@pytest.mark.parametrize("ring", [False, True])
def test_a_look_at_a_long_queue(engine: SharedMemoryEngine, clock: Clock, ring: bool) -> None:
    in_ring(engine, b"q") if ring else without_rings(engine)
    payloads = [b"%d" % number for number in range(MANY)]
    push(engine, b"q", *[b"old"] * MANY, deadline=clock.now + 10)
    push(engine, b"q", *payloads)
    clock.now += 10
    seen: list[Popped] = []
    within(lambda: seen.extend(engine.look(b"q")), 5)
    assert [each.payload for each in seen] == payloads[:LOOK_RECORDS]
    within(lambda: engine.look(b"q"))


def test_a_look_past_dead_messages_in_the_middle_of_a_ring(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    in_ring(engine, b"q")
    push(engine, b"q", b"first")
    push(engine, b"q", *[b"old"] * MANY, deadline=clock.now + 10)
    push(engine, b"q", b"last")
    clock.now += 10
    seen: list[Popped] = []
    within(lambda: seen.extend(engine.look(b"q")))
    assert seen[0].payload == b"first"


def test_giving_memory_back(engine: SharedMemoryEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for locked_segment in (engine.session.channels, engine.session.groups):
        monkeypatch.setattr(locked_segment.segment, "give_back", lambda offset, length: True)
    without_rings(engine)
    push(engine, b"q", *[bytes(100_000)] * 80)
    engine.pop(b"q", 80)
    engine.pop(b"q", 80)
    processes, words = engine.session.processes, engine.session.channels.words
    heap = engine.session.channels.heap
    words[layout.SLOTS_USED] = processes.count
    pending = []
    for _ in range(4):
        within(lambda: engine.upkeep._give_back(layout.CHANNELS))
        within(lambda: engine.upkeep._give_back(layout.GROUPS))
        pending.append(words[layout.RETURN_PENDING])
    assert pending == [SLICE, 0] * 2
    words[layout.SLOTS_USED] = engine.session.slot + 1
    push(engine, b"q", *[bytes(100_000)] * 80)
    assert heap.words[layout.RETURNED_EXTENTS] == 0


def test_many_counts_of_processes_are_summed(engine: SharedMemoryEngine) -> None:
    processes, words = engine.session.processes, engine.session.channels.words
    engine.note({"overflowed": 5, "held": 7})
    words[layout.SLOTS_USED] = processes.count
    for slot in range(processes.count):
        if slot != engine.session.slot:
            words[processes._row(slot) + layout.P_COUNTS + 1] = 1
    counts: dict[str, int] = {}
    within(lambda: counts.update(engine.statistics()))
    assert (counts["overflowed"], counts["held"]) == (processes.count - 1 + 5, 7)
    words[layout.SLOTS_USED] = engine.session.slot + 1
    for slot in range(processes.count):
        if slot != engine.session.slot:
            words[processes._row(slot) + layout.P_COUNTS + 1] = 0


def test_statistics_of_many_queues(engine: SharedMemoryEngine, clock: Clock) -> None:
    push(engine, b"first", b"x")
    engine.push([Record(b"q%d" % number, b"x", clock.now + 10, 9) for number in range(MANY)])
    counts: dict[str, int] = {}
    within(lambda: counts.update(engine.statistics()), 5)
    assert counts["queues"] == MANY + 1
    assert counts["pending"] == MANY + 1
    clock.now += 10
    within(lambda: counts.update(engine.statistics()), 5)
    assert counts["pending"] == 1, "what has expired is not pending"


@pytest.mark.parametrize("ring", [False, True])
def test_statistics_of_a_long_queue_that_has_expired(
    engine: SharedMemoryEngine, clock: Clock, ring: bool
) -> None:
    in_ring(engine, b"q") if ring else without_rings(engine)
    push(engine, b"q", *[b"old"] * MANY, deadline=clock.now + 10)
    clock.now += 10
    counts: dict[str, int] = {}
    within(lambda: counts.update(engine.statistics(b"q")), 5)
    assert (counts["pending"], counts["expired"]) == (0, MANY)


def test_the_members_of_a_large_table(engine: SharedMemoryEngine) -> None:
    names = {b"member %d" % number for number in range(MANY)}
    for name in names:
        engine.put(b"t", name, FAR)
    found: list[bytes] = []
    within(lambda: found.extend(engine.members(b"t").names), 10)
    assert len(found) == MANY
    assert set(found) == names


def test_a_member_that_comes_to_full_memory_in_which_all_have_expired(
    tmp_path: Path, clock: Clock
) -> None:
    engine = make(tmp_path, clock, 512 * KIB)
    count = 0
    with pytest.raises(StoreFull):  # noqa: PT012
        while True:
            engine.put(b"t%d" % (count % 9), b"member %d" % count, clock.now + 10)
            count += 1
    clock.now += 10
    within(lambda: engine.put(b"new", b"member", FAR), 10)
    assert_sound(engine)
    engine.destroy()


@pytest.mark.parametrize("ring", [False, True])
def test_what_a_dead_process_leaves(engine: SharedMemoryEngine, clock: Clock, ring: bool) -> None:
    identity = bytes(range(1, 15))
    in_ring(engine, b"q") if ring else without_rings(engine)
    assert engine.session.store
    with engine.session.channels:
        slot = engine.session.processes.join(identity, clock.now, 0)
    engine.push([Record(b"q", b"x", FAR, 10**9, identity) for _ in range(MANY)])
    for number in range(MANY):
        engine.put(b"t%d" % (number % 9), b"%d" % number, FAR, identity)
    engine.session.store.lock_file.release(FIRST_SLOT + slot)
    looks = 0
    while (
        engine.session.tables.incremental_sweep.is_due()
        or engine.session.queues.sweeper.incremental_sweep.is_due()
        or not looks
    ):
        looks += 1
        clock.now += 10**9
        within(lambda: engine.upkeep.maintain(engine.clock()))
        assert looks < 100
    assert looks > 1
    counts = engine.statistics()
    assert (counts["orphaned"], counts["members"], counts["queues"]) == (MANY, 0, 0)


def test_a_flush_and_what_comes_after_it(engine: SharedMemoryEngine) -> None:
    engine.push([Record(b"q%d" % number, b"x", FAR, 9) for number in range(MANY)])
    for number in range(MANY):
        engine.put(b"t", b"%d" % number, FAR)
    within(engine.flush, 2)
    within(engine.statistics)


# ---- after a kill


def test_the_end_of_what_a_killed_process_began(engine: SharedMemoryEngine) -> None:
    engine.push([Record(b"q%d" % number, b"x", FAR, 9) for number in range(MANY)])
    in_ring(engine, b"q")
    words, address = engine.session.channels.words, engine.session.queues.find(b"q")
    pushed = words[layout.PUSHED]
    came = words[address + layout.Q_IN] >> layout.COUNT_SHIFT
    noted = came - pushed & layout.NOTED_MASK
    words[layout.STATE] = layout.PUSHING | noted << layout.NOTED_SHIFT | address
    within(lambda: engine.pop(b"none"))
    assert words[layout.PUSHED] == pushed
    # The largest change that there can be, of words that stay as they are.
    offsets = range(layout.Geometry.of(layout.CHANNELS, 16 << 20).hash_table + 9, 10**6)
    pairs = {offset: words[offset] for offset in offsets[: layout.JOURNAL_PAIRS]}
    engine.session.channels.heap.commit(pairs)
    words[layout.STATE] = layout.COMMITTED
    within(lambda: engine.pop(b"none"))
