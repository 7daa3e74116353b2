"""Interpreters that can't share memory soundly: those beside the main one, and those of 32 bits."""

from __future__ import annotations

import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines import available
from asgi_ipc.engines.shm import interpreter, lock_file
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.locks import fcntl_locks
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from asgi_ipc.exceptions import EngineUnavailable, StoreUnavailable
from tests.tools.doubles import (
    watchdog,
)
from tests.tools.stores import (
    KIB,
    in_child,
    open_store,
)

__all__ = ["watchdog"]

ENGINES = [PosixEngine, SysVEngine, MmapEngine]

# ---- sub-interpreters


def _module() -> Any:
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


interpreters = _module()
#: Shared with the main interpreter's, as mod_wsgi makes them; and with a GIL of its own.
CONFIGS: list[Any] = ["legacy", "isolated"] if sys.version_info >= (3, 13) else [None]


def in_another_interpreter(code: str, config: Any) -> None:
    """Run code in a sub-interpreter; an exception there is raised here."""
    one = interpreters.create() if config is None else interpreters.create(config)
    try:
        path = f"import sys; sys.path[:] = {sys.path!r}\n"
        failed = interpreters.run_string(one, path + code)
        assert failed is None, failed
    finally:
        interpreters.destroy(one)


needed = pytest.mark.skipif(interpreters is None, reason="this Python has no sub-interpreters")


@needed
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ["posix", "sysv", "mmap"])
def test_an_engine_that_crosses_processes_is_refused_with_the_remedy(
    name: str, config: Any, tmp_path: Path
) -> None:
    code = (
        "from asgi_ipc import SyncIPCChannelLayer\n"
        "from asgi_ipc.exceptions import EngineUnavailable\n"
        "try:\n"
        f"    options = {{'directory': {str(tmp_path)!r}}}\n"
        f"    SyncIPCChannelLayer(engine={name!r}, engine_options=options)\n"
        "except EngineUnavailable as error:\n"
        "    first = str(error).splitlines()[0]\n"
        "    remedies = 'WSGIApplicationGroup %{GLOBAL}', 'process for each'\n"
        "    for said in ('sub-interpreter', *remedies):\n"
        "        assert said in first, first\n"
        "    assert 'not installed' not in first, first\n"
        "else:\n"
        "    raise AssertionError('it was opened')\n"
    )
    in_child(lambda: in_another_interpreter(code, config))
    assert list(tmp_path.iterdir()) == []


@needed
@pytest.mark.parametrize("config", CONFIGS)
def test_engine_memory_works_in_a_sub_interpreter(config: Any) -> None:
    code = (
        "from asgi_ipc import SyncIPCChannelLayer\n"
        "layer = SyncIPCChannelLayer(engine='memory')\n"
        "layer.send('a', {'n': 1})\n"
        "assert layer.receive(['a']) == ('a', {'n': 1})\n"
        "layer.destroy()\n"
    )
    in_child(lambda: in_another_interpreter(code, config))


@pytest.mark.parametrize("kind", ENGINES)
def test_the_class_itself_refuses_too(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "in_main_interpreter", lambda: False)
    assert "sub-interpreter" in (kind.unavailable() or "")
    with pytest.raises(EngineUnavailable, match=r"sub-interpreter.*WSGIApplicationGroup"):
        open_store(tmp_path, kind)
    assert list(tmp_path.iterdir()) == []
    assert available()["memory"] is None


def test_this_is_the_main_interpreter() -> None:
    assert interpreter.in_main_interpreter()


# ---- words of other sizes


@pytest.mark.parametrize("kind", ENGINES)
def test_a_python_of_32_bits_is_refused_with_the_reason(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "WORD_BYTES", 4)
    for refused in (
        lambda: open_store(tmp_path, kind),
        lambda: SyncIPCChannelLayer(engine=kind, engine_options={"directory": str(tmp_path)}),
    ):
        with pytest.raises(EngineUnavailable, match=r"32-bit Python.*64-bit Python"):
            refused()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["fcntl", "flock", "semaphore"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a store has that kind of lock."""
    if request.param == "flock":
        patch = request.getfixturevalue("monkeypatch")
        patch.setattr(fcntl_locks, "record_locks_fail", lambda *_: "switched off")
    if request.param == "semaphore":
        # Anything will do: no lock of either kind is to be touched.
        patch = request.getfixturevalue("monkeypatch")
        patch.setattr("asgi_ipc.engines.shm.locks.semaphore_locks.are_seen_by_all", lambda *_: True)
    return tmp_path


@pytest.mark.parametrize(
    ("made_by", "said"),
    [(4, "32-bit little"), (0x108, "64-bit big"), (0x104, "32-bit big")],
)
def test_a_store_of_other_words_is_refused_before_anything_is_locked_or_mapped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, made_by: int, said: str
) -> None:
    made = open_store(folder)
    made.close()
    lock = folder / "store" / "lock"
    data = bytearray(lock.read_bytes())
    struct.pack_into("<H", data, 20, made_by)
    lock.write_bytes(data)
    before = sorted((folder / "store").iterdir()), bytes(data)

    def touched(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was locked or mapped")

    with monkeypatch.context() as patch:
        for name in ("lockf", "flock", "fcntl"):
            patch.setattr(f"fcntl.{name}", touched)
        patch.setattr("mmap.mmap", touched)
        patch.setattr("asgi_ipc.engines.shm.locks.semaphore_locks.open_semaphore", touched)
        with pytest.raises(StoreUnavailable) as caught:
            open_store(folder)
    for part in (said, interpreter.told(interpreter.machine()), "another prefix"):
        assert part in str(caught.value)
    assert (sorted((folder / "store").iterdir()), lock.read_bytes()) == before
    struct.pack_into("<H", data, 20, interpreter.machine())
    lock.write_bytes(data)
    open_store(folder).destroy()


def test_one_that_makes_the_lock_file_meanwhile_is_seen_once_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(tmp_path).close()
    lock = tmp_path / "store" / "lock"
    data = bytearray(lock.read_bytes())
    struct.pack_into("<H", data, 20, 4)
    lock.write_bytes(data)
    # It was empty when this one looked.
    monkeypatch.setattr(lock_file, "_kind", lambda path, descriptor: 0)
    with pytest.raises(StoreUnavailable, match="32-bit little"):
        open_store(tmp_path, channel_memory=512 * KIB)
