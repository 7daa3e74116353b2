"""Each thing that the store needs of the system, tried between real processes.

Every check is a function that returns what it saw, or raises `Failed` or `NotTried`. The
code of the store itself is used where there is any: what is tried is what is relied on.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from asgi_ipc.engines.shm.bells import FifoBell, signal_once
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.lock_file import open_lock_file
from asgi_ipc.engines.shm.locks import base
from asgi_ipc.engines.shm.locks.fcntl_locks import RecordLocks, record_locks_fail
from asgi_ipc.engines.shm.locks.flock_locks import FileLocks, flocks_fail
from asgi_ipc.engines.shm.locks.semaphore_locks import (
    SemaphoreLocks,
    are_seen_by_all,
    no_new_ones,
    semaphores_fail,
)
from asgi_ipc.engines.shm.machine import boot_identity
from asgi_ipc.engines.shm.segment import Location

from ..attempt import PATIENCE, Failed, NotTried, Other
from .entries import ELSEWHERE, entry, private_folder, tried


def try_everywhere() -> list[dict[str, Any]]:
    """Try what does not depend on a folder."""
    return [
        tried("clock", "monotonic clock, one for all processes", "", _clock),
        tried("boot_identity", "identity of this boot", "", _boot),
    ]


def try_in(parent: str, private: bool = True, needed: bool = True) -> list[dict[str, Any]]:
    """Try what the store needs of the folder where it lies.

    ``private``: the folder is one that users have by default, and was not named. ``needed``:
    the chosen engine's stores lie there.
    """
    checks: list[tuple[str, str, Callable[[Location], str]]] = [
        ("record_lock", "fcntl record lock between two processes", _record_lock),
        ("record_lock_killed", "record lock released when holder is killed", _record_lock_killed),
        ("semaphore", "semaphore recovered from a killed holder", _semaphore),
        ("flock", "flock between two processes (used where record locks fail)", _flock),
        ("flock_killed", "flock released when holder is killed", _flock_killed),
        ("liveness", "liveness of another process", _liveness),
        ("wake_up", "wake-up by FIFO between two processes", _wake_up),
    ]
    try:
        with private_folder(parent) as folder:
            found = []
            for name, title, check in checks:
                location = Location(os.path.join(folder, name), 0o600, None, private)
                may_be_missing = name in ("semaphore", "flock", "flock_killed")
                attempt = partial(_in_folder, check, location)
                found.append(tried(name, title, parent, attempt, needed and not may_be_missing))
    except (Failed, NotTried) as refusal:
        return [entry(name, title, parent, refusal, needed) for name, title, _ in checks]
    works = {each["name"]: each["works"] for each in found}
    if works["flock"] and works["flock_killed"]:
        for each in found:
            if each["name"] in ("record_lock", "record_lock_killed"):
                each["needed"] = False  # flock does it
    return found


def _in_folder(check: Callable[[Location], str], location: Location) -> str:
    os.mkdir(location.directory, 0o700)
    return check(location)


# ---- everywhere


def _clock() -> str:
    def stamp(other: Other) -> None:
        other.tell(str(time.monotonic_ns()))

    before = time.monotonic_ns()
    with Other(stamp) as other:
        theirs = int(other.hear())
    after = time.monotonic_ns()
    if not before <= theirs <= after:
        raise Failed(
            f"another process reads {theirs} between {before} and {after} here",
            "messages would expire at the wrong time; check whether the processes run in "
            "different time namespaces",
        )
    return f"another process reads it within {(after - before) / 1e6:.1f} ms"


def _boot() -> str:
    def tell(other: Other) -> None:
        other.tell(boot_identity().hex())

    with Other(tell) as other:
        theirs = other.hear()
    mine = boot_identity()
    if mine.hex() != theirs:
        raise Failed("it differs from one process to the next", "report it as a bug of asgi_ipc")
    if not any(mine):
        raise Failed(
            "the system does not tell",
            "after a reboot a store on a disk keeps its old contents; use a directory that a "
            "reboot empties",
        )
    return "the same in two processes"


# ---- in a folder


def _record_lock(location: Location) -> str:
    return _excludes(location, record_locks_fail, RecordLocks)


def _record_lock_killed(location: Location) -> str:
    return _freed(location, RecordLocks)


def _semaphore(location: Location) -> str:
    def make(path: str, descriptor: int) -> SemaphoreLocks:
        if not are_seen_by_all(location, descriptor):
            raise NotTried("a store in a named directory outside /dev/shm uses record locks")
        reason = semaphores_fail(path, descriptor) or no_new_ones()
        if reason is not None:
            raise Failed(reason, "nothing to do: the store uses record locks, which are slower")
        return SemaphoreLocks(path, descriptor, location)

    store_id = secrets.token_bytes(16)
    mine = make(*_lock_file(location))
    try:
        mine.prepare(store_id, create=True)

        def hold(other: Other) -> None:
            theirs = make(*_lock_file(location))
            theirs.prepare(store_id, create=False)
            theirs.mutex(base.CHANNELS_LOCK, memoryview(b""), 0).lock()
            other.tell("held")
            signal.pause()

        with Other(hold) as other:
            other.expect("held")
            other.kill()
            began = time.monotonic()
            mine.mutex(base.CHANNELS_LOCK, memoryview(b""), 0).lock()
            return f"{(time.monotonic() - began) * 1000:.1f} ms after SIGKILL"
    finally:
        mine.close()
        mine.remove(store_id)


def _flock(location: Location) -> str:
    return _excludes(location, flocks_fail, _file_locks)


def _flock_killed(location: Location) -> str:
    return _freed(location, _file_locks)


def _file_locks(path: str, descriptor: int) -> base.Locks:
    location = Location(os.path.dirname(path), 0o600, None)
    return FileLocks(path, descriptor, StoreDirectory.open(location))


_Maker = Callable[[str, int], base.Locks]
_FLOCK_ADVICE = "the store uses flock instead where that works; else " + ELSEWHERE


def _lock_file(location: Location) -> tuple[str, int]:
    path = os.path.join(location.directory, "lock")
    return path, os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _open(location: Location, make: _Maker) -> tuple[str, int, base.Locks]:
    path, descriptor = _lock_file(location)
    return path, descriptor, make(path, descriptor)


def _excludes(location: Location, fail: Callable[[str, int], str | None], make: _Maker) -> str:
    path, descriptor, mine = _open(location, make)
    reason = fail(path, descriptor)
    if reason is not None:
        raise Failed(reason, _FLOCK_ADVICE)

    def hold(other: Other) -> None:
        theirs = _open(location, make)[2]
        other.tell("held" if theirs.hold(base.FIRST_SLOT) else "refused")
        other.expect("release")
        theirs.release(base.FIRST_SLOT)
        other.tell("released")

    with Other(hold) as other:
        other.expect("held")
        if mine.hold(base.FIRST_SLOT):
            raise Failed("two processes get the same lock", _FLOCK_ADVICE)
        other.tell("release")
        other.expect("released")
        if not mine.hold(base.FIRST_SLOT):
            raise Failed("a released lock is refused", _FLOCK_ADVICE)
    return "one process has it, the other waits"


def _freed(location: Location, make: _Maker) -> str:
    mine = _open(location, make)[2]

    def hold(other: Other) -> None:
        theirs = _open(location, make)[2]
        other.tell("held" if theirs.hold(base.FIRST_SLOT) else "refused")
        signal.pause()

    with Other(hold) as other:
        other.expect("held")
        other.kill()
        return f"free {_until(lambda: mine.hold(base.FIRST_SLOT)):.1f} ms after SIGKILL"


def _until(condition: Callable[[], bool]) -> float:
    """Wait until a condition is true; return after how many milliseconds, or raise `Failed`."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() > start + PATIENCE / 2:
            raise Failed("it stays locked", ELSEWHERE)
        time.sleep(0.001)
    return (time.monotonic() - start) * 1000


