"""Locks that a hostile member of the group, or another user, has cut, changed or replaced."""

from __future__ import annotations

import os
import stat
import struct
import tempfile
from pathlib import Path

import pytest

from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.locks.flock_locks import FileLocks
from asgi_ipc.engines.shm.segment import Location, public_token
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.hostile import GROUP, MEMBER, OWNER, as_user, ground, members_store, shared
from tests.tools.stores import (
    open_store,
    record,
)
from tests.tools.users import (
    needs_root,
)

__all__ = ["ground", "shared"]

pytestmark = needs_root


@pytest.mark.parametrize("size", [0, 1, 100])
@pytest.mark.parametrize("recorded", [1, 2, 3])
def test_locks_that_were_cut_or_changed_are_refused_with_a_remedy(
    size: int, recorded: int, ground: Path
) -> None:
    """Of a store with semaphores, which lies in shared memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        engine = open_store(Path(name))
        assert engine.session.store is not None
        if engine.session.store.lock_file.kind != 3:
            engine.destroy()
            pytest.skip("no semaphores here")
        engine.push([record(engine, b"a", b"x")])
        token = public_token(engine.session.store.store_id, "locks")
        engine.close()
        marks = Path(f"/dev/shm/asgi_ipc.{token}.marks")
        os.truncate(marks, size)
        lock = Path(name) / "store" / "lock"
        content = lock.read_bytes()
        lock.write_bytes(content[:16] + struct.pack("<H", recorded) + content[18:])
        said = ""
        try:
            open_store(Path(name)).destroy()
        except StoreUnavailable as error:
            said = str(error)
        assert not said or (str(marks) in said and "remove it" in said)
        assert said or size == 0 or recorded != 3
        for path in Path("/dev/shm").glob(f"*asgi_ipc.{token}.*"):
            path.unlink()


def test_semaphores_are_never_taken_for_a_store_of_a_group(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    as_user(MEMBER, lambda: members_store(shared, kind).close())
    lock = shared / "store" / "lock"
    content = lock.read_bytes()
    lock.write_bytes(content[:16] + struct.pack("<H", 3) + content[18:])

    def victim() -> None:
        with pytest.raises(StoreUnavailable, match="open to a group has no semaphores"):
            members_store(shared, kind)

    as_user(OWNER, victim)
    lock.write_bytes(content)
    as_user(MEMBER, lambda: members_store(shared, kind).destroy())


def test_a_fifo_put_in_place_of_a_lock_keeps_its_rights(shared: Path) -> None:
    (shared / "store").mkdir()
    os.chown(shared / "store", 0, GROUP)
    (shared / "store").chmod(0o770)
    fifo = shared / "store" / f"lock.{bytes(16).hex()}.1"
    os.mkfifo(fifo, 0o600)
    os.chown(fifo, 0, 0)
    opened = StoreDirectory.open(Location(str(shared / "store"), 0o660, GROUP, private=False))
    locks = FileLocks(str(shared / "store" / "lock"), -1, opened)
    with pytest.raises(StoreUnavailable, match="not a plain file"):
        locks.prepare(bytes(16), create=True)
    status = fifo.lstat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o600, 0)
    opened.close()
