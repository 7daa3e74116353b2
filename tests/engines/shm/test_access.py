"""Who may: what another user, or somebody who was here first, can do to a default store."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.locks import semaphore_locks
from asgi_ipc.engines.shm.locks.base import SEMAPHORE
from asgi_ipc.engines.shm.locks.semaphore_locks import no_new_ones
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.ownership import locators
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.segment import public_token
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.stores import (
    KIB,
    assert_sound,
    open_store,
    record,
    start,
)
from tests.tools.users import (
    NOBODY,
    as_nobody,
    needs_root,
    public_path,
)

__all__ = ["public_path"]

ENGINES = [PosixEngine, SysVEngine, MmapEngine]


@needs_root
@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("all_the_time", [False, True])
def test_another_user_can_not_keep_processes_out_by_taking_names_beside_the_semaphores(
    kind: type[SharedMemoryEngine], all_the_time: bool
) -> None:
    """Each C library has another name for them, and that of the one not in use is free."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        engine = open_store(Path(name), kind)
        assert engine._store is not None
        if engine._store.lock_file.kind != SEMAPHORE:
            engine.destroy()
            pytest.skip("no semaphores here")
        engine.push([record(engine, b"a", b"kept")])
        token = public_token(engine._store.store_id, "locks")
        paths = [
            path
            for beginning in ("", "sem.")
            for byte in (1, 2)
            if not (path := Path(f"/dev/shm/{beginning}asgi_ipc.{token}.{byte}")).exists()
        ]
        assert len(paths) == 2
        engine.close()
        ready, tell = os.pipe()

        def plant() -> None:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            while True:
                for path in paths:
                    path.touch()
                os.write(tell, b"!")
                if not all_the_time:
                    return
                for path in paths:
                    path.unlink()

        child = start(plant)
        try:
            assert os.read(ready, 1)
            os.set_blocking(ready, False)
            for _ in range(300 if all_the_time else 1):
                open_store(Path(name), kind).close()
                with contextlib.suppress(BlockingIOError):
                    os.read(ready, 4096)
            again = open_store(Path(name), kind)
            assert again.pop(b"a")[0].payload == b"kept"
            again.destroy()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(ready)
            os.close(tell)
            for path in paths:
                path.unlink(missing_ok=True)


