"""A store in use is never replaced; a newcomer that cannot join it gets the reason."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import time
from pathlib import Path

import pytest

from asgi_ipc.engines.shm import lock_file
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.commands import check, expect_version, look_at_store, remove, restart
from tests.tools.namespaces import run_on
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


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has removed its memory under it notices without result: it is the test itself."""
    monkeypatch.setattr("asgi_ipc.engines.shm.opening._NOTICE", 0.0)


def other_boot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("asgi_ipc.engines.shm.opening.boot_identity", lambda: b"another boot id!")
    restart(patch, b"another boot id!")


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == level]


def test_another_boot_identity_is_refused_while_the_store_is_used(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that has a boot identity of its own."""
    mine = open_store(tmp_path, kind)
    mine.push([record(mine, b"a", b"kept")])

    def other() -> None:
        other_boot(monkeypatch)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"another boot.*still use it; .*boot_id"):
                open_store(tmp_path, kind)
        options = {"directory": str(tmp_path)}
        with pytest.raises(StoreUnavailable, match=r"another boot.*still use it; .*boot_id"):
            check("store", kind.name, options)
        looked = look_at_store(kind.name, "store", options)
        assert not looked["works"]
        assert "another boot" in looked["detail"]
        assert "still use it" in looked["detail"]

    in_child(other)
    assert mine.pop(b"a")[0].payload == b"kept"
    assert_sound(mine)
    mine.close()
    with monkeypatch.context() as patch:
        other_boot(patch)
        options = {"directory": str(tmp_path)}
        with pytest.raises(StoreUnavailable, match=r"another boot.*makes it afresh"):
            check("store", kind.name, options)
        assert "will replace it" in look_at_store(kind.name, "store", options)["detail"]
    open_store(tmp_path, kind).destroy()
    assert list(tmp_path.iterdir()) == []


def open_with_another_clock(folder: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"another boot.*still use it; .*time namespace"):
        open_store(Path(folder))


def test_a_process_in_another_time_namespace_does_not_use_it(tmp_path: Path) -> None:
    """By its clock all messages would have expired, or would never."""
    engine = open_store(tmp_path)
    kinds = ("--time", "--monotonic", "100000", "--fork")
    run_on("", open_with_another_clock, str(tmp_path), kinds=kinds)
    engine.destroy()


def test_a_process_of_another_boot_does_not_use_it_once_it_is_dead(
    kind: type[SharedMemoryEngine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def dies() -> None:
        open_store(tmp_path, kind)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AssertionError):
        in_child(dies)
    other_boot(monkeypatch)
    caplog.set_level(logging.INFO, "asgi_ipc")
    engine = open_store(tmp_path, kind)
    (said,) = messages(caplog, logging.WARNING)
    assert "another boot" in said
    assert "replaced by a new one" in said
    assert str(tmp_path) in said
    (said,) = messages(caplog, logging.INFO)
    assert said.startswith(f"made the store at '{tmp_path}/store': engine {kind.name}")
    engine.destroy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [PosixEngine, SysVEngine], indirect=True)
def test_memory_that_can_not_be_seen_from_here_is_refused_while_the_store_is_used(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with another /dev/shm, or PrivateIPC=."""
    mine = open_store(tmp_path, kind)

    def other() -> None:
        def hidden(*_: object) -> None:
            raise FileNotFoundError

        monkeypatch.setattr(kind.segment, "attach", hidden)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"can't be seen from here.*PrivateIPC"):
                open_store(tmp_path, kind)

    in_child(other)
    mine.push([record(mine, b"a", b"kept")])
    mine.upkeep.due = 0
    mine.statistics()
    assert mine.pop(b"a")[0].payload == b"kept"
    mine.destroy()


