"""The full check: it finds what is wrong, says so, and changes nothing."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.cli.check import check, remove
from asgi_ipc.cli.doctor.engines import look_at_store
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.heap import Heap
from asgi_ipc.engines.shm.location import location_for, removal
from asgi_ipc.engines.shm.lock_file import LockFile
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import EngineUnavailable, StoreCorrupt, StoreUnavailable
from tests.tools.stores import (
    in_child,
    killed_at,
    open_store,
    record,
    start,
    unlink_memory,
    wait,
)

ENGINES = [PosixEngine, SysVEngine, MmapEngine]


def fill(engine: SharedMemoryEngine) -> SharedMemoryEngine:
    """Something of everything."""
    engine.push([record(engine, b"a", b"%d" % number) for number in range(5)])
    engine.push([record(engine, b"large", bytes(50_000)), record(engine, b"gone")])
    engine.pop(b"gone")
    engine.pop(b"waited for", 1, engine.bell())
    for number in range(5):
        engine.put(b"t", b"m%d" % number, 1 << 62)
    return engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SharedMemoryEngine]:
    engine = fill(open_store(tmp_path))
    yield engine
    engine.destroy()


def checked(engine: SharedMemoryEngine, directory: Path) -> list[str]:
    return check("store", engine.name, {"directory": directory})


@pytest.mark.parametrize("kind", ENGINES)
def test_a_store_in_use_is_sound(kind: type[SharedMemoryEngine], tmp_path: Path) -> None:
    engine = fill(open_store(tmp_path, kind))
    try:
        before = engine.statistics()
        assert checked(engine, tmp_path) == []
        after = engine.statistics()
        assert {**after, "oldest_age": 0} == {**before, "oldest_age": 0}
    finally:
        engine.destroy()


def queue(heap: Heap, kind: int = layout.QUEUE) -> int:
    """Where the first record of a kind is."""
    used = heap.words[layout.IDS_USED]
    entries = [heap.words[heap.end - handle] for handle in range(1, used + 1)]
    return next(at for at in entries if at < heap.end and heap.kind(at) == kind)


#: What is spoiled: the segment, the word of it, and what the check says.
SPOILED: dict[str, tuple[int, Callable[[Heap], int], str]] = {
    "handle": (0, lambda heap: heap.end - 1, "handle"),
    "free handle": (0, lambda heap: layout.FREE_ID, "free"),
    "used handles": (0, lambda heap: layout.IDS_USED, "never used"),
    "cursor": (0, lambda heap: layout.CURSOR, "cursor"),
    "free extents": (0, lambda heap: layout.FREE_EXTENTS, "free extents"),
    "live words": (0, lambda heap: heap.geometry.extent_live, "live words"),
    "bucket": (0, lambda heap: heap.geometry.hash_table + 3, "can't be followed|found by its name"),
    "META": (0, lambda heap: queue(heap), "another's"),
    "head": (0, lambda heap: queue(heap) + layout.Q_HEADS, "queue"),
    "tail": (0, lambda heap: queue(heap) + layout.Q_TAIL, "tail"),
    "count": (0, lambda heap: queue(heap) + layout.Q_PUSHED, "counts otherwise"),
    "link": (0, lambda heap: queue(heap, layout.MESSAGE) + layout.M_LINK, "queue"),
    "high water": (0, lambda heap: layout.HIGH_WATER, "high-water"),
    "gone": (0, lambda heap: layout.GONE, "are counted"),
    "queues": (0, lambda heap: layout.NAMED, "queues and"),
    "rings": (0, lambda heap: layout.RINGS, "rings and"),
    "backlog": (0, lambda heap: layout.BACKLOG, "extents more"),
    "node": (0, lambda heap: layout.NODES_USED, "wait nodes"),
    "free node": (0, lambda heap: layout.FREE_NODE, "wait node"),
    "table": (1, lambda heap: queue(heap, layout.TABLE) + layout.T_COUNT, "members and counts"),
    "first member": (1, lambda heap: queue(heap, layout.TABLE) + layout.T_FIRST, "table|handle"),
    "next member": (1, lambda heap: queue(heap, layout.MEMBER) + layout.E_NEXT, "table|handle"),
    "owner table": (1, lambda heap: queue(heap, layout.MEMBER) + layout.E_TABLE, "point back"),
    "deadline": (1, lambda heap: queue(heap, layout.MEMBER) + layout.E_DEADLINE, "sooner"),
    "members": (1, lambda heap: layout.MEMBERS, "members"),
    "live in all": (0, lambda heap: layout.LIVE, "counted in all"),
    "leftover": (0, lambda heap: layout.LEFTOVER, "left of a record"),
    "cleaning": (0, lambda heap: layout.CLEANING, "nothing to clean"),
    "bytes": (0, lambda heap: queue(heap) + layout.Q_BYTES, "bytes and counts"),
    "size": (0, lambda heap: queue(heap, layout.MESSAGE) + layout.M_SIZE, "another size"),
    "walk": (0, lambda heap: queue(heap) + layout.Q_WALK, "searched, and not where"),
    "unseen": (0, lambda heap: queue(heap) + layout.Q_UNSEEN, "searched, and not where"),
    "key": (0, lambda heap: layout.W_HASH_KEY, "found by its name"),
    "key of groups": (1, lambda heap: layout.W_HASH_KEY, "found by its name"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_word_is_found(name: str, engine: SharedMemoryEngine, tmp_path: Path) -> None:
    part, find, said = SPOILED[name]
    heap = (engine._channels, engine._groups)[part].heap
    word = find(heap)
    kept = heap.words[word]
    heap.words[word] = 1 if kept != 1 else 2
    try:
        found = "\n".join(checked(engine, tmp_path))
        assert found, "nothing was found"
        assert any(each in found for each in said.split("|")), found
    finally:
        heap.words[word] = kept


def test_a_store_that_has_no_extent_to_move_records_to_is_found(
    engine: SharedMemoryEngine, tmp_path: Path
) -> None:
    words = engine._channels.words
    forged = {layout.FREE_EXTENT: 0, layout.FREE_EXTENTS: 0}
    kept = {word: words[word] for word in forged}
    assert kept[layout.FREE_EXTENTS], "there should be one"
    try:
        for word, value in forged.items():
            words[word] = value
        assert "none is being cleaned" in "\n".join(checked(engine, tmp_path))
    finally:
        for word, value in kept.items():
            words[word] = value


#: Words of a store of 64 GiB, forged, and what is said of them.
VAST: list[tuple[dict[int, int], str]] = [
    ({}, ""),
    ({layout.IDS_USED: 1 << 32, layout.IDS_RESERVED: 1 << 32}, "no record can be"),
    ({layout.EXTENTS_USED: 1 << 20}, "not free"),
    ({layout.EXTENTS_USED: 1 << 62, layout.FREE_EXTENT: 1}, "extents are in use"),
    ({layout.FREE_EXTENTS: 1 << 62}, "its count"),
]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="memory can't be limited here")
@pytest.mark.parametrize(("forged", "said"), VAST, ids=range(len(VAST)))
def test_a_store_that_is_large_in_name_alone_is_checked_in_little_memory(
    forged: dict[int, int], said: str, tmp_path: Path
) -> None:
    engine = open_store(tmp_path, channel_memory=64 << 30)
    words = engine._channels.words
    words[engine._channels.heap.geometry.extent_next] = 1

    def limited() -> None:
        with open("/proc/self/status") as file:
            (data,) = (int(line.split()[1]) for line in file if line.startswith("VmData"))
        limit = (data << 10) + (32 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        found = "\n".join(checked(engine, tmp_path))
        assert said in found if said else not found, found

    try:
        for word, value in forged.items():
            words[word] = value
        in_child(limited)
    finally:
        for word in forged:
            words[word] = 0
        engine.destroy()


def test_what_a_killed_process_left_half_done_is_ended_first(
    engine: SharedMemoryEngine, tmp_path: Path
) -> None:
    left = 0
    for opcode in range(400, 1_500, 20):
        killed_at(lambda: engine.push([record(engine, b"a")]), opcode, lambda: engine.identity)
        left += engine._channels.words[layout.STATE] == layout.COMMITTED
        assert checked(engine, tmp_path) == []
        assert engine._channels.words[layout.STATE] == layout.IDLE
    assert left


def run(directory: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of the command."""
    option = f"directory={str(directory)!r}"
    done = subprocess.run(
        [sys.executable, "-m", "asgi_ipc", "check", "--engine-option", option, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_says_sound_or_what_is_wrong_or_that_there_is_none(
    engine: SharedMemoryEngine, tmp_path: Path
) -> None:
    assert run(tmp_path, "store", "--engine", "mmap") == (0, "sound\n")
    engine._channels.words[layout.NAMED] += 1
    status, said = run(tmp_path, "store", "--engine", "mmap")
    engine._channels.words[layout.NAMED] -= 1
    assert status == 1
    assert "queues" in said
    status, said = run(tmp_path, "another", "--engine", "mmap")
    assert status == 2
    assert "there is no store" in said
    assert run(tmp_path, "store", "--engine", "memory")[0] == 2
    assert os.listdir(tmp_path) == ["store"], "a check must not make a store"


@pytest.mark.parametrize("kind", ENGINES)
def test_a_corrupt_store_can_be_removed_and_its_processes_go_on(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    engine = fill(open_store(tmp_path, kind))
    try:
        engine._channels.words[layout.STATE] = 77
        with pytest.raises(StoreCorrupt, match="--remove") as caught:
            engine.pop(b"a")
        assert str(tmp_path) in str(caught.value)
        with pytest.raises(StoreCorrupt):
            open_store(tmp_path, kind)
        status, said = run(tmp_path, "store", "--engine", engine.name, "--remove")
        assert status == 1
        assert said.endswith("removed\n")
        assert engine.pop(b"a") == []
        engine.push([record(engine, b"a", b"afresh")])
        newcomer = open_store(tmp_path, kind)
        assert newcomer.pop(b"a")[0].payload == b"afresh"
        newcomer.close()
    finally:
        engine.destroy()
    assert list(tmp_path.iterdir()) == []


class OwnEngine(MmapEngine):
    """One that is registered nowhere."""

    name = "own"


@pytest.mark.parametrize("kind", [*ENGINES, OwnEngine])
@pytest.mark.parametrize("options", [{}, {"group": os.getgid()}])
def test_the_command_that_the_error_of_a_corrupt_store_names_removes_it(
    kind: type[SharedMemoryEngine], options: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "a folder"
    engine = open_store(folder, kind, **options)
    engine._groups.words[layout.STATE] = 77
    with pytest.raises(StoreCorrupt, match="start afresh") as caught:
        engine.put(b"t", b"m", 1 << 62)
    assert isinstance(caught.value.__cause__, StoreCorrupt)
    program, *arguments = shlex.split(str(caught.value).rpartition("this command: ")[2])
    assert program == "python"
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("removed\n"), done.stderr
    engine.put(b"t", b"m", 1 << 62)
    engine.destroy()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ENGINES)
def test_the_command_that_the_error_of_removed_memory_names_removes_the_store(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes have not noticed, as none of them has made a call."""
    monkeypatch.setattr("asgi_ipc.engines.shm.opening._NOTICE", 0.0)
    idle = fill(open_store(tmp_path, kind))
    unlink_memory(idle)

    def other() -> None:
        with pytest.raises(StoreUnavailable, match=r"removed by hand.*or run: python") as caught:
            open_store(tmp_path, kind)
        program, *arguments = shlex.split(str(caught.value).rpartition("or run: ")[2])
        assert program == "python"
        assert run(tmp_path, "store", "--engine", kind.name)[0] == 2
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stdout.endswith("removed\n"), done.stderr
        newcomer = open_store(tmp_path, kind)
        newcomer.push([record(newcomer, b"a", b"afresh")])
        newcomer.close()

    in_child(other)
    idle._next_look = 0
    idle.statistics()
    assert idle.pop(b"a")[0].payload == b"afresh"
    idle.destroy()
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_is_kept_out_by_a_stopped_process_says_so(
    engine: SharedMemoryEngine, tmp_path: Path
) -> None:
    def stops() -> None:
        other = open_store(tmp_path)

        def inside() -> None:
            with other._channels:
                os.kill(os.getpid(), signal.SIGSTOP)

        assert other._store is not None
        other._store.lock_file.section.run(inside)
        other.close()

    stopped = start(stops)
    os.waitpid(stopped, os.WUNTRACED)
    try:
        command = [sys.executable, "-m", "asgi_ipc", "check", "store", "--engine", "mmap"]
        command += ["--engine-option", f"directory={str(tmp_path)!r}"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as checks:
            assert checks.stderr is not None
            assert checks.stdout is not None
            assert "kill -CONT" in checks.stderr.readline()
            os.kill(stopped, signal.SIGCONT)
            assert checks.stdout.read() == "sound\n"
        looked = look_at_store("mmap", "store", {"directory": str(tmp_path)})
        assert looked["works"], looked
    finally:
        os.kill(stopped, signal.SIGCONT)
        wait(stopped)


def test_the_command_names_no_directory_where_none_was_given() -> None:
    location = location_for("/dev/shm", "my.site", None, None, None)
    assert removal("posix", location) == "python -m asgi_ipc check my.site --engine posix --remove"


@pytest.mark.parametrize("kind", ENGINES)
def test_the_second_of_two_removals_spares_the_fresh_store(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(tmp_path, kind).close()
    lock_opening = LockFile._lock_opening
    is_first = True

    def overtaken(self: LockFile) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            in_child(lambda: removed_and_made_anew(tmp_path, kind))
        lock_opening(self)

    monkeypatch.setattr(LockFile, "_lock_opening", overtaken)
    with pytest.raises(StoreUnavailable, match="just removed by another process"):
        remove("store", kind.name, {"directory": tmp_path})
    engine = open_store(tmp_path, kind)
    assert [each.payload for each in engine.pop(b"q")] == [b"fresh"]
    engine.destroy()


def removed_and_made_anew(directory: Path, kind: type[SharedMemoryEngine]) -> None:
    remove("store", kind.name, {"directory": directory})
    engine = open_store(directory, kind)
    assert engine.push([record(engine, b"q", b"fresh")]) == []
    engine.close()


def test_a_sound_store_is_not_removed(engine: SharedMemoryEngine, tmp_path: Path) -> None:
    assert run(tmp_path, "store", "--engine", "mmap", "--remove") == (0, "sound\n")
    assert len(engine.pop(b"a", 10)) == 5


@pytest.mark.parametrize("call", [check, remove])
def test_what_can_not_be_checked_is_said(
    call: Callable[..., object], engine: SharedMemoryEngine, tmp_path: Path
) -> None:
    with pytest.raises(StoreUnavailable, match="there is no store"):
        call("another", "mmap", {"directory": tmp_path})
    with pytest.raises(EngineUnavailable, match="nothing to check"):
        call("store", "memory")
