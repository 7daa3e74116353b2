"""Machines that lack something: each gives a working engine, or an error that says what to do.

Where this machine can play the lack, in namespaces, it does; the rest is patched in.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import (
    EngineUnavailable,
    StoreFull,
    StoreUnavailable,
    SyncIPCChannelLayer,
)
from asgi_ipc.engines.mmap import MmapEngine
from asgi_ipc.engines.posix import PosixEngine
from asgi_ipc.engines.sysv import SysVEngine
from asgi_ipc.store import layout

from .namespaces import CANT_PLAY, NO_SHM, end, python, run_on, started, unshared
from .stores import KIB, in_child, open_store

ENGINES = {"mmap": MmapEngine, "posix": PosixEngine, "sysv": SysVEngine}
every_engine = pytest.mark.parametrize("engine", sorted(ENGINES))

# What runs inside is a function of this module whose name begins with a verb; it is given
# to a new interpreter by name.


def a_prefix() -> str:
    """One that no other test has, as some stores lie where everybody's do."""
    return f"awkward-{secrets.token_hex(4)}"


def works(engine: str, **options: Any) -> None:
    """A message goes from one process to another, and nothing is left of it."""
    prefix = a_prefix()
    layer = SyncIPCChannelLayer(prefix=prefix, engine=engine, engine_options=options)
    try:

        def other() -> None:
            mine = SyncIPCChannelLayer(prefix=prefix, engine=engine, engine_options=options)
            mine.send("a", {"type": "hello"})
            mine.close()

        in_child(other)
        assert layer.receive(["a"], block=True, timeout=120) == ("a", {"type": "hello"})
    finally:
        layer.destroy()


