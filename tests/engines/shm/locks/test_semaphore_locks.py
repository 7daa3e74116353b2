"""Which stores have semaphores, and what happens to a store whose semaphores are not seen."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_ipc.engines.shm import lock_file
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.locks import semaphore_locks
from asgi_ipc.engines.shm.locks.base import FCNTL, SEMAPHORE
from asgi_ipc.engines.shm.locks.robust_mutex import SemLock
from asgi_ipc.engines.shm.locks.semaphore_locks import _beginning, no_new_ones
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.segment import public_token
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.doubles import (
    watchdog,
)
from tests.tools.stores import (
    ENGINES,
    assert_meet,
    in_child,
    open_store,
    record,
    unlink_memory,
)

__all__ = ["watchdog"]

SHM = Path("/dev/shm")


pytestmark = pytest.mark.skipif(
    SemLock is None or no_new_ones() is not None, reason="this system has no such semaphores"
)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder in shared memory."""
    folder = Path(tempfile.mkdtemp(prefix="semaphores-", dir=SHM))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def kind_of(engine: SharedMemoryEngine) -> int:
    assert engine.session.store is not None
    return engine.session.store.lock_file.kind


def files_of(engine: SharedMemoryEngine) -> list[Path]:
    """What the locks of a store have in shared memory."""
    assert engine.session.store is not None
    token = public_token(engine.session.store.store_id, "locks")
    return [path for path in SHM.iterdir() if token in path.name]


def assert_carries(engine: SharedMemoryEngine) -> None:
    """A message goes through the store."""
    engine.push([record(engine, b"a", b"hello")])
    assert engine.pop(b"a")[0].payload == b"hello"


@pytest.mark.parametrize("kind", ENGINES)
def test_a_store_in_the_users_own_folder_has_semaphores_and_leaves_none(
    kind: type[SharedMemoryEngine],
) -> None:
    engine = kind(f"sem-{secrets.token_hex(6)}", channel_memory=1 << 19, group_memory=1 << 19)
    assert kind_of(engine) == SEMAPHORE
    files = files_of(engine)
    assert len(files) == 3
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    assert_carries(engine)
    engine.destroy()
    assert not any(path.exists() for path in files)


def test_a_folder_that_is_named_has_semaphores_if_it_lies_where_they_do(
    shared: Path, tmp_path: Path
) -> None:
    for folder, kind in ((shared, SEMAPHORE), (tmp_path, FCNTL)):
        if os.stat(folder).st_dev == os.stat(SHM).st_dev or folder is tmp_path:
            engine = open_store(folder)
            assert kind_of(engine) == kind
            engine.destroy()


def test_a_process_that_names_the_folder_of_a_store_with_semaphores_uses_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(MmapEngine, "default_parent", classmethod(lambda cls: str(tmp_path)))
    first = MmapEngine("store", channel_memory=512 * 1024, group_memory=256 * 1024)
    (folder,) = tmp_path.iterdir()
    second = open_store(folder)
    assert kind_of(first) == kind_of(second) == SEMAPHORE
    assert_meet(first, second)
    second.close()
    first.destroy()


def test_a_store_of_a_group_has_record_locks(shared: Path) -> None:
    """Under /dev/shm only the owner of a file may remove it, and all of a group may a store."""
    engine = open_store(shared, group=os.getegid())
    assert kind_of(engine) == FCNTL
    engine.destroy()


