"""Listing what a store holds while it changes, is replaced or is damaged; counts of the dead."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_ipc.engines.process_hints import command, start_ticks
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from tests.tools.clocks import Clock
from tests.tools.stores import assert_sound, in_child, killed_at, maintain, open_store, record

#: More than one hold lists.
MANY = 100


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SharedMemoryEngine]:
    engine = open_store(tmp_path)
    yield engine
    engine.close()


def fill(engine: SharedMemoryEngine) -> set[bytes]:
    """Push to many queues, and put into as many tables; their names."""
    names = {b"%d" % number for number in range(MANY)}
    for name in names:
        assert engine.push([record(engine, name)]) == []
        engine.put(name, b"m", 1 << 62)
    return names


def test_a_listing_goes_on_while_all_records_move(engine: SharedMemoryEngine) -> None:
    names = fill(engine)
    gone = set(sorted(names)[::2])
    heap = engine.session.channels.heap
    found: Counter[bytes] = Counter()
    for each in engine.queues():
        if not found:
            before = [heap.words[heap.end - handle] for handle in range(1, MANY)]
            # Half of what is there goes, so that the rest is moved to make room.
            for name in gone:
                engine.pop(name)
            while engine.push([record(engine, b"fill", bytes(2000))]) == []:
                pass
            after = [heap.words[heap.end - handle] for handle in range(1, MANY)]
            assert before != after
        found[each.name] += 1
    assert names - gone <= set(found)
    assert max(found.values()) == 1


@pytest.mark.parametrize("listing", ["queues", "tables"])
def test_after_a_flush_a_listing_tells_of_nothing_that_was_flushed(
    engine: SharedMemoryEngine, listing: str
) -> None:
    fill(engine)
    items = iter(getattr(engine, listing)())
    next(items)
    engine.flush()
    engine.push([record(engine, b"new")])
    engine.put(b"new", b"m", 1 << 62)
    # What one hold has found is told still.
    assert len(list(items)) < MANY - 1
    assert [each.name for each in getattr(engine, listing)()] == [b"new"]


@pytest.mark.parametrize("listing", ["queues", "tables", "processes"])
def test_a_listing_ends_when_the_store_is_replaced(
    tmp_path: Path, engine: SharedMemoryEngine, listing: str
) -> None:
    names = fill(engine)
    items = iter(getattr(engine, listing)())
    next(items)
    other = open_store(tmp_path)
    other.destroy()
    with open_store(tmp_path).session.channels:
        pass
    fill(engine)
    assert len(list(items)) < len(names)
    engine.destroy()


def test_a_circle_of_wait_nodes_ends(engine: SharedMemoryEngine) -> None:
    bells = [engine.bell() for _ in range(3)]
    for bell in bells:
        engine.pop(b"q", 1, bell)
    words, geometry = engine.session.words, engine.session.channels.heap.geometry
    words[geometry.nodes + layout.NODE_NEXT] = 1
    assert [each.waiting for each in engine.queues()] == [True]
    words[geometry.nodes + layout.NODE_NEXT] = 1 << 60
    assert [each.waits_for for each in engine.processes()] == [(b"q",)]


def test_a_process_is_told_with_its_command_line(engine: SharedMemoryEngine) -> None:
    (mine,) = engine.processes()
    assert mine.pid == os.getpid()
    if os.path.isdir("/proc/self"):
        assert mine.command == command(os.getpid(), start_ticks(), 0.0) != ""
        assert abs(mine.started - os.stat("/proc/self").st_mtime) < 3600 * 24 * 365
    # As of a process in another container, or of one whose id was given to another.
    row = engine.session.processes._row(engine.session.slot)
    engine.session.words[row + layout.P_STARTED] += 1
    (mine,) = engine.processes()
    assert (mine.pid, mine.command) == (os.getpid(), "")


def test_what_a_slot_says_may_be_any_number(engine: SharedMemoryEngine) -> None:
    """A member of the store's group may write there what it will."""
    row = engine.session.processes._row(engine.session.slot)
    for offset in range(layout.PROCESS_WORDS):
        engine.session.words[row + offset] = (1 << 64) - 1
    engine.note({"overflowed": (1 << 64) - 1, "passed_directly": 1 << 70})
    (mine,) = engine.processes()
    assert (mine.command, mine.joined_age) == ("", 0)
    assert mine.counts["overflowed"] == (1 << 64) - 1
    engine.statistics()
    engine.close()


def test_the_dead_leave_their_counters_and_nothing_twice(tmp_path: Path, clock: Clock) -> None:
    engine = open_store(tmp_path, clock=clock)
    engine.note({"overflowed": 100, "held": 1})

    def live_and_die() -> None:
        own = open_store(tmp_path, clock=clock)
        own.note({"overflowed": 1, "held": 10})
        os._exit(0)

    for times in range(1, 4):
        in_child(live_and_die)
        clock.now += 2 * 10**9
        maintain(engine)
        counts = engine.statistics()
        assert (counts["overflowed"], counts["held"], counts["processes"]) == (100 + times, 1, 1)
    # Whoever has its slot then begins with nothing.
    other = open_store(tmp_path, clock=clock)
    assert set(
        next(p for p in other.processes() if p.identity == other.identity).counts.values()
    ) == {0}
    other.close()


def test_a_process_killed_as_it_leaves_is_counted_once(tmp_path: Path, clock: Clock) -> None:
    engine = open_store(tmp_path, clock=clock)
    expected, opcode, kills = 0, 5, 0
    while True:
        killed = killed_at(engine.close, opcode, lambda: engine.note({"overflowed": 1, "held": 1}))
        expected += 1
        clock.now += 2 * 10**9
        maintain(engine)
        counts = engine.statistics()
        assert (counts["overflowed"], counts["held"]) == (expected, 0), opcode
        assert_sound(engine)
        if not killed:
            break
        kills += 1
        opcode += 29
    assert kills > 10