def test_removed_memory_is_replaced_once_its_processes_have_left_it(
    kind: type[SharedMemoryEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = open_store(tmp_path, kind)
    unlink_memory(mine)

    def refused() -> None:
        with pytest.raises(StoreUnavailable, match="processes use it"):
            open_store(tmp_path, kind)

    in_child(refused)
    mine.upkeep.due = 0
    mine.statistics()
    assert any("was removed, or replaced" in said for said in messages(caplog, logging.WARNING))
    other = open_store(tmp_path, kind)
    assert_meet(mine, other)
    other.close()
    mine.destroy()
    assert list(tmp_path.iterdir()) == []


def test_processes_whose_lock_file_was_spoiled_and_removed_meet_the_newcomer(
    kind: type[SharedMemoryEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = open_store(tmp_path, kind)
    lock = tmp_path / "store" / "lock"

    def comes() -> None:
        newcomer = open_store(tmp_path, kind)
        newcomer.push([record(newcomer, b"a", b"afresh")])
        newcomer.close()

    def refused() -> None:
        with pytest.raises(StoreUnavailable, match=r"not a lock file.*remove it"):
            open_store(tmp_path, kind)

    def spoil(data: bytes) -> None:
        # In another process: to close the file here would drop the locks that this one has.
        in_child(lambda: lock.write_bytes(data))

    for spoiled in (b"", secrets.token_bytes(100)):
        spoil(spoiled)
        if spoiled:
            in_child(refused)
            lock.unlink()
        in_child(comes)
        mine.upkeep.due = 0
        mine.statistics()
        assert "was removed, or replaced" in messages(caplog, logging.WARNING)[-1]
        assert mine.pop(b"a")[0].payload == b"afresh"
    mine.destroy()
    assert list(tmp_path.iterdir()) == []


def test_a_newcomer_waits_until_processes_notice_that_their_memory_was_removed(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_ipc.engines.shm.opening._NOTICE", 60.0)
    ready, noticed = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            signal.alarm(60)
            engine = open_store(tmp_path, kind)
            unlink_memory(engine)
            os.write(noticed, b"!")
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                engine.statistics()
                time.sleep(0.1)
            engine.close()
        os._exit(0)
    os.read(ready, 1)
    newcomer = open_store(tmp_path, kind)
    newcomer.destroy()
    os.waitpid(child, 0)
    # The child went on with a store of its own, whose memory outlives the folder on some engines.
    open_store(tmp_path, kind).destroy()
    for each in (ready, noticed):
        os.close(each)


@pytest.mark.parametrize("other", ENGINES)
def test_a_store_of_another_engine_is_refused_while_used_and_replaced_afterwards(
    kind: type[SharedMemoryEngine],
    other: type[SharedMemoryEngine],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if kind is other:
        pytest.skip("the same engine")
    old = open_store(tmp_path, other)
    names = [old.segment.locator_for(name, "0" * 16) for name in ("channels", "groups")]
    assert names
    with pytest.raises(StoreUnavailable, match=f"made by engine '{other.name}'.*still use it"):
        open_store(tmp_path, kind)
    store = old.session.store
    assert store is not None
    left = [locked_segment.segment for locked_segment in store.locked_segments.values()]
    old.push([record(old, b"a", b"old")])
    in_use = [segment.is_linked() for segment in left]
    assert in_use == [True, True]
    old.close()
    new = open_store(tmp_path, kind)
    assert new.pop(b"a") == []
    (said,) = messages(caplog, logging.WARNING)
    assert other.name in said
    assert "replaced" in said
    again = open_store(tmp_path, kind)
    assert_meet(new, again)
    again.close()
    new.destroy()
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_an_engine_that_is_not_here_is_left_alone(tmp_path: Path) -> None:
    """Nor is anything imported that its name leads to."""

    class Foreign(MmapEngine):
        name = "os:system"

    Foreign("store", directory=tmp_path, channel_memory=512 * KIB, group_memory=256 * KIB).close()
    before = sorted(path.name for path in (tmp_path / "store").iterdir())
    with pytest.raises(StoreUnavailable, match=r"'os:system'.*not to be had here"):
        open_store(tmp_path)
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == before


def test_other_sizes_are_told_to_the_log_as_well_with_the_way_to_change_them(
    kind: type[SharedMemoryEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_store(tmp_path, kind)
    with pytest.warns(RuntimeWarning, match="channel_memory=524288.*destroy"):
        second = open_store(tmp_path, kind, channel_memory=1024 * KIB)
    (said,) = messages(caplog, logging.WARNING)
    assert "channel_memory=524288" in said
    second.close()
    first.destroy()


def test_processes_whose_store_is_destroyed_under_them_say_so(
    kind: type[SharedMemoryEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = open_store(tmp_path, kind), open_store(tmp_path, kind)
    second.destroy()
    assert not messages(caplog, logging.WARNING), "nothing happened to the one that destroyed it"
    first.pop(b"a")
    (said,) = messages(caplog, logging.WARNING)
    assert str(tmp_path) in said
    assert "was removed" in said
    first.destroy()


def test_a_store_whose_remover_was_killed_is_replaced_though_others_use_it(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = open_store(tmp_path, kind)

    def dies() -> None:
        def die(_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        engine = open_store(tmp_path, kind)
        monkeypatch.setattr(lock_file.LockFile, "unlink", die)
        engine.destroy()

    with pytest.raises(AssertionError):
        in_child(dies)
    assert (tmp_path / "store" / "lock").exists()
    newcomer = open_store(tmp_path, kind)
    assert_meet(newcomer, idle)
    idle.close()
    newcomer.destroy()
    assert list(tmp_path.iterdir()) == []


def test_commands_that_look_make_replace_and_remove_nothing(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"directory": str(tmp_path)}

    def listing() -> list[str]:
        return sorted(str(path) for path in tmp_path.rglob("*"))

    for prefix in ("store", "other"):
        with pytest.raises(StoreUnavailable, match="there is no store"):
            check(prefix, kind.name, options)
        look_at_store(kind.name, prefix, options)
        with pytest.raises(StoreUnavailable, match="there is no store"):
            remove(prefix, kind.name, options)
        with pytest.raises(StoreUnavailable, match="there is no store"):
            kind.of_existing(
                prefix, channel_memory=512 * KIB, group_memory=256 * KIB, directory=tmp_path
            )
    assert listing() == []
    engine = open_store(tmp_path, kind)
    engine.close()
    before = listing()
    for patched in (other_boot, None):
        with monkeypatch.context() as patch:
            if patched:
                patched(patch)
            else:
                patch.setattr("asgi_ipc.engines.shm.heap.layout.VERSION", 99)
                patch.setattr("asgi_ipc.engines.shm.heap.layout.VERSION", 99)
                expect_version(patch, 99)
            with pytest.raises(StoreUnavailable):
                check("store", kind.name, options)
            look_at_store(kind.name, "store", options)
            with pytest.raises(StoreUnavailable):
                kind.of_existing(
                    "store", channel_memory=512 * KIB, group_memory=256 * KIB, directory=tmp_path
                )
        assert listing() == before
    assert check("store", kind.name, options) == []
    open_store(tmp_path, kind).destroy()


def test_an_engine_that_looks_does_not_make_a_store_in_place_of_one_that_goes(
    kind: type[SharedMemoryEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_store(tmp_path, kind)
    looking = kind.of_existing(
        "store", channel_memory=512 * KIB, group_memory=256 * KIB, directory=tmp_path
    )
    assert looking.statistics()["processes"] == 2
    engine.destroy()
    with pytest.raises(StoreUnavailable, match="there is no store"):
        looking.statistics()
    assert [each.endswith("is lost") for each in messages(caplog, logging.WARNING)] == [True]
    looking.close()
    assert list(tmp_path.iterdir()) == []


def test_an_opening_that_never_ends_is_an_error_that_names_the_process(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_store(tmp_path, kind)
    engine.close()
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            signal.alarm(60)
            held = open_store(tmp_path, kind)
            assert held.session.store is not None
            with held.session.store.lock_file.opening():
                os.write(told, b"!")
                time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    monkeypatch.setattr(lock_file, "OPENING_LIMIT", 0.3)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"more than 0.3 seconds: process {child} of user"):
        open_store(tmp_path, kind)
    assert time.monotonic() - began >= 0.3
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    open_store(tmp_path, kind).destroy()
    for each in (ready, told):
        os.close(each)


def test_numbers_of_bells_are_reused_but_never_held_twice(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_ipc.engines.shm.bells.SLOT_MASK", 5)
    engine = open_store(tmp_path, kind)
    kept = engine.bell()
    numbers = {kept.number}
    for _ in range(20):
        bell = engine.bell()
        assert bell.number != kept.number
        numbers.add(bell.number)
        bell.close()
    assert numbers == {1, 2, 3, 4, 5}
    bells = [engine.bell() for _ in range(4)]
    with pytest.raises(StoreUnavailable, match=r"5 bells.*fewer threads"):
        engine.bell()
    bells[2].close()
    assert engine.bell().number == bells[2].number
    engine.destroy()


def test_a_bell_that_got_the_number_of_a_closed_one_is_signalled(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that was kept open for the one before it must not stand for it."""
    monkeypatch.setattr("asgi_ipc.engines.shm.bells.SLOT_MASK", 1)
    sender, receiver = open_store(tmp_path, kind), open_store(tmp_path, kind)
    monkeypatch.undo()
    for number in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(receiver.session.bells, "_last", 0)
            bell = receiver.bell()
        assert bell.number == 1
        assert receiver.pop(b"a", 1, bell) == []
        sender.push([record(sender, b"a", b"%d" % number)])
        assert os.read(bell.fileno(), 10)
        assert receiver.pop(b"a")[0].payload == b"%d" % number
        bell.close()
    sender.close()
    receiver.destroy()


@pytest.mark.parametrize("size", [1 << 62, 1 << 63, 1 << 64, 1 << 100])
def test_more_memory_than_can_be_mapped_is_an_error_that_says_so(
    kind: type[SharedMemoryEngine], size: int, tmp_path: Path
) -> None:
    with pytest.raises(StoreUnavailable, match="smaller channel_memory"):
        open_store(tmp_path, kind, channel_memory=size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [SysVEngine], indirect=True)
def test_memory_that_can_not_be_attached_is_not_left_in_the_system(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited() -> None:
        import resource

        def made_here() -> list[str]:
            """The segments of this process: other tests make theirs at the same time."""
            rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
            return [row for row in rows if row.split()[4] == str(os.getpid())]

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 29, hard))
        for skip in (False, True):
            if skip:  # As where the look before finds room that is gone a moment later.
                monkeypatch.setattr("asgi_ipc.engines.shm.sysv._check_room", lambda size: None)
            with pytest.raises(StoreUnavailable, match="can't make a store"):
                open_store(tmp_path, kind, channel_memory=1 << 30)
            assert made_here() == []

    in_child(limited)
    assert list(tmp_path.iterdir()) == []


def test_without_descriptors_the_error_says_so(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    def limited() -> None:
        import resource

        open_store(tmp_path / secrets.token_hex(4), kind).destroy()
        used = len(os.listdir("/proc/self/fd"))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for more in range(1, 9):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))
            said = ""
            try:
                open_store(tmp_path, kind).destroy()
            except StoreUnavailable as error:
                said = str(error)
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, hard))
            assert not said or "limit of open files (ulimit -n)" in said, said
            assert len(os.listdir("/proc/self/fd")) == used, more
            assert not (tmp_path / "store").exists()

    in_child(limited)
