"""The commands ``check`` and ``remove``: what they say of a store, and what they remove."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.cli.check import check, remove
from asgi_ipc.cli.doctor.engines import look_at_store
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.lock_file import LockFile
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.options import location_for, removal
from asgi_ipc.exceptions import EngineUnavailable, StoreCorrupt, StoreUnavailable
from tests.cli.conftest import Commands
from tests.tools.checked import engine, fill
from tests.tools.doubles import in_thread
from tests.tools.stores import (
    ENGINES,
    in_child,
    open_store,
    record,
    start,
    unlink_memory,
    wait,
)

__all__ = ["engine"]


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
    engine.session.channels.words[layout.NAMED] += 1
    status, said = run(tmp_path, "store", "--engine", "mmap")
    engine.session.channels.words[layout.NAMED] -= 1
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
        engine.session.channels.words[layout.STATE] = 77
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
    engine.session.groups.words[layout.STATE] = 77
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
    idle.upkeep.due = 0
    idle.statistics()
    assert idle.pop(b"a")[0].payload == b"afresh"
    idle.destroy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", [layout.W_MAGIC, layout.W_BUCKETS, layout.W_SIZE])
def test_a_store_with_a_damaged_header_is_damaged_and_can_be_removed(
    word: int, tmp_path: Path, command: Commands
) -> None:
    layer = open_store(tmp_path)
    words = memoryview(layer.session.groups.segment.view).cast("Q")
    before, words[word] = words[word], 7
    at = ("--directory", str(tmp_path))
    (entry,) = command("list", "--json", *at).json()
    remedy = removal("mmap", layer.session.location)
    assert (entry["state"], remedy in entry["problem"]) == ("damaged", True)
    assert command("ping", "store", *at).status == 1
    ended = command("stats", "store", *at)
    assert (ended.status, remedy in ended.err) == (2, True)
    ended = command("check", "store", *at)
    assert (ended.status, "the header of" in ended.out) == (1, True)
    assert command("check", "store", "--remove", *at).out.endswith("removed\n")
    assert command("list", "--json", *at).json() == []
    words[word] = before
    words.release()
    layer.destroy()


def test_a_check_that_is_kept_out_by_a_stopped_process_says_so(
    engine: SharedMemoryEngine, tmp_path: Path
) -> None:
    def stops() -> None:
        other = open_store(tmp_path)

        def inside() -> None:
            with other.session.channels:
                os.kill(os.getpid(), signal.SIGSTOP)

        assert other.session.store is not None
        other.session.store.lock_file.section.run(inside)
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
            in_child(lambda: in_its_thread(lambda: removed_and_made_anew(tmp_path, kind)))
        lock_opening(self)

    monkeypatch.setattr(LockFile, "_lock_opening", overtaken)
    with pytest.raises(StoreUnavailable, match="just removed by another process"):
        remove("store", kind.name, {"directory": tmp_path})
    engine = open_store(tmp_path, kind)
    assert [each.payload for each in engine.pop(b"q")] == [b"fresh"]
    engine.destroy()


def in_its_thread(function: Callable[[], None]) -> None:
    """Run it in another thread: that of a child is in the middle of a call."""
    done = threading.Event()

    def work() -> None:
        function()
        done.set()

    in_thread(work).join()
    assert done.is_set()


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


@pytest.mark.parametrize("call", [check, remove])
def test_a_lock_file_that_the_system_refuses_to_open_is_said(
    call: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As that of another user is, in the instant before it is given to the group.
    open_store(tmp_path).close()

    def refused(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "lock")

    with monkeypatch.context() as patch:
        patch.setattr(StoreDirectory, "open_file", refused)
        with pytest.raises(StoreUnavailable, match=r"open the lock file in .*Permission denied"):
            call("store", "mmap", {"directory": tmp_path})
    remove("store", "mmap", {"directory": tmp_path})
