"""A store's owner, a hostile member of its group, and their folders, for tests of trust.

The tests become these users, and so need root.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.segment import Location
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.stores import (
    ENGINES,
    in_child,
    open_store,
    record,
)
from tests.tools.users import users_of_worker

OWNER, MEMBER, STRANGER = users_of_worker(20_001, 20_002, 20_003)
(GROUP,) = users_of_worker(12_345)


def remove_memory_of(*users: int) -> None:
    """Remove the shared memory of users: a store whose lock file was forged leaves some."""
    for path in Path("/dev/shm").glob("*asgi_ipc*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid in users:
                path.unlink()
    with contextlib.suppress(OSError, ImportError):
        import sysv_ipc

        for row in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            words = row.split()
            if int(words[7]) in users:
                with contextlib.suppress(sysv_ipc.Error):
                    sysv_ipc.remove_shared_memory(int(words[1]))


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> type[SharedMemoryEngine]:
    found: type[SharedMemoryEngine] = request.param
    return found


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder of root's that all users can pass through."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
    remove_memory_of(OWNER, MEMBER, STRANGER)


@pytest.fixture
def shared(ground: Path) -> Path:
    """A folder for stores of the group."""
    folder = ground / "shared"
    folder.mkdir()
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2770)
    return folder


@pytest.fixture
def home(ground: Path) -> Path:
    """What is the owner's alone."""
    folder = ground / "home"
    folder.mkdir(mode=0o700)
    (folder / "precious").write_text("precious")
    (folder / "precious").chmod(0o600)
    for path in (folder, folder / "precious"):
        os.chown(path, OWNER, OWNER)
    return folder


def assert_untouched(home: Path, names: tuple[str, ...] = ("precious",)) -> None:
    """Nothing in the owner's home was made, changed, opened to others or removed."""
    assert sorted(path.name for path in home.iterdir()) == sorted(names)
    assert (home / "precious").read_text() == "precious"
    for path, mode in ((home, 0o700), (home / "precious", 0o600)):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (OWNER, OWNER)
        assert stat.S_IMODE(status.st_mode) == mode, path


def become(uid: int) -> None:
    """The group is the first one of both: what is private to a user belongs to it as well."""
    os.setgroups([GROUP])
    os.setgid(GROUP)
    os.setuid(uid)


def as_user(uid: int, function: Callable[[], object]) -> None:
    def changed() -> None:
        become(uid)
        function()

    in_child(changed)


def members_store(folder: Path, kind: type[SharedMemoryEngine], **options: Any) -> Any:
    return open_store(folder, kind, group=GROUP, **options)


def private_store(home: Path, kind: type[SharedMemoryEngine], **options: Any) -> bytes:
    """Make a store of the owner's alone, in use by no process; its id."""
    reader, writer = os.pipe()

    def make() -> None:
        engine = open_store(home, kind, **options)
        engine.push([record(engine, b"a", b"secret")])
        assert engine.session.store is not None
        os.write(writer, engine.session.store.store_id)
        engine.close()

    as_user(OWNER, make)
    store_id = os.read(reader, 16)
    os.close(reader)
    os.close(writer)
    return store_id


def assert_secret_is_kept(home: Path, kind: type[SharedMemoryEngine], **options: Any) -> None:
    def look() -> None:
        engine = open_store(home, kind, **options)
        assert engine.pop(b"a")[0].payload == b"secret"
        engine.destroy()

    as_user(OWNER, look)


def clear_up(uid: int) -> None:
    """Remove a user's memory, in a child process: that of stores taken away under the user."""
    become(uid)
    root = StoreDirectory(Location("/", 0o600, None), os.open("/", os.O_RDONLY))
    for engine in (PosixEngine, SysVEngine):
        for locator in engine.segment.left():
            memory = engine.segment.attach(root, locator)
            memory.unlink()
            memory.close()
