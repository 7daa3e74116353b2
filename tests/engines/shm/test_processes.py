"""The processes of a store: many, dead ones, and what is recorded of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import pytest

from asgi_ipc.engines.base import IDENTITY_BYTES, NODE_BYTES, Popped
from asgi_ipc.engines.process_hints import start_ticks
from asgi_ipc.engines.shm import processes
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap.layout import (
    DEATHS,
    NEXT_SWEEP,
    P_COUNTERS,
    P_COUNTS,
    P_JOINED,
    P_PID,
    P_STARTED,
    PROCESS_WORDS,
    SLOT_GENERATION,
    SLOT_IDENTITY,
    SLOTS,
    SLOTS_USED,
)
from asgi_ipc.engines.shm.locks import fcntl_locks
from asgi_ipc.engines.shm.locks.base import FIRST_SLOT
from asgi_ipc.exceptions import StoreUnavailable
from conformance.opcodes import trace_nothing, trace_opcodes
from tests.tools.commands import check
from tests.tools.doubles import (
    watchdog,
)
from tests.tools.stores import (
    KIB,
    assert_sound,
    open_store,
    record,
    start,
    wait,
)

__all__ = ["watchdog"]

FAR = 1 << 62
#: The most opcodes while the lock is held once (O7).
BOUND = 20_000


@pytest.fixture(params=["fcntl", "flock"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a store has that kind of lock."""
    if request.param == "flock":
        patch = request.getfixturevalue("monkeypatch")
        patch.setattr(fcntl_locks, "record_locks_fail", lambda *_: "switched off")
    return tmp_path


def large_store(directory: Path) -> SharedMemoryEngine:
    """One with as many slots as there can be."""
    return open_store(directory, channel_memory=4096 * KIB)


def joined(directory: Path) -> None:
    """Another process opens the store, joins groups, and ends without a goodbye."""

    def join() -> None:
        engine = open_store(directory)
        engine.put(b"t", engine.identity, FAR, engine.identity)
        os._exit(0)

    assert wait(start(join)) == 0


def plant(engine: SharedMemoryEngine, count: int) -> None:
    """So many dead processes in the slots after those that are in use."""
    heap = engine.session.channels.heap
    first = max(engine.session.processes.used()) + 1
    with engine.session.channels:
        for slot in range(first, first + count):
            at = heap.geometry.slots + slot * 4
            heap.words[at + SLOT_GENERATION] += 1
            identity = engine.identity[:NODE_BYTES] + slot.to_bytes(4, "big")
            low, high = memoryview(identity.ljust(16, b"\0")).cast("Q")
            heap.words[at + SLOT_IDENTITY], heap.words[at + SLOT_IDENTITY + 1] = low, high
        heap.words[SLOTS_USED] = first + count


def look_is_due(engine: SharedMemoryEngine) -> None:
    engine.upkeep.due = 0
    engine.session.words[NEXT_SWEEP] = 0


