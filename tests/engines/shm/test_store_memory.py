"""Whose memory it is: a store opens and removes what is proved to be its own, and nothing else."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.shm import lock_file
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.files import FileMemory
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.segment import Location
from asgi_ipc.engines.shm.store_memory import locators
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.commands import check, header_of, look_at_store, remove
from tests.tools.hostile import (
    GROUP,
    MEMBER,
    OWNER,
    as_user,
    assert_secret_is_kept,
    ground,
    home,
    members_store,
    private_store,
    shared,
)
from tests.tools.stores import (
    in_child,
    record,
)
from tests.tools.users import (
    needs_root,
)

__all__ = ["ground", "home", "shared"]

pytestmark = needs_root


@pytest.mark.parametrize("what", ["a store", "a store of the group", "blank"])
@pytest.mark.parametrize("ready", [0, 1])
def test_a_name_that_belongs_to_other_memory_removes_nothing(
    kind: type[SharedMemoryEngine],
    what: str,
    ready: int,
    shared: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key of 31 bits can be looked for; that of a longer name stands for a broken digest."""
    if what == "blank" and kind is not SysVEngine:
        pytest.skip("its names hold the whole token")
    options: dict[str, Any] = {} if what == "a store" else {"group": GROUP}
    store_id = private_store(home, kind, **options)
    theirs = list(locators(kind.segment, store_id).values())
    gid = options.get("group")
    location = Location(str(home / "store"), 0o660 if gid else 0o600, gid, private=False)

    def make() -> None:
        members_store(shared, kind).close()

    as_user(MEMBER, make)
    lock = shared / "store" / "lock"
    genuine = bytearray(lock.read_bytes())
    genuine[18:22] = struct.pack("<I", ready)
    genuine[22:38] = os.urandom(16)
    lock.write_bytes(genuine)

    def victim() -> None:
        if what == "blank":  # Another program's, which begins with zeros.
            memory = kind.segment.attach(StoreDirectory.open(location), theirs[0])
            memory.view[:512] = bytes(512)
            memory.close()
        by_name = dict(zip(("channels", "groups"), theirs, strict=True))
        if kind is MmapEngine:  # Its memory lies in the directory: this is a link to theirs.
            for name in theirs:
                with contextlib.suppress(OSError):
                    os.link(home / "store" / name, shared / "store" / name)
        monkeypatch.setattr(
            kind.segment, "locator_for", staticmethod(lambda name, token: by_name[name])
        )
        for call in (check, remove):
            with contextlib.suppress(StoreUnavailable):
                call("store", kind.name, {"directory": str(shared), "group": GROUP})
        with contextlib.suppress(StoreUnavailable):
            members_store(shared, kind)
        with contextlib.suppress(StoreUnavailable):
            members_store(shared, kind).destroy()

    as_user(OWNER, victim)
    if what != "blank":
        if kind is MmapEngine:
            for name in theirs:
                with contextlib.suppress(FileNotFoundError):
                    (shared / "store" / name).unlink()
        assert_secret_is_kept(home, kind, **options)
    else:

        def still_there() -> None:
            for name in theirs:
                memory = kind.segment.attach(StoreDirectory.open(location), name)
                assert memory.is_linked()
                memory.unlink()
                memory.close()

        as_user(OWNER, still_there)


@pytest.mark.parametrize("name", ["channels", "groups"])
def test_memory_that_also_has_another_name_is_refused_and_left(
    name: str, shared: Path, home: Path
) -> None:
    """It may have been another file of this user's first; here it is the store's own."""

    def scenario() -> None:
        members_store(shared, MmapEngine).close()
        (memory,) = (shared / "store").glob(f"{name}.*")
        os.link(memory, shared / "store" / "another")
        with pytest.raises(StoreUnavailable, match="hard links"):
            members_store(shared, MmapEngine)
        left = remove("store", "mmap", {"directory": str(shared), "group": GROUP})
        assert [text for text in left if "hard links" in text and str(memory.name) in text]
        assert memory.exists()

    as_user(OWNER, scenario)


