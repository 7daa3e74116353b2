"""Machines without shared memory, with too little of it, or without the package for it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import EngineUnavailable, StoreFull, StoreUnavailable, SyncIPCChannelLayer
from asgi_ipc.engines.shm.files import FileMemory
from asgi_ipc.engines.shm.heap import returns
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.awkward import (
    ENGINES,
    a_prefix,
    refuses,
    works,
)
from tests.tools.namespaces import (
    CANT_PLAY,
    NO_SHM,
    run_on,
)
from tests.tools.stores import (
    assert_sound,
    maintain,
    open_store,
    record,
)

SMALL_SHM = "mount -t tmpfs -o size=2m none /dev/shm"


def fill(engine: str, options: dict[str, Any], said: str, **sizes: Any) -> None:
    """Much more goes in than there is; all that was taken comes out again."""
    layer = SyncIPCChannelLayer(
        prefix=a_prefix(), engine=engine, engine_options=options, capacity=10**6, **sizes
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


@pytest.mark.parametrize(
    ("engine", "options"), [("posix", {}), ("mmap", {"directory": "/dev/shm/here"})]
)
def test_two_megabytes_of_shared_memory_fill_up_and_it_says_what_to_do(
    engine: str, options: dict[str, str]
) -> None:
    run_on(SMALL_SHM, fill, engine, options, "KiB free")


def fill_what_a_store_has_given_back(engine: str, options: dict[str, Any]) -> None:
    """Other programs take it meanwhile; that is a full store and no end of the process."""
    now = 10**15
    store = ENGINES[engine](
        a_prefix(),
        channel_memory=8 << 20,
        group_memory=1 << 20,
        clock=lambda: now,
        **options,
    )
    batch = [record(store, b"q%d" % (n % 5), bytes(10_000), lifetime=10**15) for n in range(120)]

    def use_all_and_read_it() -> int:
        refused = len(store.push(batch))
        for queue in range(5):
            while store.pop(b"q%d" % queue, 50):
                store.peek(b"q%d" % queue)
        return refused

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(returns, "KEEP", 1)
        assert use_all_and_read_it() == 0
        reserved = store.statistics()["channel_bytes_reserved"]
        for _ in range(8):
            now += 2 * 10**9
            maintain(store)
        assert store.statistics()["channel_bytes_reserved"] < reserved - 800_000
    with open("/dev/shm/others", "wb", buffering=0) as others:
        with contextlib.suppress(OSError):
            while True:
                others.write(bytes(4096))
        assert use_all_and_read_it() > 50
        assert_sound(store)
        others.truncate(0)
        assert use_all_and_read_it() == 0
    assert_sound(store)
    store.destroy()
    os.unlink("/dev/shm/others")


@pytest.mark.parametrize(
    ("engine", "options"), [("posix", {}), ("mmap", {"directory": "/dev/shm/here"})]
)
def test_memory_that_was_given_back_and_is_taken_by_others_is_a_full_store(
    engine: str, options: dict[str, str]
) -> None:
    small = "mount -t tmpfs -o size=4m none /dev/shm"
    run_on(small, fill_what_a_store_has_given_back, engine, options)


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
    refuses(
        StoreUnavailable, "posix", "Read-only file system", "/dev/shm", "another engine", "allow"
    )
    for engine in ("mmap", "sysv"):
        works(engine)


def test_with_dev_shm_read_only_posix_says_so_and_the_others_work() -> None:
    run_on("mount -t tmpfs -o ro none /dev/shm", check_read_only_shm)


# ---- no reservation of memory


def lose_fallocate(how: str) -> None:
    def refused(*_: object) -> None:
        code = getattr(errno, how)
        raise OSError(code, os.strerror(code))

    if how == "absent":
        del os.posix_fallocate
    else:
        os.posix_fallocate = refused


def fill_without_fallocate(engine: str, options: dict[str, Any], how: str) -> None:
    lose_fallocate(how)
    # It could not be reserved as it grows, so there must be room for the whole.
    refuses(StoreUnavailable, engine, "No space left", "taken at once", "smaller", **options)
    sizes = {"channel_memory": 512 * 1024, "group_memory": 256 * 1024}
    fill(engine, options, "channel_memory", **sizes)


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
def test_without_posix_fallocate_all_is_taken_at_once_and_nothing_crashes(
    engine: str, options: dict[str, str], how: str
) -> None:
    run_on(SMALL_SHM, fill_without_fallocate, engine, options, how)


def grow_where_only_the_maker_could_reserve() -> None:
    prefix = a_prefix()
    maker = SyncIPCChannelLayer(prefix=prefix)
    lose_fallocate("EPERM")
    layer = SyncIPCChannelLayer(prefix=prefix, capacity=10**6)
    with pytest.raises(StoreFull, match=r"is forbidden.*another engine, or .* allow"):  # noqa: PT012
        for _ in range(10_000):
            layer.send("a", {"text": "x" * 1000})
    for each in (layer, maker):
        each.close()


def test_a_process_that_may_not_reserve_does_not_touch_what_is_not_reserved() -> None:
    run_on(SMALL_SHM, grow_where_only_the_maker_could_reserve)


def write_meanwhile(path: str) -> None:
    """The store's memory is never written to as a file once it is mapped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(os, "posix_fallocate")
        engine = open_store(Path(path))
        patch.setattr(os, "pwrite", None)
        for number in range(300):
            engine.push([record(engine, b"a", bytes(1000))])
            engine.put(b"t", b"%d" % number, 1 << 62)
    engine.destroy()


def test_a_mapped_file_is_never_written_to(tmp_path: Path) -> None:
    """Where mappings and files have caches of their own (OpenBSD) one would not see the other."""
    run_on("", write_meanwhile, str(tmp_path))


class Mapping:
    """Stands for a mapping whose stores the file shows once it is flushed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def flush(self) -> None:
        """Show them."""
        os.pwrite(self._descriptor, b"stored", 0)


def test_without_a_unified_cache_a_mapping_is_written_back_before_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory").write_bytes(bytes(4096))
    memory = FileMemory(os.open(tmp_path / "memory", os.O_RDWR))
    monkeypatch.setattr(memory, "_map", Mapping(memory._descriptor))
    assert memory.head(6) == bytes(6)
    monkeypatch.delattr(os, "posix_fallocate")
    assert memory.head(6) == b"stored"
    monkeypatch.undo()
    memory.close()


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


@pytest.mark.parametrize("how", [errno.ENOSYS, errno.EPERM])
def test_without_system_v_memory_its_engine_says_so_and_the_others_work(
    how: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(how, os.strerror(how))

    monkeypatch.setattr("sysv_ipc.SharedMemory", refuse)
    refuses(EngineUnavailable, "sysv", "System V shared memory", "available here", "'mmap'")
    for engine in ("mmap", "posix"):
        works(engine)


# ---- packages that are not installed


class Blocker(MetaPathFinder):
    """Hides some packages from imports."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse them; leave all else to others."""
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("absent", "module", "remedy"),
    [
        ("posix", "_posixshmem", "another Python"),
        ("sysv", "sysv_ipc", "pip install 'asgi_ipc[sysv]>=2'"),
    ],
)
def test_without_its_module_an_engine_says_what_to_do_and_the_others_work(
    absent: str, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Blocker(module), *sys.meta_path])
    refuses(EngineUnavailable, absent, remedy, "available here", "'mmap'")
    for engine in ENGINES:
        if engine != absent:
            works(engine)