def no_semaphores_in_python(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(semaphore_locks, "SemLock", None)


def other_semaphores_in_python(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(semaphore_locks, "SemLock", Semaphore)


def no_folder_for_them(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(semaphore_locks, "SHM", str(folder / "nowhere"))


def not_opened(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    def refuse(name: str) -> None:
        raise OSError(errno.EINVAL, "refused")

    monkeypatch.setattr(semaphore_locks, "open_semaphore", refuse)


class Semaphore:
    """One that lets every process in, or none."""

    def __init__(self, answer: bool) -> None:
        self._answer = answer

    def acquire(self, blocking: bool) -> bool:
        return self._answer

    def release(self) -> None:
        pass


def for_all(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(semaphore_locks, "open_semaphore", lambda name: Semaphore(True))


def for_nobody(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(semaphore_locks, "open_semaphore", lambda name: Semaphore(False))


Wrong = Callable[[pytest.MonkeyPatch, Path], None]
WRONG = [
    no_semaphores_in_python,
    other_semaphores_in_python,
    no_folder_for_them,
    not_opened,
    for_all,
    for_nobody,
]


@pytest.mark.parametrize("wrong", WRONG)
def test_where_semaphores_do_not_work_record_locks_do(
    wrong: Wrong, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = marked(monkeypatch)
    _beginning.cache_clear()
    with monkeypatch.context() as patch:
        wrong(patch, shared)
        engine = open_store(shared)
        assert kind_of(engine) == FCNTL
        assert_carries(engine)
        engine.destroy()
    _beginning.cache_clear()
    assert mine() == []


def marked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Have all names that are made from now on be known; what there is of them in shared memory."""
    mark = secrets.token_bytes(16)
    monkeypatch.setattr(secrets, "token_bytes", lambda size: mark[:size])
    monkeypatch.setattr(secrets, "token_hex", lambda size: mark[:size].hex())
    tokens = mark[:8].hex(), public_token(mark, "locks")
    return lambda: [name for name in os.listdir(SHM) if any(each in name for each in tokens)]


@pytest.mark.parametrize("wrong", [no_semaphores_in_python, other_semaphores_in_python])
def test_a_process_without_semaphores_cannot_use_a_store_that_has_them(
    wrong: Wrong, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_store(shared)

    def other() -> None:
        forget_what_is_open()
        wrong(monkeypatch, shared)
        with pytest.raises(StoreUnavailable, match=r"made with semaphores, .*never has two kinds"):
            open_store(shared)

    in_child(other)
    assert_carries(engine)
    engine.destroy()


def test_where_no_new_semaphores_can_be_made_existing_ones_are_used(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when /dev/shm is full."""
    engine = open_store(shared)
    _beginning.cache_clear()

    def other() -> None:
        forget_what_is_open()
        full(monkeypatch)
        second = open_store(shared)
        assert second.pop(b"a")[0].payload == b"hello"
        second.destroy()

    engine.push([record(engine, b"a", b"hello")])
    in_child(other)
    engine.close()


def test_where_no_new_semaphores_can_be_made_a_process_that_made_some_says_so(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _beginning() in ("sem.", "")
    mine = marked(monkeypatch)
    full(monkeypatch)
    what = r"semaphores in /dev/shm \(.*free.*no room.*directory"
    with pytest.raises(StoreUnavailable, match=what):
        open_store(shared)
    assert mine() == []
    assert list(shared.iterdir()) == []


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(semaphore_locks, "_make_semaphore", refuse)


def forget_what_is_open() -> None:
    """In a forked child, which then opens for itself what its parent has open."""
    lock_file._registry.clear()


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("gone", range(3))
def test_semaphores_that_can_not_be_seen_do_not_split_a_store_that_is_used(
    kind: type[SharedMemoryEngine], gone: int, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_store(shared, kind)
    files = sorted(files_of(engine))
    hidden = files[gone].rename(files[gone].with_name(f"hidden-{secrets.token_hex(6)}"))

    def other() -> None:
        forget_what_is_open()
        monkeypatch.setattr("asgi_ipc.engines.shm.opening._NOTICE", 0.0)
        with pytest.raises(StoreUnavailable, match=r"can't be seen from here.*/dev/shm"):
            open_store(shared, kind)

    in_child(other)
    hidden.rename(files[gone])
    second = open_store(shared, kind)
    assert_meet(engine, second)
    second.close()
    engine.destroy()


def test_a_store_in_use_whose_semaphores_are_of_another_c_library_says_so(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where containers with glibc and with musl share /dev/shm."""
    engine = open_store(shared)
    for file in files_of(engine):
        name = file.name.removeprefix("sem.")
        if not name.endswith(".marks"):
            file.rename(file.with_name(name if file.name != name else f"sem.{name}"))

    def other() -> None:
        forget_what_is_open()
        monkeypatch.setattr("asgi_ipc.engines.shm.opening._NOTICE", 0.0)
        with pytest.raises(StoreUnavailable, match=r"another C library.*\['directory'\] outside"):
            open_store(shared)

    in_child(other)
    assert_carries(engine)
    engine.destroy()
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("kind", ENGINES)
def test_an_unused_store_whose_memory_is_gone_is_recreated(
    kind: type[SharedMemoryEngine], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after ``ipcrm``, or a cleaner: the opener has a slot by then, and is no user yet."""
    monkeypatch.setattr("asgi_ipc.engines.shm.opening._NOTICE", 0.0)
    engine = open_store(shared, kind)
    files = files_of(engine)
    unlink_memory(engine)

    def other() -> None:
        forget_what_is_open()
        with pytest.raises(StoreUnavailable, match="processes use it"):
            open_store(shared, kind)

    in_child(other)
    # Without the look at what is lost, as if it were killed.
    assert engine.session.store is not None
    engine.session.store.close()
    engine.session.store, engine.session.slot = None, -1
    assert all(path.exists() for path in files)
    engine = open_store(shared, kind)
    assert not any(path.exists() for path in files)
    engine.destroy()
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("gone", range(3))
def test_an_unused_store_whose_semaphores_are_gone_is_recreated(
    kind: type[SharedMemoryEngine], gone: int, shared: Path
) -> None:
    engine = open_store(shared, kind)
    files = sorted(files_of(engine))
    engine.push([record(engine, b"a", b"hello")])
    engine.close()
    files[gone].unlink()
    engine = open_store(shared, kind)
    assert engine.pop(b"a") == []
    assert not any(path.exists() for path in files)
    engine.destroy()


def test_a_process_killed_inside_leaves_both_segments_to_the_others(shared: Path) -> None:
    engine = open_store(shared)
    for name in ("channels", "groups"):

        def dies(name: str = name) -> None:
            with getattr(engine.session, name):
                os.kill(os.getpid(), 9)

        with pytest.raises(AssertionError):
            in_child(dies)
    engine.push([record(engine, b"a", b"hello")])
    engine.put(b"t", b"m", 1 << 62)
    assert engine.pop(b"a")[0].payload == b"hello"
    assert (
        engine.session.channels.words[layout.STATE]
        == engine.session.groups.words[layout.STATE]
        == 0
    )
    engine.destroy()
