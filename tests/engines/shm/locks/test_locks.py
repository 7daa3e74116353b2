"""Both kinds of lock: what is found wrong with them, and the flock kind under fire."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.locks import base, fcntl_locks, flock_locks, mutex
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.stores import (
    assert_sound,
    in_child,
    open_store,
    record,
    wait,
)

ENGINES = [PosixEngine, SysVEngine, MmapEngine]


def no_record_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl_locks, "record_locks_fail", lambda path, descriptor: "switched off")


def others_get(monkeypatch: pytest.MonkeyPatch, locked: bool) -> None:
    monkeypatch.setattr(fcntl_locks, "_take_as_other", lambda *_: locked)


@pytest.fixture(params=ENGINES)
def flocked(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SharedMemoryEngine]:
    """An engine whose store is locked with flock."""
    no_record_locks(monkeypatch)
    engine = open_store(tmp_path, request.param)
    assert recorded_kind(tmp_path) == base.FLOCK
    yield engine
    if not engine._closed:
        engine.destroy()
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def recorded_kind(directory: Path) -> int:
    head = (directory / "store" / "lock").read_bytes()[:18]
    kind: int = struct.unpack("<14sHH", head)[2]
    return kind


def again(directory: Path, engine: SharedMemoryEngine) -> SharedMemoryEngine:
    return open_store(directory, type(engine))


def maintain(engine: SharedMemoryEngine) -> None:
    """Do now what comes once a second."""
    engine._next_look = 0
    engine._channels.words[layout.NEXT_SWEEP] = 0
    engine.statistics()


# ---- which kind


def test_record_locks_are_the_rule(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    assert recorded_kind(tmp_path) == base.FCNTL
    engine.destroy()


def refusing(monkeypatch: pytest.MonkeyPatch, function: str, code: int) -> None:
    call = getattr(fcntl, function)

    def refuse(descriptor: int, command: int, *arguments: Any) -> Any:
        # Reserving memory asks for a descriptor's flags.
        if function == "fcntl" and command in (fcntl.F_GETFL, fcntl.F_SETFL):
            return call(descriptor, command, *arguments)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, function, refuse)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda patch: refusing(patch, "lockf", errno.ENOLCK), "No locks available"),
        (lambda patch: refusing(patch, "fcntl", errno.EINVAL), "Invalid argument"),
        (lambda patch: patch.setattr(fcntl, "lockf", lambda *_: None), "two holders"),
        (lambda patch: others_get(patch, True), "two holders"),
        (lambda patch: others_get(patch, False), "given back"),
    ],
)
@pytest.mark.skipif(not fcntl_locks._OTHER_HOLDER, reason="one process can't play two here")
def test_record_locks_that_do_not_work_are_found_out_and_flock_takes_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[[pytest.MonkeyPatch], None],
    said: str,
) -> None:
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    assert fcntl_locks.record_locks_fail(str(path), descriptor) is None
    wrong(monkeypatch)
    assert said in (fcntl_locks.record_locks_fail(str(path), descriptor) or "")
    os.close(descriptor)
    engine = open_store(tmp_path)
    assert recorded_kind(tmp_path) == base.FLOCK
    engine.push([record(engine, b"a", b"hello")])
    assert engine.pop(b"a")[0].payload == b"hello"
    engine.destroy()


def test_a_trial_takes_no_lock_from_another_process(tmp_path: Path) -> None:
    first = open_store(tmp_path)

    def second() -> None:
        other = open_store(tmp_path)
        other.close()
        open_store(tmp_path).close()

    in_child(second)
    in_child(lambda: maintain(open_store(tmp_path)))
    assert first.statistics()["processes"] >= 1
    identity = first.identity
    maintain(first)
    assert first._processes.owner_word(identity)
    first.destroy()


@pytest.mark.parametrize(
    ("made_with", "cant"), [("fcntl record locks", "flock"), ("flock", "fcntl record locks")]
)
def test_a_store_is_never_used_with_both_kinds_of_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_with: str, cant: str
) -> None:
    trials = {
        "fcntl record locks": (fcntl_locks, "record_locks_fail"),
        "flock": (flock_locks, "flocks_fail"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*trials[cant], lambda *_: "switched off")
        open_store(tmp_path).close()
    before = sorted((tmp_path / "store").iterdir())
    monkeypatch.setattr(*trials[made_with], lambda *_: "switched off")
    with pytest.raises(StoreUnavailable) as caught:
        open_store(tmp_path)
    for part in (f"made with {made_with}", "switched off", "two kinds", "remove it", "directory"):
        assert part in str(caught.value)
    assert sorted((tmp_path / "store").iterdir()) == before


def test_who_can_use_both_kinds_follows_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        no_record_locks(patch)
        engine = open_store(tmp_path)
        engine.push([record(engine, b"a", b"hello")])
        engine.close()
    engine = open_store(tmp_path)
    assert recorded_kind(tmp_path) == base.FLOCK
    assert engine.pop(b"a")[0].payload == b"hello"
    engine.destroy()
    assert list(tmp_path.iterdir()) == []


def test_two_creators_that_disagree_do_not_both_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other one writes its record after this one has looked which kind it must be.
    open_store(tmp_path).close()
    no_record_locks(monkeypatch)
    monkeypatch.setattr("asgi_ipc.engines.shm.lock_file._kind", lambda path, descriptor: 0)
    with pytest.raises(StoreUnavailable, match=r"made with fcntl record locks.*uses flock"):
        open_store(tmp_path)


def test_where_nothing_locks_the_error_names_both_kinds_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "lockf", errno.ENOLCK)
    refusing(monkeypatch, "flock", errno.EOPNOTSUPP)
    with pytest.raises(StoreUnavailable) as caught:
        open_store(tmp_path)
    for part in ("fcntl record locks", "No locks available", "flock", "not supported", "directory"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [base.FCNTL, base.FLOCK])
@pytest.mark.parametrize("left_by_a_killed_one", [False, True])
@pytest.mark.parametrize("refusals", [0, 3, 1000])
def test_a_held_lock_is_asked_for_some_times_and_then_waited_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: int,
    refusals: int,
    left_by_a_killed_one: bool,
) -> None:
    if kind == base.FLOCK:
        no_record_locks(monkeypatch)
    engine = open_store(tmp_path)
    engine.push([record(engine, b"a", b"hello")])
    engine._next_look = 1 << 62
    with engine._channels:
        assert engine._channels.words[layout.TAKEN] == 1
    assert engine._channels.words[layout.TAKEN] == 0
    engine._channels.words[layout.TAKEN] = left_by_a_killed_one
    call = "lockf" if kind == base.FCNTL else "flock"
    really, asked = getattr(fcntl, call), []

    def counted(descriptor: int, command: int, *rest: int) -> None:
        asked.append(command)
        if command & fcntl.LOCK_NB and len(asked) <= refusals:
            raise OSError(errno.EAGAIN, "held")
        really(descriptor, command, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, call, counted)
        engine.push([record(engine, b"a", b"hello")])
    at_once = fcntl.LOCK_EX | fcntl.LOCK_NB
    most = len(mutex._TRIES) + (not left_by_a_killed_one)
    tries = min(refusals + 1, most)
    waited = [fcntl.LOCK_EX] if refusals >= most else []
    assert asked == [at_once] * tries + waited + [fcntl.LOCK_UN]
    assert engine._channels.words[layout.TAKEN] == 0
    engine.destroy()


# ---- the flock kind


def test_two_processes_share_a_store_locked_with_flock(
    flocked: SharedMemoryEngine, tmp_path: Path
) -> None:
    script = (
        "import sys; from tests.tools.flock_engine import *; from asgi_ipc.engines.base import Record\n"
        f"e = {type(flocked).__name__}('store', channel_memory=1 << 19, group_memory=1 << 18,"
        f" directory={str(tmp_path)!r})\n"
        "assert e.pop(b'a')[0].payload == b'hello'\n"
        "e.push([Record(b'b', b'world', 1 << 62, 9)])\n"
    )
    flocked.push([record(flocked, b"a", b"hello")])
    subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=300, cwd=Path(__file__).parents[4]
    )
    assert flocked.pop(b"b")[0].payload == b"world"
    maintain(flocked)
    assert flocked.statistics()["processes"] == 1


def test_a_holder_killed_inside_stops_nobody(flocked: SharedMemoryEngine, tmp_path: Path) -> None:
    def dies(name: str) -> None:
        engine = again(tmp_path, flocked)
        with getattr(engine, name):
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("_channels", "_groups"):
        with pytest.raises(AssertionError):
            in_child(lambda name=name: dies(name))  # type: ignore[misc]
    flocked.push([record(flocked, b"a")])
    flocked.put(b"t", b"m", 1 << 62)
    assert len(flocked.pop(b"a")) == 1
    assert_sound(flocked)


def test_the_living_are_told_from_the_killed(flocked: SharedMemoryEngine, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        engine = again(tmp_path, flocked)
        engine.put(b"t", b"m", 1 << 62, engine.identity)
        os.write(writer, b"!")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    maintain(flocked)
    assert flocked.members(b"t").names == (b"m",)
    os.kill(child, signal.SIGKILL)
    wait(child)
    maintain(flocked)
    assert flocked.members(b"t").names == ()
    assert flocked.statistics()["processes"] == 1
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_a_killed_parent_is_dead_although_its_forked_child_lives(
    flocked: SharedMemoryEngine, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    parent = os.fork()
    if not parent:
        engine = again(tmp_path, flocked)
        engine.put(b"t", b"m", 1 << 62, engine.identity)
        child = os.fork()
        if not child:
            # What it inherited is given up without any use of the engine.
            os.write(writer, struct.pack("i", os.getpid()))
            time.sleep(60)
            os._exit(0)
        with engine._channels, engine._store._opening():  # type: ignore[union-attr]
            time.sleep(60)
        os._exit(0)
    (child,) = struct.unpack("i", os.read(reader, 4))
    try:
        time.sleep(0.2)
        os.kill(parent, signal.SIGKILL)
        wait(parent)
        maintain(flocked)
        assert flocked.members(b"t").names == ()
        again(tmp_path, flocked).close()
    finally:
        os.kill(child, signal.SIGKILL)
        for descriptor in (reader, writer):
            os.close(descriptor)


@pytest.mark.parametrize("which", ["_channels", "_groups", "opening"])
def test_a_forked_child_waits_for_its_parent_to_leave(
    flocked: SharedMemoryEngine, which: str
) -> None:
    reader, writer = os.pipe()

    def inside(engine: SharedMemoryEngine) -> Any:
        return engine._store._opening() if which == "opening" else getattr(engine, which)  # type: ignore[union-attr]

    with inside(flocked):
        child = os.fork()
        if not child:
            with inside(flocked):
                os.write(writer, b"!")
            os._exit(0)
        assert not select.select([reader], [], [], 0.3)[0], "the child came in as well"
    assert select.select([reader], [], [], 120)[0]
    assert wait(child) == 0
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_a_forked_child_joins_for_itself(flocked: SharedMemoryEngine, tmp_path: Path) -> None:
    identity = flocked.identity

    def child() -> None:
        assert flocked.identity != identity
        flocked.push([record(flocked, b"a", b"from the child")])
        maintain(flocked)
        assert flocked.statistics()["processes"] == 2
        other = again(tmp_path, flocked)
        assert other.statistics()["processes"] == 3
        other.close()
        flocked.close()

    in_child(child)
    assert flocked.pop(b"a")[0].payload == b"from the child"
    maintain(flocked)
    assert flocked.identity == identity
    assert flocked.statistics()["processes"] == 1


def test_a_child_forked_before_the_store_was_removed_goes_on_in_the_next(
    flocked: SharedMemoryEngine, tmp_path: Path
) -> None:
    to_child, go = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.read(to_child, 1)
            flocked.push([record(flocked, b"a", b"from the child")])
            status = 0
        finally:
            os._exit(status)
    flocked.destroy()
    third = again(tmp_path, flocked)
    os.write(go, b"!")
    assert wait(child) == 0
    assert third.pop(b"a")[0].payload == b"from the child"
    third.destroy()
    for descriptor in (to_child, go):
        os.close(descriptor)


def test_files_of_locks_that_were_cleaned_away_do_not_split_the_store(
    flocked: SharedMemoryEngine, tmp_path: Path
) -> None:
    for path in (tmp_path / "store").glob("lock.*"):
        path.unlink()
    second = again(tmp_path, flocked)
    maintain(flocked)
    second.push([record(second, b"a", b"hello")])
    assert flocked.pop(b"a")[0].payload == b"hello"
    second.close()