def test_dead_processes_never_use_up_the_slots(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SLOTS", 8)
    for _ in range(30):
        joined(folder)
    engine = open_store(folder)
    assert len(engine.session.processes.used()) <= 8
    assert_sound(engine)
    engine.destroy()
    assert list(folder.iterdir()) == []


def test_a_store_full_of_dead_processes_can_be_joined_checked_and_destroyed(folder: Path) -> None:
    engine = open_store(folder)
    plant(engine, engine.session.processes.count - 1)
    assert len(engine.session.processes.used()) == engine.session.processes.count

    def another() -> None:
        second = open_store(folder)
        assert second.push([record(second, b"a")]) == []
        os._exit(0)

    assert wait(start(another)) == 0
    assert check("store", "mmap", {"directory": str(folder)}) == []
    engine.destroy()
    assert list(folder.iterdir()) == []


def test_as_many_processes_as_slots_live_at_once_and_one_more_is_refused(folder: Path) -> None:
    """1,024 living processes; all but a few are played by one that holds their bytes."""
    few = 12
    engine = large_store(folder)
    assert engine.session.processes.count == SLOTS >= 1024
    plant(engine, SLOTS - 1 - few)
    planted = list(engine.session.processes.used())[1:]
    ready, is_ready = os.pipe()
    stay, go = os.pipe()

    def crowd() -> None:
        one = large_store(folder)
        assert one.session.store is not None
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for slot in planted:
            assert one.session.store.lock_file.hold(FIRST_SLOT + slot)
        os.write(is_ready, b"!")
        os.close(go)
        os.read(stay, 1)

    def live() -> None:
        one = large_store(folder)
        one.push([record(one, b"q")])
        os.write(is_ready, b"!")
        os.close(go)
        os.read(stay, 1)

    children = [start(crowd)]
    try:
        assert os.read(ready, 1) == b"!"
        for _ in range(few - 1):
            children.append(start(live))
            assert os.read(ready, 1) == b"!"
        assert len(engine.session.processes.used()) == SLOTS

        def one_more() -> None:
            with pytest.raises(StoreUnavailable, match=rf"already has {SLOTS} processes"):
                large_store(folder)

        assert wait(start(one_more)) == 0
        look_is_due(engine)
        engine.push([record(engine, b"q")])
        assert len(engine.session.processes.used()) == SLOTS, "all are alive"
        assert engine.pop(b"q", 100)
    finally:
        os.close(go)
        for child in children:
            wait(child)
    engine.destroy()
    for descriptor in (ready, is_ready, stay):
        os.close(descriptor)


def test_a_small_store_has_a_slot_for_each_kib(tmp_path: Path) -> None:
    engine = open_store(tmp_path, channel_memory=256 * KIB)
    assert engine.session.processes.count == 256
    engine.destroy()


CALLS: dict[str, Callable[[SharedMemoryEngine], object]] = {
    "push": lambda engine: engine.push([record(engine, b"q")]),
    "pop": lambda engine: engine.pop(b"q"),
    "pop and wait": lambda engine: engine.pop(b"q", 1, engine.bell()),
    "restore": lambda engine: engine.restore(b"q", Popped(b"back", FAR)),
    "put": lambda engine: engine.put(b"t", b"m", FAR),
    "remove": lambda engine: engine.remove(b"t", b"m"),
    "members": lambda engine: engine.members(b"t"),
    "statistics": lambda engine: engine.statistics(),
    "flush": lambda engine: engine.flush(),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_kind_of_call_does_the_upkeep_that_is_due(tmp_path: Path, name: str) -> None:
    engine = open_store(tmp_path)
    joined(tmp_path)
    assert len(engine.session.processes.used()) == 2
    look_is_due(engine)
    CALLS[name](engine)
    assert len(engine.session.processes.used()) == 1
    assert len(engine.members(b"t").names) == (1 if name == "put" else 0)
    engine.destroy()


def test_dead_processes_are_found_a_slice_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = large_store(folder)
    plant(engine, SLOTS - 1)
    inside, most, held = 0, 0, False
    heap = engine.session.channels.heap

    def each(code: CodeType, offset: int) -> None:
        nonlocal inside, most, held
        now_held = engine.session.store.lock_file.section.entered is not None  # type: ignore[union-attr]
        inside = inside + 1 if now_held and held else 0
        held, most = now_held, max(most, inside)

    def sweep(*_: object) -> None:
        """Not what is looked at here."""

    monkeypatch.setattr(engine.upkeep, "sweep", sweep)
    looks = 0
    while len(engine.session.processes.used()) > 1:
        look_is_due(engine)
        trace_opcodes(each)
        engine.push([record(engine, b"q")])
        trace_nothing()
        looks += 1
    # Within seconds: there is a look each second.
    assert looks <= 5
    assert 1_000 < most <= BOUND, most
    plant(engine, SLOTS - 1)

    def join() -> None:
        nonlocal most
        second = large_store(folder)
        trace_opcodes(each)
        second.session.slot = -1
        second.push([record(second, b"q")])
        trace_nothing()
        assert most <= BOUND, most
        os._exit(0)

    assert wait(start(join)) == 0
    assert heap.words[SLOTS_USED] == SLOTS
    engine.destroy()


def test_upkeep_that_goes_on_failing_is_logged_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = large_store(tmp_path)

    def look(now: int) -> None:
        raise StoreUnavailable("no access" if now else "no room")

    monkeypatch.setattr(engine.upkeep, "_look", look)
    for second in range(90):
        engine.upkeep.maintain(second * 1_000_000_000)
    said = [record.getMessage() for record in caplog.records]
    assert [each.rpartition(": ")[2] for each in said] == ["no room", "no access", "no access"]
    monkeypatch.undo()
    engine.destroy()


def test_upkeep_does_not_begin_inside_itself_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a debugger, or on a machine that swaps."""
    now = 10**15

    def clock() -> int:
        nonlocal now
        now += 2_000_000_000
        return now

    engine = open_store(tmp_path, clock=clock)
    plant(engine, 40)
    inside = most = looks = 0
    maintain = engine.upkeep.maintain

    def nested(at: int) -> None:
        nonlocal inside, most, looks
        inside += 1
        looks += 1
        most = max(most, inside)
        assert most < 50
        maintain(at)
        inside -= 1

    monkeypatch.setattr(engine.upkeep, "maintain", nested)
    for call in CALLS.values():
        look_is_due(engine)
        call(engine)
    assert looks >= len(CALLS)
    assert most == 1
    assert len(engine.session.processes.used()) == 1
    monkeypatch.undo()
    assert_sound(engine)
    engine.destroy()


def test_a_look_for_dead_processes_ends_though_more_keep_dying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that is complete is due again; the next look goes on."""
    engine = open_store(tmp_path)
    rounds = 0
    for swept in (engine.session.queues.sweeper, engine.session.tables):
        sweep = swept.sweep

        def dies(now: int, sweep: Callable[[int], None] = sweep) -> None:
            nonlocal rounds
            rounds += 1
            assert rounds < 1_000
            sweep(now)
            engine.session.words[DEATHS] += 1

        monkeypatch.setattr(swept, "sweep", dies)
    look_is_due(engine)
    engine.push([record(engine, b"q")])
    assert rounds > 2
    assert engine.session.words[NEXT_SWEEP] < engine.clock() + 1_000_000_000
    monkeypatch.undo()
    assert_sound(engine)
    engine.destroy()


def test_a_slot_is_not_reused_until_its_byte_is_released(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    assert engine.session.store is not None
    byte = FIRST_SLOT + 1
    assert engine.session.store.lock_file.hold(byte)

    def join() -> None:
        one = open_store(tmp_path)
        assert one.session.slot == 2
        os._exit(0)

    assert wait(start(join)) == 0
    engine.session.store.lock_file.release(byte)
    engine.destroy()


def test_an_interrupted_join_keeps_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_store(tmp_path)
    second = open_store(tmp_path)
    settle = processes.Processes._settle
    for late in (False, True):

        def fails(self: processes.Processes, *arguments: object, late: bool = late) -> None:
            if late:
                settle(self, *arguments)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(processes.Processes, "_settle", fails)
            second.close()
            with pytest.raises(KeyboardInterrupt):
                open_store(tmp_path)
        look_is_due(engine)
        engine.push([record(engine, b"q")])
        assert engine.session.processes.used() == [engine.session.slot]
        second = open_store(tmp_path)
        assert second.session.slot == 1
    second.close()
    engine.destroy()


# ---- what is known of each


def test_a_process_describes_itself_for_people_to_read(tmp_path: Path) -> None:
    before = time.monotonic_ns()
    engine = open_store(tmp_path)
    geometry, words = engine.session.channels.heap.geometry, engine.session.words
    row = geometry.processes + engine.session.slot * PROCESS_WORDS
    assert words[row + P_PID] == os.getpid()
    assert words[row + P_STARTED] == start_ticks()
    assert before <= words[row + P_JOINED] <= time.monotonic_ns()
    counts = words[row + P_COUNTS : row + P_COUNTS + P_COUNTERS]
    assert counts.tolist() == [0] * P_COUNTERS
    words[row + P_COUNTS] = 7
    counts.release()
    engine.close()
    engine = open_store(tmp_path)
    assert engine.session.words[row + P_COUNTS] == 0, "its predecessor's"
    engine.destroy()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
def test_start_times_tell_processes_of_one_number_apart() -> None:
    assert start_ticks() > 0

    def later() -> None:
        assert start_ticks() >= parents

    parents = start_ticks()
    assert wait(start(later)) == 0


def test_what_a_process_says_of_itself_decides_nothing(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    geometry, words = engine.session.channels.heap.geometry, engine.session.words
    row = geometry.processes + engine.session.slot * PROCESS_WORDS
    for word in range(row, row + PROCESS_WORDS):
        words[word] = 1
    look_is_due(engine)
    engine.push([record(engine, b"q")])
    assert engine.session.processes.used() == [engine.session.slot]
    assert_sound(engine)
    engine.destroy()


# ---- identities


def test_all_identities_of_a_store_begin_alike_and_those_of_another_otherwise(
    tmp_path: Path,
) -> None:
    first, second = open_store(tmp_path), open_store(tmp_path)
    (tmp_path / "other").mkdir()
    other = open_store(tmp_path / "other")
    assert len(first.identity) == IDENTITY_BYTES
    assert first.identity[:NODE_BYTES] == second.identity[:NODE_BYTES]
    assert first.identity != second.identity
    assert other.identity[:NODE_BYTES] != first.identity[:NODE_BYTES]
    for engine in (second, first, other):
        engine.destroy()


def test_an_identity_and_its_beginning_outlast_the_store(tmp_path: Path) -> None:
    first, second = open_store(tmp_path), open_store(tmp_path)
    identities = first.identity, second.identity
    third = open_store(tmp_path)
    third.destroy()
    for engine in (first, second):
        engine.push([record(engine, b"q")])
    assert (first.identity, second.identity) == identities
    fresh = open_store(tmp_path)
    assert fresh.identity[:NODE_BYTES] == identities[0][:NODE_BYTES]
    for engine in (first, second):
        engine.close()
    fresh.destroy()
