"""The lock file: whatever a hostile member of the group writes there, only the store suffers."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_ipc.engines.shm import lock_file
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.segment import Location
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.commands import check, look_at_store, remove
from tests.tools.hostile import (
    GROUP,
    MEMBER,
    OWNER,
    as_user,
    assert_secret_is_kept,
    assert_untouched,
    clear_up,
    ground,
    home,
    members_store,
    private_store,
    shared,
)
from tests.tools.stores import (
    ENGINES,
    in_child,
)
from tests.tools.users import (
    NAMES_WORKER,
    needs_root,
)

__all__ = ["ground", "home", "shared"]

pytestmark = needs_root


def forgeries(genuine: bytes) -> Iterator[tuple[str, bytes]]:
    """Lock files that are wrong in one field, or short, or of nothing that makes sense."""
    dice = random.Random(15)
    sizes = {"magic": 14, "version": 2, "kind": 2, "ready": 4, "store id": 16, "boot id": 16}
    sizes["engine"] = lock_file.LONGEST_NAME
    assert sum(sizes.values()) == lock_file._FORMAT.size == len(genuine)
    special = {
        "version": [struct.pack("<H", number) for number in (0, 1, 2, 99, 0xFFFF)],
        "kind": [struct.pack("<H", number) for number in (0, 1, 2, 3, 4, 0xFFFF)],
        "ready": [struct.pack("<I", number) for number in (0, 2, 0xFFFFFFFF)],
        "engine": [
            name.ljust(16, b"\0")
            for name in (b"posix", b"sysv", b"mmap", b"memory", b"../../x", b"os:system", b"/etc")
        ],
    }
    offset = 0
    for name, size in sizes.items():
        values = [bytes(size), b"\xff" * size, dice.randbytes(size), *special.get(name, [])]
        for number, value in enumerate(values):
            yield f"{name} {number}", genuine[:offset] + value + genuine[offset + size :]
        offset += size
    for cut in (1, 13, 17, 40, len(genuine) - 1):
        yield f"cut at {cut}", genuine[:cut]
    yield "longer", genuine + b"/etc/passwd" * 100
    # Not ready, of another boot, of another engine: all that has a store be replaced.
    for engine in (b"posix", b"sysv", b"mmap"):
        for ready in (0, 1):
            head = struct.pack("<14sHHI", genuine[:14], 99, 1, ready)
            yield (
                f"old {engine.decode()} {ready}",
                (head + dice.randbytes(32) + engine.ljust(16, b"\0")),
            )


def try_everything(folder: Path, kind: type[SharedMemoryEngine]) -> None:
    """All that an unsuspecting user does with a store; an error is as good as anything."""
    options = {"directory": str(folder), "group": GROUP}
    with contextlib.suppress(StoreUnavailable):
        check("store", kind.name, options)
    look_at_store(kind.name, "store", options)
    with contextlib.suppress(StoreUnavailable):
        remove("store", kind.name, options)
    with contextlib.suppress(StoreUnavailable):
        members_store(folder, kind).close()
    with contextlib.suppress(StoreUnavailable):
        members_store(folder, kind).destroy()


def test_no_test_that_runs_at_the_same_time_has_these_users(worker_id: str) -> None:
    """It would remove all that they have, as tests here do when they end."""
    assert os.environ.get(NAMES_WORKER, "master") == worker_id


def test_a_forged_lock_file_reaches_nothing_but_the_store(
    kind: type[SharedMemoryEngine], shared: Path, home: Path
) -> None:
    store_id = private_store(home, kind)
    kept = objects(OWNER)
    lock = shared / "store" / "lock"

    def victim() -> None:
        try_everything(shared, kind)

    def make() -> None:
        members_store(shared, kind).close()

    as_user(MEMBER, make)
    genuine = lock.read_bytes()
    forged = [*forgeries(genuine)]
    # The owner's own id, as if it could be known.
    forged.append(("another store's", genuine[:22] + store_id + genuine[38:]))
    for name, content in forged:
        lock.parent.mkdir(exist_ok=True)
        lock.parent.chmod(0o770)
        os.chown(lock.parent, MEMBER, GROUP)
        lock.write_bytes(content)
        os.chown(lock, MEMBER, GROUP)
        lock.chmod(0o660)
        as_user(OWNER, victim)
        assert objects(OWNER) >= kept, name
        assert_untouched(home, ("precious", "store"))
        in_child(lambda: try_everything(shared, kind))  # root looks at it, too
        assert objects(OWNER) >= kept, name
        assert_untouched(home, ("precious", "store"))
    assert_secret_is_kept(home, kind)
    for engine in ENGINES:
        for locator in engine.segment.left():
            with contextlib.suppress(OSError):
                root = StoreDirectory(Location("/", 0o600, None), os.open("/", os.O_RDONLY))
                memory = engine.segment.attach(root, locator)
                if memory.owner().gid == GROUP:
                    memory.unlink()
                memory.close()
                root.close()
    # What could not be proved to be the store's was left.
    in_child(lambda: clear_up(MEMBER))


@pytest.mark.parametrize("late", [False, True])
def test_the_lock_file_of_another_store_put_in_place_keeps_its_locks(
    late: bool, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open a hard link of it and close that again would drop them all."""

    def nothing_yet(self: StoreDirectory, name: str) -> os.stat_result:
        raise FileNotFoundError

    def scenario() -> None:
        mine = members_store(shared / "one", MmapEngine)
        members_store(shared / "two", MmapEngine).close()
        lock = shared / "two" / "store" / "lock"
        lock.unlink()
        os.link(shared / "one" / "store" / "lock", lock)
        with monkeypatch.context() as patch:
            if late:  # Put there after it was looked at, and before it is opened.
                patch.setattr(StoreDirectory, "status", nothing_yet)
            with pytest.raises(StoreUnavailable, match="hard links"):
                members_store(shared / "two", MmapEngine)

        def other() -> None:
            newcomer = members_store(shared / "one", MmapEngine)
            assert newcomer.statistics()["processes"] == 2
            newcomer.close()

        lock.unlink()
        in_child(other)
        mine.destroy()

    os.chmod(shared, 0o2770)
    in_child(scenario)


def test_a_private_file_put_in_place_of_the_lock_file_is_not_given_to_the_group(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    """It is empty still, and its writer has it open."""
    private = shared / "private"
    descriptor = os.open(private, os.O_RDWR | os.O_CREAT, 0o600)
    os.fchown(descriptor, 0, 0)

    def put() -> None:
        (shared / "store").mkdir()
        (shared / "store").chmod(0o770)
        os.rename(private, shared / "store" / "lock")

    as_user(MEMBER, put)
    in_child(lambda: members_store(shared, kind).close())
    status = os.fstat(descriptor)
    assert (stat.S_IMODE(status.st_mode), status.st_gid, status.st_size) == (0o600, 0, 0)
    assert status.st_ino != (shared / "store" / "lock").stat().st_ino
    os.close(descriptor)
    in_child(lambda: members_store(shared, kind).destroy())


def objects(uid: int) -> set[str]:
    """Shared memory and segments of a user."""
    found = set()
    for path in Path("/dev/shm").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Other tests run at the same time.
            status = path.lstat()
            if status.st_uid == uid:
                found.add(f"{path} {status.st_size}")
    with contextlib.suppress(OSError):
        for row in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            if row.split()[7] == str(uid):
                found.add(f"segment {row.split()[1]}")
    return found
