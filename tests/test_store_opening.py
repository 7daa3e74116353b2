"""Opening a store: what is refused, what is made afresh, and that there is never a second one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines.base import Refused
from asgi_ipc.engines.mmap import MmapEngine, MmapSegment
from asgi_ipc.engines.posix import PosixEngine
from asgi_ipc.engines.sysv import SysVEngine
from asgi_ipc.exceptions import OptionError, StoreFull, StoreUnavailable
from asgi_ipc.store import layout, processes
from asgi_ipc.store.engine import SharedMemoryEngine

from .stores import KIB, assert_sound, in_child, open_store, record

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
ENGINES = [PosixEngine, SysVEngine, MmapEngine]


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that other users can pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


class BytesPath:
    """A path of bytes."""

    def __fspath__(self) -> bytes:
        return b"/tmp"


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


def test_a_lock_file_of_another_format_is_refused_with_both_named(tmp_path: Path) -> None:
    closed_store(tmp_path)
    overwrite(tmp_path / "store" / "lock", 14, struct.pack("<H", 7))
    with pytest.raises(StoreUnavailable, match=rf"format 7 .* uses format {layout.VERSION}"):
        open_store(tmp_path)


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
    with pytest.raises(StoreUnavailable, match="lock file"):
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
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(StoreUnavailable, match="belongs to user 0"):
            open_store(tmp_path, kind)

    in_child(stranger)
    os.chown(tmp_path / "store", 65534, 65534)
    with pytest.raises(StoreUnavailable, match="belongs to user 65534"):
        open_store(tmp_path, kind)
    os.chown(tmp_path / "store", 0, 0)
    open_store(tmp_path, kind).destroy()


@needs_root
@pytest.mark.parametrize("kind", ENGINES)
def test_a_store_opened_to_a_group_serves_its_members_and_nobody_else(
    kind: type[SharedMemoryEngine], public_path: Path
) -> None:
    shared = public_path / "shared"
    engine = open_store(shared, kind, group=12_345)
    try:
        engine.push([record(engine, b"a", b"for the group")])

        def user(uid: int, gid: int) -> SharedMemoryEngine:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            return open_store(shared, kind, group=12_345)

        def member() -> None:
            mine = user(20_001, 12_345)
            assert mine.pop(b"a")[0].payload == b"for the group"
            bell = mine.bell()
            mine.push([record(mine, b"b", b"from a member")])
            bell.close()
            mine.close()

        def stranger() -> None:
            with pytest.raises(StoreUnavailable):
                user(20_002, 20_002)

        def destroyer() -> None:
            # Some systems let only the owner remove memory. Then that is said, and the store is
            # gone all the same: who comes next starts it afresh.
            with contextlib.suppress(StoreUnavailable):
                user(20_001, 12_345).destroy()

        in_child(member)
        in_child(stranger)
        assert engine.pop(b"b")[0].payload == b"from a member"
        engine.push([record(engine, b"a", b"lost with the store")])
        in_child(destroyer)
        assert engine.pop(b"a") == []
        engine.push([record(engine, b"a", b"in a new store")])
        in_child(lambda: user(20_001, 12_345).close())
    finally:
        engine.destroy()
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": 0o666}, r"'mode'\]=0o666: it must be 0o600, or 0o660 with a group"),
        ({"mode": 0o660}, "name it with engine_options\\['group'\\]"),
        ({"mode": 0o600, "group": 0}, "0o600 keeps out group 0"),
        ({"mode": "rw"}, r"'mode'\]='rw': it must be"),
        ({"mode": 384.0}, r"'mode'\]=384.0: it must be"),
        ({"mode": True}, "mode"),
        ({"group": "no such group"}, "no such group"),
        ({"group": ""}, r"'group'\]='': it must be the name or number"),
        ({"group": "a\0b"}, "getent group"),
        ({"group": "\ud800"}, "getent group"),
        ({"group": b"root"}, "getent group"),
        ({"group": True}, "getent group"),
        ({"group": 0.0}, "getent group"),
        ({"group": -1}, "group"),
        ({"group": 2**32 - 1}, "4294967295"),
        ({"clock": 3}, r"'clock'\]=3: it must be callable"),
        ({"clock": None}, "clock"),
        ({"channel_memory": 1000}, "channel_memory=1000"),
    ],
)
def test_a_bad_option_is_named_with_its_value(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        open_store(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o400, 0o060, 0, -1])
def test_a_mode_that_gives_the_group_a_part_of_the_rights_is_refused(
    tmp_path: Path, mode: int
) -> None:
    with pytest.raises(OptionError, match="reads and writes it"):
        open_store(tmp_path, mode=mode, group=os.getgid())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "directory", [5, b"/tmp", "", "a\0b", "/tmp/\ud800", True, ["/tmp"], BytesPath()]
)
def test_a_directory_that_names_no_folder_is_refused(directory: Any) -> None:
    said = re.escape(f"engine_options['directory']={directory!r}: it must be a str or pathlib.Path")
    with pytest.raises(OptionError, match=said):
        open_store(directory)


@pytest.mark.parametrize("directory", ["relative", Path("relative"), ".", "./a/../b"])
def test_a_directory_that_depends_on_the_current_folder_is_refused_and_the_absolute_one_named(
    directory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = str(tmp_path / directory).replace("/a/..", "")
    with pytest.raises(OptionError, match=re.escape(f"name {absolute!r}")):
        open_store(directory)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_the_home_folder_is_named_where_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(OptionError, match=re.escape(f"name '{tmp_path}/stores'")):
        open_store(Path("~/stores"))


def test_a_relative_directory_is_refused_where_the_current_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(OptionError, match="it must be an absolute path"):
        open_store(Path("relative"))


@pytest.mark.parametrize("name", ["", "x" * 17, "ä", "a\nb", "a\0", 5, None])
def test_an_engine_whose_name_does_not_fit_the_lock_file_is_refused(
    name: Any, tmp_path: Path
) -> None:
    class Misnamed(MmapEngine):
        pass

    Misnamed.name = name
    with pytest.raises(TypeError, match=r"Misnamed has the name .* 1 to 16 printable ASCII"):
        open_store(tmp_path, Misnamed)
    assert list(tmp_path.iterdir()) == []


def test_two_engines_with_the_longest_name_share_a_store(tmp_path: Path) -> None:
    class Longest(MmapEngine):
        name = "x" * 16

    first, second = open_store(tmp_path, Longest), open_store(tmp_path, Longest)
    assert_meet(first, second)
    second.close()
    first.destroy()


def test_a_store_that_has_as_many_processes_as_it_can_says_which_it_is_and_what_to_do(
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


def test_the_warning_about_other_sizes_points_at_who_made_the_layer(tmp_path: Path) -> None:
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
    assert first._store is not None
    for locator in first._store._record[3:5]:
        kind.segment.unlink(first._place, locator)
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
def test_those_inside_a_destroyed_store_go_on_in_the_new_one(
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


def assert_meet(first: SharedMemoryEngine, second: SharedMemoryEngine) -> None:
    """What one pushes the other pops, both ways, once each has had its regular look."""
    for engine in (first, second):
        engine._next_look = 0
        engine.statistics()
    for giver, taker in ((first, second), (second, first)):
        giver.push([record(giver, b"meet", b"here")])
        assert [each.payload for each in taker.pop(b"meet")] == [b"here"]


@pytest.mark.parametrize("kind", ENGINES)
def test_two_engines_of_one_process_on_one_store_do_not_take_each_other_for_dead(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    first, second = open_store(tmp_path, kind), open_store(tmp_path, kind)
    try:
        assert first.identity != second.identity
        first.put(b"t", b"m", 1 << 62, first.identity)
        second._next_look = 0
        second._channels.words[layout.NEXT_TEND] = 0
        assert second.members(b"t").names == (b"m",)
        assert second.statistics()["processes"] == 2
        # Closing one must not drop the locks of the other, as closing a file would.
        second.close()

        def other_process() -> None:
            third = open_store(tmp_path, kind)
            third._channels.words[layout.NEXT_TEND] = 0
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


def refusing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Make the file system full from the moment that the only item is set to True."""
    full = [False]
    reserve = MmapSegment.reserve

    def refuse(self: MmapSegment, offset: int, length: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(self, offset, length)

    monkeypatch.setattr(MmapSegment, "reserve", refuse)
    return full


def test_a_system_that_gives_no_memory_is_named_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch)[0] = True
    with pytest.raises(
        StoreUnavailable, match=r"786,432 bytes \(No space left.*KiB free"
    ) as caught:
        open_store(tmp_path)
    assert "smaller channel_memory" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_later_is_a_full_store_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = refusing(monkeypatch)
    engine = open_store(tmp_path)
    try:
        engine.push([record(engine, b"a", b"kept")])
        engine.put(b"t", b"m", 1 << 62)
        full[0] = True
        refused: list[Refused] = []
        while not refused:
            refused = engine.push([record(engine, b"b", b"x" * 1000)])
        assert refused[0].no_room
        assert "No space left" in refused[0].detail
        assert str(tmp_path) in refused[0].detail
        with pytest.raises(StoreFull, match="group_memory"):
            put_many(engine)
        assert engine.pop(b"a")[0].payload == b"kept"
        assert_sound(engine)
        # What is taken out makes room again.
        engine.pop(b"b", 10)
        assert engine.push([record(engine, b"b", b"x" * 1000)]) == []
    finally:
        engine.destroy()