def refuses(error: type[Exception], engine: str, *parts: str, **options: Any) -> None:
    """The engine can't be opened, and says each of these about it."""
    with pytest.raises(error) as caught:
        SyncIPCChannelLayer(prefix=a_prefix(), engine=engine, engine_options=options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def fill(engine: str, options: dict[str, Any], said: str) -> None:
    """Much more goes in than there is; all that was taken comes out again."""
    layer = SyncIPCChannelLayer(
        prefix=a_prefix(), engine=engine, engine_options=options, capacity=10**6
    )
    message = {"type": "x", "text": "x" * 1000}
    stored = 0
    try:
        while stored < 200_000:
            layer.send("a", message)
            stored += 1
    except StoreFull as error:
        full = str(error)
    assert said in full, full
    assert stored > 50
    for _ in range(stored):
        assert layer.receive(["a"]) == ("a", message)
    layer.send("a", message)
    layer.destroy()


# ---- /dev/shm

SMALL_SHM = "mount -t tmpfs -o size=1m none /dev/shm"


@pytest.mark.parametrize(
    ("engine", "options"), [("posix", {}), ("mmap", {"directory": "/dev/shm/here"})]
)
def test_a_megabyte_of_shared_memory_fills_up_and_says_what_to_do(
    engine: str, options: dict[str, str]
) -> None:
    run_on(SMALL_SHM, fill, engine, options, "KiB free")


def check_sysv_does_not_care() -> None:
    works("sysv")


def test_system_v_memory_does_not_depend_on_the_size_of_dev_shm() -> None:
    run_on(SMALL_SHM, check_sysv_does_not_care)


def check_too_small() -> None:
    refuses(StoreUnavailable, "posix", "No space left", "/dev/shm", "KiB free", "another engine")
    refuses(StoreUnavailable, "mmap", "No space left", "/dev/shm", directory="/dev/shm/here")
    assert [str(path) for path in Path("/dev/shm").rglob("*")] == ["/dev/shm/here"]
    works("mmap")


def test_where_shared_memory_is_too_small_for_a_store_nothing_of_it_is_left() -> None:
    run_on("mount -t tmpfs -o size=100k none /dev/shm", check_too_small)


def check_no_shm() -> None:
    assert not os.path.exists("/dev/shm")
    refuses(EngineUnavailable, "posix", "POSIX shared memory", "mount", "'mmap'", "'sysv'")
    for engine in ("mmap", "sysv"):
        works(engine)


def test_without_dev_shm_posix_says_so_and_the_others_work() -> None:
    run_on(NO_SHM, check_no_shm)


def check_read_only_shm() -> None:
    refuses(StoreUnavailable, "posix", "Read-only file system", "/dev/shm", "another engine")
    for engine in ("mmap", "sysv"):
        works(engine)


def test_with_dev_shm_read_only_posix_says_so_and_the_others_work() -> None:
    run_on("mount -t tmpfs -o ro none /dev/shm", check_read_only_shm)


# ---- PID namespaces


def live_in_a_pid_namespace(engine: str, directory: str) -> None:
    """Obey the commands of the test, one on each line."""
    assert os.getpid() == 1
    sizes = {"channel_memory": 512 * KIB, "group_memory": 256 * KIB}
    mine = ENGINES[engine]("store", directory=directory, **sizes)  # type: ignore[arg-type]
    bell = mine.bell()
    far = mine.clock() + 10**12
    for line in sys.stdin:
        answer: object = None
        match line.split():
            case ["join"]:
                mine.put(b"t", mine.identity, far, mine.identity)
            case ["wait"]:
                answer = mine.pop(b"q", 1, bell)
            case ["heard"]:
                answer = bool(select.select([bell.fileno()], [], [], 120)[0])
                bell.clear()
            case ["send"]:
                from asgi_ipc.engines.base import Record

                answer = mine.push([Record(b"q", b"hello", far, 100)])
            case ["receive"]:
                answer = [popped.payload for popped in mine.pop(b"q")]
            case ["members"]:
                mine._next_look = 0
                mine._channels.words[layout.NEXT_TEND] = 0
                mine.statistics()
                answer = len(mine.members(b"t").names)
            case ["enter"]:
                mine._channels.__enter__()
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


@every_engine
def test_processes_of_two_pid_namespaces_meet(engine: str, tmp_path: Path) -> None:
    # As two containers that share the memory do: there each first process is number 1.
    command = unshared("--pid", "--fork", "--kill-child")
    command += python(live_in_a_pid_namespace, engine, str(tmp_path))

    def tell(process: subprocess.Popen[str], word: str) -> str:
        assert process.stdin
        assert process.stdout
        process.stdin.write(word + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    observer = open_store(tmp_path, ENGINES[engine])
    try:
        with started(command) as first, started(command) as second:
            for process in (first, second):
                assert tell(process, "join") == "None"
            for waiter, sender in ((first, second), (second, first)):
                assert tell(waiter, "wait") == "[]"
                assert tell(sender, "send") == "[]"
                assert tell(waiter, "heard") == "True"
                assert tell(waiter, "receive") == "[b'hello']"
                assert tell(waiter, "members") == "2"
            # Killed inside the store: the other neither waits for it nor takes it for alive.
            assert tell(first, "enter") == "None"
            end(first)
            assert tell(second, "send") == "[]"
            assert tell(second, "receive") == "[b'hello']"
            assert tell(second, "members") == "1"
    finally:
        observer.destroy()
    assert list(tmp_path.iterdir()) == []


# ---- System V limits


def check_sysv_limits(limit: str, value: int) -> None:
    try:
        Path(f"/proc/sys/kernel/{limit}").write_text(str(value))
    except OSError as error:
        sys.stdout.write(f"kernel.{limit} can't be set in an IPC namespace: {error}")
        sys.exit(CANT_PLAY)
    refuses(StoreUnavailable, "sysv", f"kernel.{limit}={value}", "sysctl", "smaller", "engine")
    left = Path("/proc/sysvipc/shm").read_text().splitlines()
    assert len(left) == 1, left
    for engine in ("posix", "mmap"):
        works(engine)
    if limit == "shmmax":
        with tempfile.TemporaryDirectory() as directory:
            open_store(Path(directory), SysVEngine).destroy()


@pytest.mark.parametrize(
    ("limit", "value"), [("shmmax", 1_000_000), ("shmall", 100), ("shmmni", 1)]
)
def test_system_v_limits_that_are_too_low_are_named_with_their_values(
    limit: str, value: int
) -> None:
    run_on("", check_sysv_limits, limit, value, kinds=("--ipc",))


# ---- what the system or the file system refuses


def fill_without_fallocate(engine: str, options: dict[str, Any], how: str) -> None:
    def refused(*_: object) -> None:
        code = getattr(errno, how)
        raise OSError(code, os.strerror(code))

    if how == "absent":
        del os.posix_fallocate
    else:
        os.posix_fallocate = refused
    fill(engine, options, "KiB free")


@pytest.mark.parametrize(
    ("engine", "options", "how"),
    [
        ("posix", {}, "absent"),
        ("posix", {}, "EINVAL"),
        ("posix", {}, "ENOSYS"),
        ("posix", {}, "EPERM"),
        ("mmap", {"directory": "/dev/shm/here"}, "EOPNOTSUPP"),
    ],
)
def test_without_posix_fallocate_a_full_file_system_is_a_full_store_and_no_crash(
    engine: str, options: dict[str, str], how: str
) -> None:
    run_on(SMALL_SHM, fill_without_fallocate, engine, options, how)


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


# ---- packages that are not installed


class Blocker(MetaPathFinder):
    """Lets nobody find some packages."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse them; leave all else to others."""
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("absent", ["posix", "sysv"])
def test_without_its_package_an_engine_says_what_to_install_and_the_others_work(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"{absent}_ipc"
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Blocker(package), *sys.meta_path])
    refuses(EngineUnavailable, absent, f"pip install {package}", "available here", "'mmap'")
    for engine in ENGINES:
        if engine != absent:
            works(engine)


# ---- users

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that other users can pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@needs_root
@every_engine
def test_a_user_without_rights_to_the_directory_is_told_which_to_ask_for(
    engine: str, public_path: Path
) -> None:
    (public_path / "closed").mkdir(mode=0o700)

    def stranger() -> None:
        become_nobody()
        for directory in (public_path / "closed", public_path / "new"):
            refuses(
                StoreUnavailable,
                engine,
                str(directory),
                "Permission denied",
                "engine_options['directory']",
                directory=str(directory),
            )
        works(engine)  # where every user may

    in_child(stranger)
    assert list((public_path / "closed").iterdir()) == []


@needs_root
@every_engine
def test_a_folder_of_our_name_made_by_another_user_is_not_trusted(
    engine: str, public_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ENGINES[engine], "default_parent", classmethod(lambda cls: str(public_path))
    )
    ours = public_path / "asgi_ipc-0"
    ours.mkdir()
    os.chown(ours, 65534, 65534)
    refuses(StoreUnavailable, engine, str(ours), "belongs to user 65534")
    os.chown(ours, 0, 0)
    ours.chmod(0o777)
    refuses(StoreUnavailable, engine, str(ours), "can be written by others")
    ours.chmod(0o700)
    works(engine)
