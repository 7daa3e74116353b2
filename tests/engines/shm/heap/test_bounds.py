"""No change is larger than the journal takes, whatever the sizes are, and none is called corrupt.

Messages of all sizes in stores of all sizes, whole and in fragments: pushed, popped one at a time
and together, expired, orphaned, put back, moved.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.base import MAX_PAYLOAD, Popped, Record
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import journal, log
from asgi_ipc.engines.shm.heap.journal import ChangeTooLarge, Journal
from asgi_ipc.engines.shm.heap.layout import JOURNAL_PAIRS, LEFTOVER, PUSHED
from asgi_ipc.engines.shm.locks.base import FIRST_SLOT
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.exceptions import StoreFull
from tests.tools.clocks import Clock
from tests.tools.samples import ALL
from tests.tools.stores import (
    KIB,
    assert_sound,
    sweep,
)

FAR = 1 << 62
MIB = 1024 * KIB
#: Whose extents have 16 KiB, up to the largest such, and 64 KiB.
STORES = [256 * KIB, 1 * MIB, 4 * MIB - 4 * KIB, 4 * MIB, 20 * MIB]
SIZES = [0, 100, 5_000, 16_300, 16_384, 65_500, 300_000, 700_000, 1 * MIB, 3_500_000, MAX_PAYLOAD]


@pytest.fixture(autouse=True)
def largest(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The largest change of a test; some room is left in the journal."""
    seen = [0]
    commit = Journal.commit

    def watched(self: Journal, change: dict[int, int], **after: Any) -> None:
        seen[0] = max(seen[0], len(change))
        commit(self, change, **after)

    monkeypatch.setattr(Journal, "commit", watched)
    yield seen
    assert 0 < seen[0] <= JOURNAL_PAIRS - 64


def open_store(directory: Path, clock: Clock, memory: int) -> SharedMemoryEngine:
    engine = MmapEngine(
        "store", directory=directory, channel_memory=memory, group_memory=256 * KIB, clock=clock
    )
    engine.upkeep.due = 1 << 62
    return engine


def message(number: int, size: int) -> bytes:
    return (b"%d:" % number + bytes(size))[: max(size, 8)]


def fill(engine: SharedMemoryEngine, size: int, deadline: int = FAR, owner: bytes = b"") -> int:
    """Push numbered messages to "q" until it may have no more, at most 300; how many."""
    for number in range(300):
        record = Record(b"q", message(number, size), deadline, 10**9, owner)
        if engine.push([record]):
            return number
    return 300


def fragment(engine: SharedMemoryEngine, dice: random.Random) -> None:
    """Leave holes of all sizes, and some messages between them."""
    engine.session.queues._rings.extents._most_unread = (
        engine.session.queues._rings.extents._most
    ) = 0
    number = 0
    while not engine.push([Record(b"k%d" % (number % 9), bytes(dice.choice(HOLES)), FAR, 10**9)]):
        number += 1
    for each in range(9):
        engine.pop(b"k%d" % each, number // (9 if each % 3 else 40))


HOLES = [10, 300, 300, 900, 1_500]


def stores_and(sizes: list[int]) -> list[tuple[int, int, bool]]:
    """Memory, size, and whether the memory is whole.

    To fragment the largest takes longer than all else, and changes no larger than in the next:
    of these some, and all with ``CASES=all``.
    """
    largest = STORES[-1]
    found = list(itertools.product(STORES, sizes, [True, False]))
    few = sizes[:: 1 if ALL else 4]
    return [each for each in found if each[0] != largest or each[2] or each[1] in few]


@pytest.mark.parametrize(("memory", "size", "whole"), stores_and(SIZES))
def test_what_was_pushed_comes_back_once_in_any_batches(
    tmp_path: Path, clock: Clock, memory: int, size: int, whole: bool
) -> None:
    engine = open_store(tmp_path, clock, memory)
    dice = random.Random(size + memory)
    if not whole:
        fragment(engine, dice)
    for limit in (1, 5, 10**6):
        count = fill(engine, size)
        assert count or size > memory // 2 or not whole
        taken: list[Popped] = []
        while batch := engine.pop(b"q", limit):
            assert len(batch) == min(limit, count - len(taken))
            taken += batch
        assert [each.payload for each in taken] == [message(n, size) for n in range(count)]
        assert_sound(engine)
    engine.destroy()


@pytest.mark.parametrize(("memory", "size", "whole"), stores_and([100, 16_384, 700_000, 3_500_000]))
def test_what_expires_is_orphaned_or_put_back_leaves_nothing(
    tmp_path: Path, clock: Clock, memory: int, size: int, whole: bool
) -> None:
    engine = open_store(tmp_path, clock, memory)
    assert engine.session.store
    if not whole:
        fragment(engine, random.Random(size))
    sweep(engine, clock.now)
    before = engine.statistics()["bytes_used"]
    fill(engine, size, clock.now + 10)
    clock.now += 10
    sweep(engine, clock.now, everything=True)
    assert engine.statistics(b"q")["pending"] == 0
    assert_sound(engine)
    with engine.session.channels:
        slot = engine.session.processes.join(bytes(range(1, 15)), clock.now, 0)
    fill(engine, size, FAR, bytes(range(1, 15)))
    engine.session.store.lock_file.release(FIRST_SLOT + slot)
    with engine.session.channels:
        engine.session.processes.reap()
    sweep(engine, clock.now, everything=True)
    assert engine.statistics(b"q")["pending"] == 0
    fill(engine, size)
    taken = engine.pop(b"q", 10**6)
    assert_sound(engine)
    back = 0
    for each in reversed(taken):
        try:
            engine.restore(b"q", each)
            back += 1
        except StoreFull:
            break
    assert engine.pop(b"q", 10**6) == taken[len(taken) - back :]
    for _ in range(3):
        clock.now += 1
        sweep(engine, clock.now, everything=True)
    assert_sound(engine)
    # Cleaning may have put some of what was there before into more pieces, or fewer.
    assert engine.statistics()["bytes_used"] <= before * 1.02 + 4 * KIB
    engine.destroy()


def test_a_record_in_very_many_pieces_goes_in_several_changes(
    tmp_path: Path, clock: Clock, largest: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_store(tmp_path, clock, 4 * MIB - 4 * KIB)
    assert fill(engine, 3_000_000) == 1
    heap = engine.session.channels.heap
    # As when cleaning has split it, piece by piece; here there are 184, each of an extent.
    monkeypatch.setattr(log, "PIECES_A_CHANGE", 16)
    largest[0] = 0
    assert len(engine.pop(b"q")) == 1
    assert largest[0] < 3 * 16 + 16
    assert heap.words[LEFTOVER]
    assert_sound(engine)
    # The next to need room ends it.
    assert fill(engine, 3_000_000) == 1
    assert not heap.words[LEFTOVER]
    assert_sound(engine)
    engine.destroy()


def test_a_change_that_is_too_large_is_called_a_bug_and_not_corruption(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_store(tmp_path, clock, 1 * MIB)
    assert fill(engine, 100_000) > 1
    monkeypatch.setattr(journal, "_packers", journal._packers[:8])
    with pytest.raises(ChangeTooLarge, match="a bug of asgi_ipc"):
        engine.pop(b"q")
    monkeypatch.undo()
    words = engine.session.channels.words
    assert words[PUSHED] == engine.statistics()["pending"]
    assert_sound(engine)
    assert engine.pop(b"q")[0].payload == message(0, 100_000)
    engine.destroy()