def _liveness(location: Location) -> str:
    directory = StoreDirectory.open(location)

    def live(other: Other) -> None:
        lock_file = open_lock_file(directory)
        other.tell("held" if lock_file.hold(base.FIRST_SLOT) else "refused")
        signal.pause()

    lock_file = open_lock_file(directory)
    if lock_file.is_held(base.FIRST_SLOT):
        raise Failed("a process that never existed counts as alive", ELSEWHERE)
    with Other(live) as other:
        other.expect("held")
        if not lock_file.is_held(base.FIRST_SLOT):
            raise Failed("a living process counts as dead", ELSEWHERE)
        other.kill()
        took = _until(lambda: not lock_file.is_held(base.FIRST_SLOT))
    return f"locked by {base.NAMES[lock_file.kind]}; death seen after {took:.1f} ms"


def _wake_up(location: Location) -> str:
    directory = StoreDirectory.open(location)
    bell = FifoBell(directory, secrets.token_bytes(14), 1)

    def signal(other: Other) -> None:
        other.tell("ready")
        other.expect("signal")
        other.tell("heard" if signal_once(directory, bell.name) else "no reader")

    with Other(signal) as other:
        other.expect("ready")
        start = time.monotonic()
        other.tell("signal")
        if not select.select([bell.fileno()], [], [], PATIENCE / 2)[0]:
            raise Failed("a write to the FIFO did not wake its reader", ELSEWHERE)
        took = time.monotonic() - start
        other.expect("heard")
    bell.drop()
    if signal_once(directory, bell.name):
        raise Failed("a FIFO without a reader accepts a write", ELSEWHERE)
    return f"woken in {took * 1000:.1f} ms"
