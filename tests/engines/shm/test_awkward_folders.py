"""Machines whose folders are missing, read-only or full, or allow no FIFOs or record locks."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from pathlib import Path

import pytest

from asgi_ipc import StoreUnavailable
from asgi_ipc.engines.shm.mmap import MmapEngine
from tests.tools.awkward import (
    every_engine,
    refuses,
    works,
)
from tests.tools.namespaces import (
    run_on,
)
from tests.tools.stores import (
    in_child,
)

# ---- the temporary folder

READ_ONLY = "mount -t tmpfs -o ro none /tmp; mount -t tmpfs -o ro none /var/tmp; unset TMPDIR"


def check_no_temporary_folder() -> None:
    for engine in ("mmap", "sysv"):
        refuses(StoreUnavailable, engine, "no temporary folder", "/tmp", "directory", "TMPDIR")
        refuses(
            StoreUnavailable, engine, "/tmp/here", "Read-only", "directory", directory="/tmp/here"
        )
        works(engine, directory="/dev/shm/here")
    works("posix")


def test_with_the_temporary_folders_read_only_the_error_names_them() -> None:
    # In a folder that can be written to: the standard library would take that one.
    run_on(f"mount -t tmpfs none /dev/shm; {READ_ONLY}", check_no_temporary_folder)


def check_full_temporary_folder() -> None:
    Path("/tmp/one").touch()
    with pytest.raises(OSError, match="No space left"):
        Path("/tmp/two").touch()
    # Not in the next folder, where those who came before it was full are not.
    refuses(StoreUnavailable, "mmap", "'/tmp/asgi_ipc-", "No space left")


def test_a_full_temporary_folder_does_not_send_some_processes_to_another() -> None:
    run_on(
        "mount -t tmpfs -o nr_inodes=2 none /tmp; unset TMPDIR",
        check_full_temporary_folder,
    )


def test_a_missing_temporary_folder_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TEMP", str(tmp_path))
    # What cron, a service and a shell are told differs; where the store lies must not.
    usual = MmapEngine.default_parent()
    assert usual != str(tmp_path)
    for name in ("TMPDIR", "TEMP"):
        monkeypatch.delenv(name)
    assert MmapEngine.default_parent() == usual
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TEMP", str(tmp_path))
    with monkeypatch.context() as patch:
        real = os.access
        patch.setattr(os, "access", lambda path, how: path == str(tmp_path) and real(path, how))
        assert MmapEngine.default_parent() == str(tmp_path)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    with pytest.raises(StoreUnavailable, match="no temporary folder"):
        MmapEngine.default_parent()


@every_engine
def test_a_directory_in_a_missing_one_is_named(engine: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing" / "too")
    refuses(StoreUnavailable, engine, missing, "No such file", "directory", directory=missing)
    assert list(tmp_path.iterdir()) == []


# ---- what the file system refuses


@every_engine
def test_without_record_locks_every_engine_works(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refused)
    works(engine, directory=str(tmp_path / "d"))
    assert [path.name for path in tmp_path.rglob("*")] == ["d"]


@every_engine
@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EPERM, "file system with FIFOs"),
        (errno.EOPNOTSUPP, "file system with FIFOs"),
        (errno.ENOSPC, "free some space"),
    ],
)
def test_where_no_fifo_can_be_made_the_engine_says_so_when_it_is_opened(
    engine: str, code: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "mkfifo", refused)
    refuses(
        StoreUnavailable,
        engine,
        "wake-up FIFO",
        os.strerror(code),
        remedy,
        "engine_options['directory']",
        directory=str(tmp_path),
    )
    assert list(tmp_path.iterdir()) == []


@every_engine
@pytest.mark.parametrize(
    ("limit", "most", "remedy"),
    [
        (resource.RLIMIT_FSIZE, 1 << 16, "ulimit -f"),
        (resource.RLIMIT_FSIZE, 0, "ulimit -f"),
        (resource.RLIMIT_AS, 64 << 20, "ulimit -v"),  # above what the process has
    ],
)
def test_a_limit_of_the_process_is_named_and_not_the_room_that_there_is(
    engine: str, limit: int, most: int, remedy: str, tmp_path: Path
) -> None:
    if engine == "sysv" and limit == resource.RLIMIT_FSIZE and most:
        pytest.skip("its memory is no file")

    def limited() -> None:
        has = 0
        if limit == resource.RLIMIT_AS:
            has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(limit, (most + has, most + has))
        refuses(StoreUnavailable, engine, remedy, directory=str(tmp_path))

    in_child(limited)
