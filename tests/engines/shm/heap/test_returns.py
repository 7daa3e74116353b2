"""Memory that is not needed goes back to the system, and no process ever misses it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout, returns
from asgi_ipc.engines.shm.heap.heap import Heap
from asgi_ipc.engines.shm.heap.returns import KEEP, SLICE
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import StoreCorrupt
from tests.tools.clocks import Clock
from tests.tools.stores import KIB, assert_sound, in_child, maintain, open_store, record

SECOND = 10**9
LARGE: dict[str, Any] = {"channel_memory": 8 * 1024 * KIB, "group_memory": 8 * 1024 * KIB}


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> Iterator[SharedMemoryEngine]:
    engine = open_store(tmp_path, PosixEngine, clock=clock, **LARGE)
    segment = engine.session.channels.segment
    heap = engine.session.channels.heap
    # Bytes below the first extent have been reserved.
    if not segment.give_back(heap.geometry.first_extent * 8, 0):
        engine.destroy()
        pytest.skip("this system takes no shared memory back")
    yield engine
    assert_sound(engine)
    engine.destroy()


def has_memory(engine: SharedMemoryEngine) -> int:
    """The bytes of its channels that a store has from the system."""
    segment = engine.session.channels.segment
    return os.fstat(segment._descriptor).st_blocks * 512  # type: ignore[attr-defined]


def fill(engine: SharedMemoryEngine, number: int = 50) -> None:
    """Push messages of 100 KB to some queues."""
    for each in range(number):
        assert engine.push([record(engine, b"q%d" % (each % 5), bytes(100_000))]) == []


def empty(engine: SharedMemoryEngine) -> None:
    for each in range(5):
        while engine.pop(b"q%d" % each, 50):
            pass


def seconds_pass(engine: SharedMemoryEngine, clock: Clock, number: int) -> None:
    for _ in range(number):
        clock.now += 2 * SECOND
        maintain(engine)


def test_a_store_that_was_full_once_gives_its_memory_back_bit_by_bit(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    fill(engine)
    held = has_memory(engine)
    assert held > 5_000_000
    empty(engine)
    assert has_memory(engine) == held
    seconds_pass(engine, clock, 4)
    assert held - 6 * SLICE * 64 * KIB < has_memory(engine) < held
    seconds_pass(engine, clock, 20)
    heap = engine.session.channels.heap
    assert has_memory(engine) < heap.geometry.first_extent * 8 + (KEEP + 4) * 64 * KIB
    assert abs(engine.statistics()["channel_bytes_reserved"] - has_memory(engine)) < 300 * KIB
    # All of it can be had again, and what is stored is whole.
    fill(engine)
    assert has_memory(engine) == held
    assert all(len(engine.pop(b"q%d" % n, 50)) == 10 for n in range(5))


def test_groups_give_theirs_back_too(
    engine: SharedMemoryEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returns, "KEEP", 2)
    before = engine.statistics()["group_bytes_reserved"]
    for number in range(9_000):
        engine.put(b"t%d" % (number % 100), b"a long name of a member %d" % number, 1 << 62)
    full = engine.statistics()["group_bytes_reserved"]
    assert full > before + 12 * 64 * KIB
    for number in range(9_000):
        engine.remove(b"t%d" % (number % 100), b"a long name of a member %d" % number)
    seconds_pass(engine, clock, 30)
    assert engine.statistics()["group_bytes_reserved"] < before + 6 * 64 * KIB


def test_what_a_flush_leaves_is_given_back(engine: SharedMemoryEngine, clock: Clock) -> None:
    fill(engine)
    engine.flush()
    engine.push([record(engine, b"after", b"x")])
    seconds_pass(engine, clock, 20)
    heap = engine.session.channels.heap
    assert has_memory(engine) < heap.geometry.first_extent * 8 + 6 * 64 * KIB
    assert heap.words[layout.TOUCHED] == heap.words[layout.EXTENTS_USED]
    fill(engine)
    assert [each.payload for each in engine.pop(b"after")] == [b"x"]


def test_nothing_goes_while_a_process_may_be_in_a_peek_that_began_before(
    engine: SharedMemoryEngine, tmp_path: Path, clock: Clock
) -> None:
    other = open_store(tmp_path, PosixEngine, clock=clock, **LARGE)
    fill(engine)
    # It has peeked, and from now on does nothing.
    for _ in range(2):
        assert other.peek(b"q0")
        assert other.pop(b"q0")
    assert other.session.queues.peeks
    empty(engine)
    held = has_memory(engine)
    seconds_pass(engine, clock, 5)
    assert has_memory(engine) == held
    assert engine.session.channels.words[layout.RETURN_PENDING]
    maintain(other)
    seconds_pass(engine, clock, 1)
    assert has_memory(engine) < held
    # One that has left keeps nothing.
    held = has_memory(engine)
    other.close()
    seconds_pass(engine, clock, 4)
    assert has_memory(engine) < held


def test_a_process_that_never_peeks_keeps_nothing(
    engine: SharedMemoryEngine, tmp_path: Path, clock: Clock
) -> None:
    other = open_store(tmp_path, PosixEngine, clock=clock, **LARGE)
    fill(other)
    empty(other)
    held = has_memory(engine)
    seconds_pass(engine, clock, 4)
    assert has_memory(engine) < held
    other.close()


def test_a_forked_child_peeks_at_nothing_that_its_parent_knew(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    fill(engine)
    for _ in range(3):
        engine.peek(b"q0")
        engine.pop(b"q0")
    engine.pop(b"q0", 50)
    assert not engine.peek(b"q0")

    def child() -> None:
        assert engine.peek(b"q0"), "it has no slot yet"
        seen = layout.P_SEEN
        engine.pop(b"other")
        words, processes = engine.session.words, engine.session.processes
        assert words[processes._row(engine.session.slot) + seen] == layout.PEEKS_NOT
        engine.peek(b"q0")
        engine.pop(b"q0")
        assert not engine.peek(b"q0")
        assert words[processes._row(engine.session.slot) + seen] == words[layout.RETURNS]

    in_child(child)


def test_a_peek_at_a_queue_that_has_gone_reads_no_memory_that_was_given_back(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    fill(engine, 70)
    # In the last extents, and alone there once the others have gone.
    engine.push([record(engine, b"far", b"x")])
    engine.peek(b"far")
    engine.pop(b"far")
    assert not engine.peek(b"far")
    known = engine.session.queues._peeked[b"far"]
    empty(engine)
    engine.flush()
    seconds_pass(engine, clock, 30)
    held = has_memory(engine)
    engine.session.queues._peeked[b"far"] = known
    assert engine.peek(b"far"), "it can't tell"
    assert has_memory(engine) == held, "else it would have taken a page"


def test_a_system_that_has_no_memory_left_is_a_full_store(
    engine: SharedMemoryEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine)
    empty(engine)
    seconds_pass(engine, clock, 30)
    heap = engine.session.channels.heap

    def refuses(offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(heap, "_reserve", refuses)
        refused = [
            each
            for number in range(50)
            for each in engine.push([record(engine, b"q%d" % (number % 5), bytes(100_000))])
        ]
        assert refused
        assert all("No space left" in each.detail for each in refused)
    stored = engine.statistics()["pending"]
    assert stored > 0
    assert_sound(engine)
    fill(engine, 50 - stored)


def test_a_burst_after_a_burst_keeps_what_it_needs(
    engine: SharedMemoryEngine, clock: Clock
) -> None:
    for _ in range(4):
        fill(engine, 10)
        empty(engine)
        seconds_pass(engine, clock, 1)
    # A few extents stay free: reserving them again and again would be of no use.
    assert engine.session.channels.words[layout.RETURNED_EXTENTS] <= SLICE


@pytest.mark.parametrize("kind", [SysVEngine, MmapEngine])
def test_where_memory_can_not_be_given_back_it_stays(
    tmp_path: Path, clock: Clock, kind: type[SharedMemoryEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_store(tmp_path, kind, clock=clock, **LARGE)
    segment = engine.session.channels.segment
    # As on a disk.
    monkeypatch.setattr(segment, "_known_granule", 1 << 21, raising=False)
    fill(engine)
    empty(engine)
    reserved = engine.statistics()["channel_bytes_reserved"]
    seconds_pass(engine, clock, 6)
    assert engine.statistics()["channel_bytes_reserved"] == reserved
    assert engine.session.channels.words[layout.RETURNED_EXTENTS] == 0
    fill(engine)
    assert_sound(engine)
    engine.destroy()


FORGED: dict[str, Callable[[Heap], dict[int, int]]] = {
    "a list that is too short": lambda heap: {layout.RETURNED: 0},
    "an extent that there is not": lambda heap: {layout.RETURNED: 1 << 40},
    "more pending than are given back at once": lambda heap: {layout.RETURN_PENDING: 1 << 40},
}


@pytest.mark.parametrize("what", FORGED)
def test_lists_that_contradict_themselves_are_found(
    tmp_path: Path, clock: Clock, what: str
) -> None:
    engine = open_store(tmp_path, clock=clock, **LARGE)
    fill(engine)
    empty(engine)
    with engine.session.channels as heap:
        heap.returns.step(True, lambda offset, length: True)
        assert heap.words[layout.RETURN_PENDING] == SLICE
        before = {layout.RETURNED: heap.words[layout.RETURNED]}
        before[layout.RETURN_PENDING] = SLICE
        heap.commit(FORGED[what](heap))
    with pytest.raises(StoreCorrupt), engine.session.channels as heap:
        heap.returns.step(True, lambda offset, length: True)
    with engine.session.channels as heap:
        heap.commit(before)
    assert_sound(engine)
    engine.destroy()