def put_many(engine: SharedMemoryEngine) -> None:
    for number in range(100_000):
        engine.put(b"t", b"%d" % number, 1 << 62)


TINY = """
import sys
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.{module} import {engine} as Engine
from asgi_ipc.exceptions import StoreUnavailable
engine = Engine("tiny", channel_memory=100 << 20, group_memory=20 << 20, {options})
far = engine.clock() + 10**12
stored = 0
while True:
    refused = engine.push([Record(b"q", b"x" * 1000, far, 10**6)])
    if refused:
        break
    stored += 1
assert refused[0].no_room and "KiB free" in refused[0].detail, refused
assert stored > 50, stored
for _ in range(stored):
    assert len(engine.pop(b"q")) == 1
engine.destroy()
print("survived", stored)
"""


@needs_root
@pytest.mark.parametrize(
    ("module", "engine", "options", "mount"),
    [
        ("posix", "PosixEngine", "", "/dev/shm"),
        ("mmap", "MmapEngine", "directory='/dev/shm/d'", "/dev/shm"),
    ],
)
def test_a_file_system_of_a_megabyte_fills_up_without_a_crash(
    module: str, engine: str, options: str, mount: str
) -> None:
    script = TINY.format(module=module, engine=engine, options=options)
    command = f"mount -t tmpfs -o size=1m none {mount} && exec {sys.executable} -c '{script}'"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    script = script.replace("'", '"')
    command = f"mount -t tmpfs -o size=1m none {mount} && exec {sys.executable} -c '{script}'"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "survived" in done.stdout
