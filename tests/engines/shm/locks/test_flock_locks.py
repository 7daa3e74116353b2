"""Locks by flock: what holds for record locks holds for them, forks and kills included."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.locks import base, mutex
from tests.tools.locks import no_record_locks, recorded_kind
from tests.tools.stores import (
    ENGINES,
    assert_sound,
    in_child,
    maintain,
    open_store,
    record,
    wait,
)


@pytest.fixture(params=ENGINES)
def flocked(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SharedMemoryEngine]:
    """An engine whose store is locked with flock."""
    no_record_locks(monkeypatch)
    engine = open_store(tmp_path, request.param)
    assert recorded_kind(tmp_path) == base.FLOCK
    yield engine
    if not engine.session._closed:
        engine.destroy()
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def again(directory: Path, engine: SharedMemoryEngine) -> SharedMemoryEngine:
    return open_store(directory, type(engine))


@pytest.mark.parametrize("kind", [base.FCNTL, base.FLOCK])
@pytest.mark.parametrize("left_by_a_killed_one", [False, True])
@pytest.mark.parametrize("refusals", [0, 3, 1000])
def test_a_held_lock_is_tried_a_few_times_and_then_waited_for(
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
    engine.upkeep.due = 1 << 62
    with engine.session.channels:
        assert engine.session.channels.words[layout.TAKEN] == 1
    assert engine.session.channels.words[layout.TAKEN] == 0
    engine.session.channels.words[layout.TAKEN] = left_by_a_killed_one
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
    assert engine.session.channels.words[layout.TAKEN] == 0
    engine.destroy()


# ---- the flock kind


def test_two_processes_share_a_store_locked_with_flock(
    flocked: SharedMemoryEngine, tmp_path: Path
) -> None:
    script = (
        "import sys; from tests.tools.flock_engine import *\n"
        "from asgi_ipc.engines.base import Record\n"
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


def test_a_holder_killed_inside_blocks_no_other(
    flocked: SharedMemoryEngine, tmp_path: Path
) -> None:
    def dies(name: str) -> None:
        engine = again(tmp_path, flocked)
        with getattr(engine.session, name):
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("channels", "groups"):
        with pytest.raises(AssertionError):
            in_child(lambda name=name: dies(name))  # type: ignore[misc]
    flocked.push([record(flocked, b"a")])
    flocked.put(b"t", b"m", 1 << 62)
    assert len(flocked.pop(b"a")) == 1
    assert_sound(flocked)


def test_living_processes_are_told_from_killed_ones(
    flocked: SharedMemoryEngine, tmp_path: Path
) -> None:
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
        with engine.session.channels, engine.session.joined().opening():
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


@pytest.mark.parametrize("which", ["channels", "groups", "opening"])
def test_a_forked_child_waits_for_its_parent_to_leave(
    flocked: SharedMemoryEngine, which: str
) -> None:
    reader, writer = os.pipe()

    def inside(engine: SharedMemoryEngine) -> Any:
        session = engine.session
        return session.joined().opening() if which == "opening" else getattr(session, which)

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