@needs_root
@pytest.mark.parametrize("what", ["sem.asgi_ipc.{}.1", "sem.asgi_ipc.{}.2", "asgi_ipc.{}.marks"])
@pytest.mark.parametrize("times", [1, 99])
def test_a_name_that_another_user_takes_while_a_store_is_made_is_left_to_him(
    what: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if no_new_ones() is not None or semaphore_locks._beginning() != "sem.":
        pytest.skip("no such semaphores here")
    real = semaphore_locks.SemaphoreLocks._create
    taken: list[Path] = []

    def create(locks: semaphore_locks.SemaphoreLocks, store_id: bytes) -> None:
        if len(taken) < times:
            path = Path("/dev/shm") / what.format(public_token(store_id, "locks"))
            path.touch()
            os.chown(path, NOBODY, NOBODY)
            taken.append(path)
        real(locks, store_id)

    monkeypatch.setattr(semaphore_locks.SemaphoreLocks, "_create", create)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        try:
            if times == 1:
                open_store(Path(name)).destroy()
            else:
                with pytest.raises(StoreUnavailable, match="names were taken 10 times") as told:
                    open_store(Path(name))
                assert str(taken[-1]) in str(told.value)
            assert len(taken) == min(times, 10)
            tokens = {path.name.split(".")[-2] for path in taken}
            left = [path for path in Path("/dev/shm").iterdir() if tokens & {*path.name.split(".")}]
            assert sorted(left) == sorted(taken)
        finally:
            for path in taken:
                path.unlink()


@needs_root
@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_another_user_can_not_open_read_list_wake_or_block_a_store(
    kind: type[SharedMemoryEngine], umask: int, public_path: Path
) -> None:
    before = os.umask(umask)
    engine = open_store(public_path, kind)
    try:
        engine.push([record(engine, b"a", b"secret")])
        bell = engine.bell()
        engine.pop(b"b", 1, bell)
        folder = public_path / "store"
        assert engine._store is not None
        store = engine._store
        names = list(locators(kind.segment, store.store_id).values())
        paths = [folder, *folder.iterdir()]
        if kind is PosixEngine and os.path.isdir("/dev/shm"):
            paths += [Path("/dev/shm") / name.strip("/") for name in names]

        def stranger() -> None:
            for path in paths:
                for flags in (os.O_RDONLY, os.O_WRONLY | os.O_NONBLOCK, os.O_RDWR):
                    # To write to a directory is refused to everybody.
                    with pytest.raises((PermissionError, IsADirectoryError)):
                        os.close(os.open(path, flags))
            with pytest.raises(PermissionError):
                os.listdir(folder)
            with pytest.raises(PermissionError):
                (folder / "planted").touch()
            for path in paths[1:]:
                with pytest.raises(PermissionError):
                    path.unlink()
                with pytest.raises(PermissionError):
                    path.rename(path.with_name("taken"))
            for locator in names:
                with pytest.raises(PermissionError):
                    kind.segment.attach(store.directory, locator)
            with pytest.raises(StoreUnavailable, match="belongs to user 0"):
                open_store(public_path, kind)

        as_nobody(stranger)
        for path in paths[1:]:
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert stat.S_IMODE(folder.lstat().st_mode) == 0o700
        assert not select.select([bell.fileno()], [], [], 0)[0]
        assert engine.pop(b"a")[0].payload == b"secret"
    finally:
        engine.destroy()
        os.umask(before)


@needs_root
@pytest.mark.parametrize("kind", ENGINES)
def test_who_made_our_directory_first_does_not_get_our_messages(
    kind: type[SharedMemoryEngine], public_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder in which default directories are made is everybody's."""
    public_path.chmod(0o1777)
    monkeypatch.setattr(kind, "default_parent", classmethod(lambda cls: str(public_path)))
    ours = public_path / f"asgi_ipc-{os.geteuid()}"

    def squat() -> None:
        ours.mkdir(mode=0o777)
        ours.chmod(0o777)

    as_nobody(squat)
    with pytest.raises(StoreUnavailable, match=f"belongs to user {NOBODY}"):
        kind("store", channel_memory=512 * KIB, group_memory=256 * KIB)
    assert list(ours.iterdir()) in ([], [ours / "store"])
    assert not list(ours.glob("*/*"))


def opened(directory: Path, kind: type[SharedMemoryEngine]) -> SharedMemoryEngine:
    engine = open_store(directory, kind)
    engine.push([record(engine, b"a", b"kept")])
    return engine


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("what", ["symlink", "directory", "fifo", "dangling"])
def test_a_lock_file_that_is_none_is_refused_and_left_alone(
    kind: type[SharedMemoryEngine], what: str, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    lock = tmp_path / "store" / "lock"
    victim = tmp_path / "victim"
    if what == "symlink":
        victim.write_text("precious")
        lock.symlink_to(victim)
    elif what == "dangling":
        lock.symlink_to(victim)
    elif what == "directory":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    with pytest.raises(StoreUnavailable, match="lock"):
        open_store(tmp_path, kind)
    assert lock.is_symlink() == (what in ("symlink", "dangling"))
    assert victim.exists() == (what == "symlink")
    assert what != "symlink" or victim.read_text() == "precious"


@pytest.mark.parametrize("what", ["symlink", "file", "hard link elsewhere"])
def test_memory_in_the_directory_that_was_replaced_is_not_followed(
    what: str, tmp_path: Path
) -> None:
    opened(tmp_path, MmapEngine).close()
    (memory,) = (tmp_path / "store").glob("channels.*")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 10_000)
    memory.unlink()
    if what == "symlink":
        memory.symlink_to(victim)
    elif what == "file":
        memory.write_bytes(b"precious" * 10_000)
    else:
        os.link(victim, memory)
    with pytest.raises(StoreUnavailable):
        open_store(tmp_path)
    assert victim.read_bytes() == b"precious" * 10_000


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("what", ["symlink", "file", "full", "no reader", "directory"])
def test_a_bell_that_is_none_keeps_nobody_from_sending(
    kind: type[SharedMemoryEngine], what: str, tmp_path: Path
) -> None:
    engine = opened(tmp_path, kind)
    other = open_store(tmp_path, kind)
    bell = other.bell()
    assert other.pop(b"waited for", 1, bell) == []
    path = Path(bell.path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if what == "full":
        for _ in range(100_000):
            bell.signal()
    else:
        path.unlink()
    if what == "symlink":
        path.symlink_to(victim)
    elif what == "file":
        path.write_text("precious")
    elif what == "no reader":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    assert engine.push([record(engine, b"waited for", b"x")]) == []
    engine.flush()  # Signals all there are.
    assert engine.push([record(engine, b"waited for", b"y")]) == []
    assert other.pop(b"waited for")[0].payload == b"y"
    assert victim.read_text() == "precious"
    assert what != "file" or path.read_text() == "precious"
    assert_sound(engine)
    # The waiter finds out, so that it can hang up another.
    bell.look()
    assert (bell.fileno() < 0) == (what != "full")
    other.close()
    engine.destroy()
    if path.is_dir():
        path.rmdir()


@pytest.mark.parametrize("name", ["notes.txt", "bell.txt", "channels.old", "lock.bak"])
def test_foreign_files_in_the_directory_are_left_alone(name: str, tmp_path: Path) -> None:
    engine = opened(tmp_path, MmapEngine)
    foreign = tmp_path / "store" / name
    foreign.write_text("precious")
    engine._next_look = 0
    engine.statistics()
    other: Any = open_store(tmp_path)
    other.close()
    engine.destroy()
    assert foreign.read_text() == "precious"
    assert list((tmp_path / "store").iterdir()) == [foreign]


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o720])
def test_a_directory_that_became_writable_for_others_is_refused(
    kind: type[SharedMemoryEngine], mode: int, tmp_path: Path
) -> None:
    engine = opened(tmp_path, kind)
    (tmp_path / "store").chmod(mode)
    with pytest.raises(StoreUnavailable, match="can be written by others"):
        open_store(tmp_path, kind)
    (tmp_path / "store").chmod(0o700)
    assert open_store(tmp_path, kind).pop(b"a")[0].payload == b"kept"
    engine.destroy()
