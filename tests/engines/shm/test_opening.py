"""Opening a store: what is refused, what is recreated, and that there is never a second one."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines.shm import processes
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.stores import (
    ENGINES,
    KIB,
    assert_meet,
    assert_sound,
    in_child,
    open_store,
    record,
    unlink_memory,
)
from tests.tools.users import (
    NOBODY,
    as_nobody,
    needs_root,
    public_path,
    users_of_worker,
)

__all__ = ["public_path"]

MEMBER, STRANGER, GROUP = users_of_worker(62_001, 62_002, 62_003)


def segment_file(directory: Path, name: str = "channels") -> Path:
    (found,) = (directory / "store").glob(f"{name}.*")
    return found


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def closed_store(directory: Path) -> None:
    engine = open_store(directory)
    engine.push([record(engine, b"a", b"precious")])
    engine.close()


@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        (layout.W_VERSION, 99, ["0x63", hex(layout.VERSION)]),
        (layout.W_BYTE_ORDER, 0x0807060504030201, ["0x807060504030201", "0x102030405060708"]),
        (layout.W_KIND, 2, ["kind"]),
        (layout.W_EXTENT_WORDS, 5, ["extent size"]),
        (layout.W_STORE_ID, 5, ["belongs to store"]),
        (layout.W_MAGIC, 5, ["no mark"]),
    ],
)
def test_memory_that_is_not_what_it_should_be_is_refused_and_left_alone(
    tmp_path: Path, word: int, value: int, said: list[str]
) -> None:
    closed_store(tmp_path)
    path = segment_file(tmp_path)
    overwrite(path, word * 8, struct.pack("=Q", value))
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable) as caught:
        open_store(tmp_path)
    for text in said:
        assert text in str(caught.value)
    assert path.read_bytes() == before


def test_a_foreign_file_in_place_of_the_lock_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    lock = tmp_path / "store" / "lock"
    lock.write_text("a shopping list")
    lock.chmod(0o600)
    with pytest.raises(StoreUnavailable, match="not a lock file of asgi_ipc"):
        open_store(tmp_path)
    assert lock.read_text() == "a shopping list"


def test_a_symbolic_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    (tmp_path / "store" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="lock' is not a plain file"):
        open_store(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_symbolic_link_in_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "store").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="not a directory"):
        open_store(tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    closed_store(tmp_path)
    (tmp_path / "store").chmod(0o777)
    with pytest.raises(StoreUnavailable, match="can be written by others"):
        open_store(tmp_path)


@needs_root
@pytest.mark.parametrize("kind", ENGINES)
def test_another_users_store_is_refused(kind: type[SharedMemoryEngine], public_path: Path) -> None:
    tmp_path = public_path
    open_store(tmp_path, kind).close()

    def stranger() -> None:
        with pytest.raises(StoreUnavailable, match="belongs to user 0"):
            open_store(tmp_path, kind)

    as_nobody(stranger)
    os.chown(tmp_path / "store", NOBODY, NOBODY)
    with pytest.raises(StoreUnavailable, match=f"belongs to user {NOBODY}"):
        open_store(tmp_path, kind)
    os.chown(tmp_path / "store", 0, 0)
    open_store(tmp_path, kind).destroy()


@needs_root
@pytest.mark.parametrize("kind", ENGINES)
def test_a_store_opened_to_a_group_serves_its_members_and_nobody_else(
    kind: type[SharedMemoryEngine], public_path: Path
) -> None:
    shared = public_path / "shared"
    engine = open_store(shared, kind, group=GROUP)
    try:
        engine.push([record(engine, b"a", b"for the group")])

        def user(uid: int, gid: int) -> SharedMemoryEngine:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            return open_store(shared, kind, group=GROUP)

        def member() -> None:
            mine = user(MEMBER, GROUP)
            assert mine.pop(b"a")[0].payload == b"for the group"
            bell = mine.bell()
            mine.push([record(mine, b"b", b"from a member")])
            bell.close()
            mine.close()

        def stranger() -> None:
            with pytest.raises(StoreUnavailable):
                user(STRANGER, STRANGER)

        def destroyer() -> None:
            # Where only its maker may remove memory, that is said, and nothing is changed.
            mine = user(MEMBER, GROUP)
            if kind is MmapEngine:
                mine.destroy()
                return
            with pytest.raises(StoreUnavailable, match=r"belongs to user 0 \(root\), who alone"):
                mine.destroy()
            assert mine.pop(b"kept")[0].payload == b"not lost"
            mine.close()

        in_child(member)
        in_child(stranger)
        assert engine.pop(b"b")[0].payload == b"from a member"
        engine.push(
            [record(engine, b"a", b"lost with the store"), record(engine, b"kept", b"not lost")]
        )
        in_child(destroyer)
        assert len(engine.pop(b"a")) == (kind is not MmapEngine)
        engine.push([record(engine, b"a", b"in a new store")])
        in_child(lambda: user(MEMBER, GROUP).close())
    finally:
        engine.destroy()
    assert list(shared.iterdir()) == []


def test_a_store_without_a_free_slot_names_itself_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SLOTS", 1)
    first = open_store(tmp_path)
    said = f"the store at '{tmp_path}/store' already has 1 processes.*another prefix"
    with pytest.raises(StoreUnavailable, match=said):
        open_store(tmp_path)
    first.destroy()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_second_opener_with_other_sizes_takes_the_store_as_it_is_and_warns(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    first = open_store(tmp_path, kind)
    try:
        first.push([record(first, b"a", b"hello")])
        with pytest.warns(RuntimeWarning, match="channel_memory=524288.*1048576"):
            second = open_store(tmp_path, kind, channel_memory=1024 * KIB)
        assert second.pop(b"a")[0].payload == b"hello"
        second.close()
    finally:
        first.destroy()


def test_the_warning_about_other_sizes_points_at_the_line_that_made_the_layer(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"engine": "mmap", "engine_options": {"directory": tmp_path}}
    first = SyncIPCChannelLayer("sizes", **options, channel_memory=512 * KIB)
    options["engine_options"] = {"directory": str(tmp_path)}  # Else they share an engine.
    with pytest.warns(RuntimeWarning, match="channel_memory") as caught:
        second = SyncIPCChannelLayer("sizes", **options, channel_memory=1024 * KIB)
    with pytest.warns(RuntimeWarning, match="channel_memory") as caught_of_engine:
        MmapEngine(
            "sizes", directory=tmp_path, channel_memory=1024 * KIB, group_memory=20 << 20
        ).close()
    assert {each.filename for each in (*caught, *caught_of_engine)} == {__file__}
    second.close()
    first.destroy()


def test_other_sizes_are_told_once_on_standard_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"engine": "mmap", "engine_options": {"directory": str(tmp_path)}}
    with SyncIPCChannelLayer("sizes", **options, channel_memory=512 * KIB) as first:
        program = (
            "import logging, sys; from asgi_ipc import SyncIPCChannelLayer as Layer\n"
            "if sys.argv[1:]: logging.basicConfig(format='%(message)s')\n"
            f"Layer('sizes', **{options!r}, channel_memory={1024 * KIB}).close()"
        )
        for arguments, times in ((), 1), (("logs",), 2):
            done = subprocess.run(
                [sys.executable, "-c", program, *arguments],
                capture_output=True,
                text=True,
                timeout=300,
                check=True,
            )
            assert done.stderr.count("that size stays") == times, done.stderr
        # A second layer of this process uses what the first has opened.
        with SyncIPCChannelLayer("sizes", **options, channel_memory=512 * KIB):
            assert not caplog.records
        with SyncIPCChannelLayer("sizes", **options, channel_memory=1024 * KIB):
            (told,) = caplog.messages
        assert "'sizes' with channel_memory=524288, so 1048576 is ignored" in told
        first.destroy()


def test_after_a_reboot_the_store_is_started_afresh(tmp_path: Path) -> None:
    closed_store(tmp_path)
    old = segment_file(tmp_path)
    overwrite(tmp_path / "store" / "lock", 14 + 2 + 2 + 4 + 16, os.urandom(16))
    engine = open_store(tmp_path)
    assert engine.pop(b"a") == []
    assert not old.exists()
    engine.destroy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ENGINES)
def test_memory_removed_by_hand_does_not_split_the_store(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    first = open_store(tmp_path, kind)
    unlink_memory(first)
    first.upkeep.due = 0
    first.statistics()
    second = open_store(tmp_path, kind)
    try:
        assert_meet(first, second)
    finally:
        first.close()
        second.destroy()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_directory_removed_by_hand_does_not_split_the_store(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    first = open_store(tmp_path, kind)
    for path in (tmp_path / "store").iterdir():
        path.unlink()
    (tmp_path / "store").rmdir()
    second = open_store(tmp_path, kind)
    try:
        assert_meet(first, second)
    finally:
        first.close()
        second.destroy()


@pytest.mark.parametrize("kind", ENGINES)
def test_processes_inside_a_destroyed_store_go_on_in_the_new_one(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    first, second = open_store(tmp_path, kind), open_store(tmp_path, kind)
    identity = first.identity
    first.push([record(first, b"a")])
    second.destroy()
    with pytest.raises(StoreUnavailable, match="closed"):
        second.pop(b"a")
    third = open_store(tmp_path, kind)
    try:
        assert first.pop(b"a") == []
        assert first.identity == identity, "channel names given out must stay this process's"
        assert_meet(first, third)
    finally:
        first.close()
        third.destroy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ENGINES)
def test_two_engines_of_one_process_on_one_store_do_not_take_each_other_for_dead(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    first, second = open_store(tmp_path, kind), open_store(tmp_path, kind)
    try:
        assert first.identity != second.identity
        first.put(b"t", b"m", 1 << 62, first.identity)
        second.upkeep.due = 0
        second.session.channels.words[layout.NEXT_SWEEP] = 0
        assert second.members(b"t").names == (b"m",)
        assert second.statistics()["processes"] == 2
        # Closing one must not drop the locks of the other, as closing a file would.
        second.close()

        def other_process() -> None:
            third = open_store(tmp_path, kind)
            third.session.channels.words[layout.NEXT_SWEEP] = 0
            assert third.members(b"t").names == (b"m",)

        in_child(other_process)
    finally:
        first.destroy()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_forked_child_is_a_process_of_its_own(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    engine = open_store(tmp_path, kind)
    try:
        identity, bell = engine.identity, engine.bell()
        assert engine.pop(b"a", 1, bell) == []

        def child() -> None:
            assert engine.identity != identity
            assert bell.fileno() == -1, "the parent's bell must die with the parent"
            engine.push([record(engine, b"a", b"from the child")])
            engine.close()

        in_child(child)
        assert engine.identity == identity
        bell.clear()
        assert engine.pop(b"a")[0].payload == b"from the child"
        assert_sound(engine)
        assert bell.fileno() >= 0
    finally:
        engine.destroy()