def test_a_member_that_may_not_remove_the_memory_is_refused_before_anything_is_changed(
    kind: type[SharedMemoryEngine], shared: Path
) -> None:
    as_user(OWNER, lambda: members_store(shared, kind).close())

    def member() -> None:
        engine = members_store(shared, kind)
        engine.push([record(engine, b"a", b"kept")])
        if kind is MmapEngine:
            engine.destroy()
            return
        with pytest.raises(StoreUnavailable, match=f"belongs to user {OWNER}.*flush"):
            engine.destroy()
        assert engine.pop(b"a")[0].payload == b"kept"
        engine.close()

    as_user(MEMBER, member)
    as_user(OWNER, lambda: members_store(shared, kind).destroy())
    assert list(shared.iterdir()) == []


def test_root_looks_at_a_users_store_and_nothing_of_it_is_changed(
    kind: type[SharedMemoryEngine], home: Path, shared: Path
) -> None:
    private_store(home, kind)
    with pytest.raises(StoreUnavailable, match=rf"belongs to user {OWNER}"):
        check("store", kind.name, {"directory": str(home)})
    found = look_at_store(kind.name, "store", {"directory": str(home)})
    assert not found["works"]
    assert_secret_is_kept(home, kind)
    as_user(OWNER, lambda: members_store(shared, kind).close())
    options = {"directory": str(shared), "group": GROUP}
    before = sorted(
        (str(path), path.lstat().st_uid, path.lstat().st_mode) for path in shared.rglob("*")
    )
    assert check("store", kind.name, options) == []
    assert look_at_store(kind.name, "store", options)["works"]
    after = sorted(
        (str(path), path.lstat().st_uid, path.lstat().st_mode) for path in shared.rglob("*")
    )
    assert after == before
    assert header_of(Location(str(shared / "store"), 0o660, GROUP, False)) is not None
    as_user(OWNER, lambda: members_store(shared, kind).destroy())


@pytest.mark.parametrize("kind", [PosixEngine, MmapEngine])
def test_memory_that_is_cut_in_the_moment_it_is_opened_is_a_documented_error(
    kind: type[SharedMemoryEngine], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = members_store(shared, kind)

    def cut(descriptor: int, size: int) -> mmap.mmap:
        os.ftruncate(descriptor, size // 2)
        return mapped(descriptor, size)

    mapped = mmap.mmap
    before = dict(lock_file._registry)
    monkeypatch.setattr(mmap, "mmap", cut)
    with pytest.raises(StoreUnavailable, match="cut while it was opened"):
        members_store(shared, kind)
    assert lock_file._registry == before
    monkeypatch.undo()
    engine.destroy()


@pytest.mark.parametrize("kind", [PosixEngine, MmapEngine])
@pytest.mark.parametrize("which", [layout.CHANNELS, layout.GROUPS])
def test_memory_that_a_member_has_stretched_is_refused_and_takes_none(
    kind: type[SharedMemoryEngine], which: int, shared: Path
) -> None:
    size = 1 << 36

    def stretch() -> None:
        engine = members_store(shared, kind)
        assert engine.session.store is not None
        memory = engine.session.store.locked_segments[which].segment
        assert isinstance(memory, FileMemory)
        os.ftruncate(memory._descriptor, size)
        geometry = layout.Geometry.of(which, size)
        for word, value in {
            layout.W_SIZE: size,
            layout.W_EXTENT_WORDS: geometry.extent_words,
            layout.W_BUCKETS: geometry.buckets,
            # The next to enter writes all of what a store begins with.
            layout.STATE: layout.FORMATTING,
        }.items():
            engine.session.store.locked_segments[which].words[word] = value
        os._exit(0)

    as_user(MEMBER, stretch)

    def victim() -> None:
        for opened in (
            lambda: members_store(shared, kind),
            lambda: check("store", kind.name, {"directory": str(shared), "group": GROUP}),
        ):
            with pytest.raises(StoreUnavailable, match="stretched"):
                opened()

    as_user(OWNER, victim)
    in_child(victim)
    remove("store", kind.name, {"directory": str(shared), "group": GROUP})
    as_user(OWNER, lambda: members_store(shared, kind).destroy())
