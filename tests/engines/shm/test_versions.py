"""Stores of another version of asgi_ipc: refused while it is used, and else made afresh."""

from __future__ import annotations

import os
import signal
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.lock_file import LockFileHeader
from asgi_ipc.engines.shm.locks import fcntl_locks
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.segment import Location
from asgi_ipc.engines.shm.store_memory import locators
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.commands import (
    check,
    expect_version,
    header_of,
    location_of,
    look_at_store,
    remove,
)
from tests.tools.stores import (
    KIB,
    assert_gone,
    assert_meet,
    assert_sound,
    in_child,
    open_store,
    record,
    wait,
)

ENGINES = [PosixEngine, SysVEngine, MmapEngine]
OURS = layout.VERSION
OTHER = OURS + 1


@pytest.fixture(params=["fcntl record locks", "flock"], autouse=True)
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "flock":
        monkeypatch.setattr(fcntl_locks, "record_locks_fail", lambda *_: "switched off")


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert list(tmp_path.iterdir()) == []


def become_another_version(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("asgi_ipc.engines.shm.heap.layout.VERSION", OTHER)


def by_another_version(function: Callable[[], object]) -> None:
    """Run it in a process of another version."""

    def other() -> None:
        with pytest.MonkeyPatch.context() as patch:
            become_another_version(patch)
            function()

    in_child(other)


def leave_one(directory: Path, kind: type[SharedMemoryEngine]) -> None:
    """Make a store of another version that nobody uses any more."""

    def use() -> None:
        engine = open_store(directory, kind)
        engine.push([record(engine, b"a", b"old")])
        engine.put(b"t", b"m", 1 << 62)
        engine.close()

    by_another_version(use)


def store_in(directory: Path, kind: type[SharedMemoryEngine]) -> tuple[Location, LockFileHeader]:
    """Where it is, and what its lock file says."""
    location = location_of(kind, "store", {"directory": str(directory)})
    found = header_of(location)
    assert found is not None
    return location, found


def assert_removed(location: Location, old: LockFileHeader, kind: type[SharedMemoryEngine]) -> None:
    """Nothing of the old store is left, neither memory nor files of its locks."""
    assert_gone(location, kind, list(locators(kind.segment, old.store_id).values()))
    assert not [each for each in os.listdir(location.directory) if old.store_id.hex() in each]


def test_it_is_refused_while_somebody_uses_it_who_goes_on(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    mine = open_store(tmp_path, kind)
    mine.push([record(mine, b"a", b"kept")])

    def refused() -> None:
        said = rf"format {OURS}, this asgi_ipc uses format {OTHER}, .*still use it; end"
        with pytest.raises(StoreUnavailable, match=said):
            open_store(tmp_path, kind)

    by_another_version(refused)
    assert mine.pop(b"a")[0].payload == b"kept"
    assert_sound(mine)
    mine.destroy()


def test_this_process_counts_as_somebody_too(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = open_store(tmp_path, kind)
    with monkeypatch.context() as patch:
        become_another_version(patch)
        with pytest.raises(StoreUnavailable, match="still use it"):
            open_store(tmp_path, kind)
    mine.push([record(mine, b"a", b"kept", owner=mine.identity)])

    def look() -> None:
        # Who is taken for dead loses what it owns.
        other = open_store(tmp_path, kind)
        other.upkeep.maintain(other.clock() + 10**10)
        other.close()

    in_child(look)
    assert mine.pop(b"a")[0].payload == b"kept"
    mine.destroy()


def test_it_makes_place_once_nobody_uses_it(kind: type[SharedMemoryEngine], tmp_path: Path) -> None:
    leave_one(tmp_path, kind)
    location, old = store_in(tmp_path, kind)
    assert old.version == OTHER
    with pytest.warns(RuntimeWarning, match=rf"is of format {OTHER}.*made place for a fresh one"):
        engine = open_store(tmp_path, kind)
    assert store_in(tmp_path, kind)[1].version == OURS
    assert_removed(location, old, kind)
    assert engine.pop(b"a") == []
    assert engine.members(b"t").names == ()
    second = open_store(tmp_path, kind)
    assert_meet(engine, second)
    assert_sound(engine)
    second.close()
    engine.destroy()


def test_the_lock_file_of_formats_before_4_is_understood(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    """It also said what the memory was called, and the engine's name came after that."""
    open_store(tmp_path, kind).close()
    lock = tmp_path / "store" / "lock"
    head = lock.read_bytes()[:18]
    open_store(tmp_path, kind).destroy()
    (tmp_path / "store").mkdir(mode=0o700)
    lock.touch(mode=0o600)
    said = head[:14] + struct.pack("<H", 3) + head[16:]
    rest = 1, b"i" * 16, b"b" * 16, b"/asgi_ipc.1.c", b"/asgi_ipc.1.g", kind.name.encode()
    lock.write_bytes(said + struct.pack("<I16s16s60s60s16s", *rest))
    assert store_in(tmp_path, kind)[1].engine == kind.name
    with pytest.warns(RuntimeWarning, match=r"is of format 3.*made place for a fresh one"):
        engine = open_store(tmp_path, kind)
    assert_sound(engine)
    engine.destroy()


def test_a_killed_process_does_not_use_it(kind: type[SharedMemoryEngine], tmp_path: Path) -> None:
    def use_and_be_killed() -> None:
        child = os.fork()
        if not child:
            open_store(tmp_path, kind)
            os.kill(os.getpid(), signal.SIGKILL)
        assert os.WTERMSIG(wait(child)) == signal.SIGKILL

    by_another_version(use_and_be_killed)
    with pytest.warns(RuntimeWarning, match="made place"):
        engine = open_store(tmp_path, kind)
    assert_sound(engine)
    engine.destroy()


def test_one_that_was_never_finished_makes_place_too(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    leave_one(tmp_path, kind)
    location, old = store_in(tmp_path, kind)
    with (tmp_path / "store" / "lock").open("r+b") as file:
        file.seek(18)
        file.write(bytes(4))
    with pytest.warns(RuntimeWarning, match="made place"):
        engine = open_store(tmp_path, kind)
    assert_removed(location, old, kind)
    in_child(lambda: open_store(tmp_path, kind).close())
    engine.destroy()


def test_who_makes_errors_of_warnings_gets_one_once(tmp_path: Path) -> None:
    leave_one(tmp_path, MmapEngine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="made place"):
            open_store(tmp_path)
        open_store(tmp_path).destroy()


def test_who_is_warned_may_use_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a handler of logging does that sends what is logged."""
    leave_one(tmp_path, MmapEngine)
    options: dict[str, Any] = {
        "engine": "mmap",
        "engine_options": {"directory": str(tmp_path)},
        "channel_memory": 512 * KIB,
        "group_memory": 256 * KIB,
    }

    handlers: list[SyncIPCChannelLayer] = []

    def show(*_: Any, **__: Any) -> None:
        handlers.append(SyncIPCChannelLayer(prefix="store", **options))
        handlers[0].send("log", {"n": 1})

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        layer = SyncIPCChannelLayer(prefix="store", **options)
    assert layer.receive(["log"]) == ("log", {"n": 1})
    (handler,) = handlers
    handler.close()
    layer.destroy()


def test_memory_that_only_another_user_may_remove_is_named(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_one(tmp_path, kind)

    with monkeypatch.context() as patch:
        patch.setattr(kind.segment, "may_unlink", lambda _: False)
        with pytest.raises(StoreUnavailable, match=r"another user.*start first"):
            open_store(tmp_path, kind)
    # Nothing was removed: whoever uses the other version still can.
    by_another_version(lambda: open_store(tmp_path, kind).destroy())


def test_the_doctor_says_if_it_is_still_used(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = open_store(tmp_path, kind)
    expect_version(monkeypatch, OTHER)
    found = look_at_store(kind.name, "store", {"directory": str(tmp_path)})
    assert not found["works"]
    assert f"format {OURS}, not {OTHER}" in found["detail"]
    assert "still use it" in found["detail"]
    mine.destroy()


def test_the_check_and_the_doctor_name_it_and_leave_it_alone(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    leave_one(tmp_path, kind)
    options = {"directory": str(tmp_path)}
    before = store_in(tmp_path, kind)
    with pytest.raises(StoreUnavailable, match=f"format {OTHER}, .* checks format"):
        check("store", kind.name, options)
    found = look_at_store(kind.name, "store", options)
    assert found["works"]
    assert f"format {OTHER}, not {OURS}" in found["detail"]
    assert store_in(tmp_path, kind) == before
    remove("store", kind.name, options)


def test_locks_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    lock = tmp_path / "store" / "lock"
    content = lock.read_bytes()
    lock.write_bytes(content[:16] + struct.pack("<H", 7) + content[18:])
    with pytest.raises(StoreUnavailable, match="locks of kind 7, this asgi_ipc knows 1 and 2"):
        open_store(tmp_path)
    lock.write_bytes(content)
    open_store(tmp_path).destroy()
