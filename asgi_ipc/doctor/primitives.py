"""Each thing that the store needs of the system, tried between real processes.

Every check is a function that returns what it saw, or raises `Failed` or `NotTried`. The
code of the store itself is used where there is any: what is tried is what is relied on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import secrets
import select
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..exceptions import StoreUnavailable
from ..store import locks
from ..store.attachment import Attachment
from ..store.bells import FifoBell, ring_once
from ..store.directory import StoreDirectory
from ..store.file_locks import FileLocks, flocks_fail
from ..store.files import FileMemory, give
from ..store.record_locks import RecordLocks, record_locks_fail
from ..store.segment import Place
from ..store.semaphore_locks import SemaphoreLocks, no_new_ones, semaphores_fail
from ..store.sidecar import open_sidecar
from ..store.store import boot_identity
from .attempt import PATIENCE, Failed, NotTried, Other, attempt
from .stores import place_of

_ELSEWHERE = "name a directory on another file system with engine_options['directory']"
_SIZE = 256 * 1024


def try_everywhere() -> list[dict[str, Any]]:
    """What does not depend on a folder."""
    return [
        _tried("clock", "monotonic clock, one for all processes", "", _clock),
        _tried("boot_identity", "identity of this boot", "", _boot),
        _tried("full_file_system", "a full file system refuses, and kills nobody", "", _full),
    ]


def try_memory(
    name: str, factory: type[Attachment], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The shared memory of one engine."""
    title = f"shared memory of engine {name}"
    segment = factory.segment
    locator = segment.locator_for("doctor", secrets.token_hex(8))
    try:
        parent = os.path.dirname(place_of(factory, "doctor", options).directory)
    except (ValueError, StoreUnavailable) as error:
        return [_entry("shared_memory", title, "", str(error))]
    folder = _folder_name(os.path.dirname(parent))
    place = Place(os.path.join(folder, "memory"), 0o600, None)
    unlink = partial(_unlink, factory, place, locator)
    try:
        return [_tried("shared_memory", title, "", lambda: _memory(factory, place, locator))]
    finally:
        attempt(unlink)
        _remove(folder)


def try_in(parent: str) -> list[dict[str, Any]]:
    """What the store needs of the folder where it lies."""
    checks: list[tuple[str, str, Callable[[Place], str]]] = [
        ("record_lock", "fcntl record lock between two processes", _record_lock),
        ("record_lock_killed", "record lock freed by a killed holder", _record_lock_killed),
        ("semaphore", "semaphore taken back from a killed holder", _semaphore),
        ("flock", "flock between two processes (used where record locks fail)", _flock),
        ("flock_killed", "flock freed by a killed holder", _flock_killed),
        ("liveness", "life and death of another process seen", _liveness),
        ("wake_up", "wake-up by FIFO between two processes", _wake_up),
        ("reservation", "memory reserved before it is used", _reservation),
    ]
    folder = _folder_name(parent)
    try:
        made = attempt(lambda: _make(folder))
        if not made["works"]:
            why = f"no folder can be made there: {made['detail']}"
            return [_entry(name, title, parent, why, _ELSEWHERE) for name, title, _ in checks]
        found = []
        for name, title, check in checks:
            place = Place(os.path.join(folder, name), 0o600, None)
            found.append(_tried(name, title, parent, partial(_in_folder, check, place)))
        return found
    finally:
        _remove(folder)


def _folder_name(parent: str) -> str:
    """Of a private folder in ``parent``, or in the nearest one above that is there."""
    while not os.path.isdir(parent) and os.path.dirname(parent) != parent:
        parent = os.path.dirname(parent)
    return os.path.join(parent, f"asgi_ipc-doctor-{secrets.token_hex(8)}")


def _make(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except OSError as error:
        raise Failed(str(error.strerror)) from error


def _in_folder(check: Callable[[Place], str], place: Place) -> str:
    _make(place.directory)
    return check(place)


def _remove(folder: str) -> None:
    attempt(lambda: shutil.rmtree(folder, ignore_errors=True))


def _tried(name: str, title: str, where: str, check: Callable[[], str]) -> dict[str, Any]:
    return {"name": name, "title": title, "where": where} | attempt(check)


def _entry(name: str, title: str, where: str, detail: str, advice: str = "") -> dict[str, Any]:
    """Of something that does not work, and needs no attempt to know it."""
    return {
        "name": name,
        "title": title,
        "where": where,
        "works": False,
        "detail": detail,
        "advice": advice,
    }


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
            "messages would expire at the wrong time; look whether the processes run in "
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
            "after a reboot a store on a disk goes on with what it held; use a directory that "
            "a reboot empties",
        )
    return "the same in two processes"


def _full() -> str:
    with _small_file_system() as folder:
        descriptor = os.open(os.path.join(folder, "memory"), os.O_RDWR | os.O_CREAT, 0o600)
        give(descriptor, 64 * 1024 * 1024, 0o600, None)
        memory = FileMemory(descriptor)
        step, reserved = 64 * 1024, 0
        try:
            while reserved < memory.view.nbytes:
                memory.reserve(reserved, step)
                # Where the reservation were worth nothing this is the end by SIGBUS.
                memory.view[reserved : reserved + step] = b"x" * step
                reserved += step
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise Failed(f"it refuses with {error}") from error
            return f"refused after {reserved // 1024} KiB of a file system of 1 MiB"
        finally:
            memory.close()
    raise Failed("64 MiB fit into a file system of 1 MiB", "report it as a bug of asgi_ipc")


class _small_file_system:  # noqa: N801
    """A file system of 1 MiB in a mount namespace of this process's own, which dies with it."""

    def __enter__(self) -> str:
        unshare, mount = self._calls()
        user, group = os.geteuid(), os.getegid()
        flags = 0x00020000  # CLONE_NEWNS
        if user:
            flags |= 0x10000000  # CLONE_NEWUSER: there everybody may mount
        if unshare(flags):
            raise NotTried(f"needs a mount namespace: {os.strerror(ctypes.get_errno())}")
        if user:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        # MS_REC | MS_PRIVATE: what is mounted from here on is seen by nobody else.
        if mount(b"none", b"/", None, 0x4000 | 0x40000, None):
            raise NotTried(f"needs private mounts: {os.strerror(ctypes.get_errno())}")
        folder = "/tmp"
        if mount(b"none", folder.encode(), b"tmpfs", 0, b"size=1m"):
            raise NotTried(f"needs to mount tmpfs: {os.strerror(ctypes.get_errno())}")
        return folder

    def __exit__(self, *_: object) -> None:
        pass

    @staticmethod
    def _calls() -> tuple[Any, Any]:
        try:
            library = ctypes.CDLL(None, use_errno=True)
            return library.unshare, library.mount
        except (AttributeError, OSError):
            raise NotTried("needs Linux's mount namespaces") from None


def _unlink(factory: type[Attachment], place: Place, locator: str) -> str:
    """Remove what an attempt that was killed has left."""
    directory = StoreDirectory.open(place)
    with contextlib.suppress(FileNotFoundError):
        memory = factory.segment.attach(directory, locator)
        memory.unlink()
        memory.close()
    directory.close()
    return ""


def _memory(factory: type[Attachment], place: Place, locator: str) -> str:
    segment = factory.segment
    unavailable: Callable[[], str | None] | None = getattr(factory, "unavailable", None)
    reason = unavailable() if unavailable else None
    if reason is not None:
        raise Failed(reason)
    directory = StoreDirectory.open(place)

    def write(other: Other) -> None:
        memory = segment.attach(directory, locator)
        memory.view[:5] = b"hello"
        memory.close()
        other.tell("written")

    try:
        mine = segment.create(directory, locator, _SIZE)
        mine.reserve(0, _SIZE)
    except OSError as error:
        raise Failed(
            f"{error.strerror or error}: {segment.space(place.directory)}",
            "free or allow more of it",
        ) from error
    if any(mine.view):
        raise Failed("new memory is not zero", "report it as a bug of asgi_ipc")
    with Other(write) as other:
        other.expect("written")
    if bytes(mine.view[:5]) != b"hello":
        raise Failed("what another process writes there is not seen here")
    mine.close()
    mine.unlink()
    return f"{_SIZE // 1024} KiB shared by two processes; {segment.space(place.directory)}"


# ---- in a folder


def _record_lock(place: Place) -> str:
    return _excludes(place, record_locks_fail, RecordLocks)


def _record_lock_killed(place: Place) -> str:
    return _freed(place, RecordLocks)


def _semaphore(place: Place) -> str:
    def make(path: str, descriptor: int) -> SemaphoreLocks:
        reason = semaphores_fail(path, descriptor) or no_new_ones()
        if reason is not None:
            raise Failed(reason, "the store uses record locks alone, which take longer")
        return SemaphoreLocks(path, descriptor, place)

    store_id = secrets.token_bytes(16)
    mine = make(*_lock_file(place))
    try:
        mine.prepare(store_id, create=True)

        def hold(other: Other) -> None:
            theirs = make(*_lock_file(place))
            theirs.prepare(store_id, create=False)
            theirs.mutex(locks.CHANNELS_LOCK, memoryview(b"")).lock()
            other.tell("held")
            signal.pause()

        with Other(hold) as other:
            other.expect("held")
            other.kill()
            began = time.monotonic()
            mine.mutex(locks.CHANNELS_LOCK, memoryview(b"")).lock()
            return f"{(time.monotonic() - began) * 1000:.1f} ms after SIGKILL"
    finally:
        mine.close()
        mine.remove(store_id)


def _flock(place: Place) -> str:
    return _excludes(place, flocks_fail, _file_locks)


def _flock_killed(place: Place) -> str:
    return _freed(place, _file_locks)


def _file_locks(path: str, descriptor: int) -> locks.Locks:
    place = Place(os.path.dirname(path), 0o600, None)
    return FileLocks(path, descriptor, StoreDirectory.open(place))


_Maker = Callable[[str, int], locks.Locks]
_FLOCK_ADVICE = "the store uses flock instead where that works; else " + _ELSEWHERE


def _lock_file(place: Place) -> tuple[str, int]:
    path = os.path.join(place.directory, "lock")
    return path, os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _open(place: Place, make: _Maker) -> tuple[str, int, locks.Locks]:
    path, descriptor = _lock_file(place)
    return path, descriptor, make(path, descriptor)


def _excludes(place: Place, fail: Callable[[str, int], str | None], make: _Maker) -> str:
    path, descriptor, mine = _open(place, make)
    reason = fail(path, descriptor)
    if reason is not None:
        raise Failed(reason, _FLOCK_ADVICE)

    def hold(other: Other) -> None:
        theirs = _open(place, make)[2]
        other.tell("held" if theirs.hold(locks.FIRST_SLOT) else "refused")
        other.expect("release")
        theirs.release(locks.FIRST_SLOT)
        other.tell("released")

    with Other(hold) as other:
        other.expect("held")
        if mine.hold(locks.FIRST_SLOT):
            raise Failed("two processes get the same lock", _FLOCK_ADVICE)
        other.tell("release")
        other.expect("released")
        if not mine.hold(locks.FIRST_SLOT):
            raise Failed("a lock that was given back is refused", _FLOCK_ADVICE)
    return "one process has it, the other waits"


def _freed(place: Place, make: _Maker) -> str:
    mine = _open(place, make)[2]

    def hold(other: Other) -> None:
        theirs = _open(place, make)[2]
        other.tell("held" if theirs.hold(locks.FIRST_SLOT) else "refused")
        signal.pause()

    with Other(hold) as other:
        other.expect("held")
        other.kill()
        return f"free {_until(lambda: mine.hold(locks.FIRST_SLOT)):.1f} ms after SIGKILL"


def _until(condition: Callable[[], bool]) -> float:
    """Milliseconds until the condition is true; `Failed` if it never is."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() > start + PATIENCE / 2:
            raise Failed("it stays locked", _ELSEWHERE)
        time.sleep(0.001)
    return (time.monotonic() - start) * 1000


def _liveness(place: Place) -> str:
    directory = StoreDirectory.open(place)

    def live(other: Other) -> None:
        sidecar = open_sidecar(directory)
        other.tell("held" if sidecar.hold(locks.FIRST_SLOT) else "refused")
        signal.pause()

    sidecar = open_sidecar(directory)
    if sidecar.is_held(locks.FIRST_SLOT):
        raise Failed("a process that never was is taken for alive", _ELSEWHERE)
    with Other(live) as other:
        other.expect("held")
        if not sidecar.is_held(locks.FIRST_SLOT):
            raise Failed("a living process is taken for dead", _ELSEWHERE)
        other.kill()
        took = _until(lambda: not sidecar.is_held(locks.FIRST_SLOT))
    return f"locked by {locks.NAMES[sidecar.kind]}; death seen after {took:.1f} ms"


def _wake_up(place: Place) -> str:
    directory = StoreDirectory.open(place)
    bell = FifoBell(directory, secrets.token_bytes(14), 1)

    def ring(other: Other) -> None:
        other.tell("ready")
        other.expect("ring")
        other.tell("heard" if ring_once(directory, bell.name) else "nobody there")

    with Other(ring) as other:
        other.expect("ready")
        start = time.monotonic()
        other.tell("ring")
        if not select.select([bell.fileno()], [], [], PATIENCE / 2)[0]:
            raise Failed("the FIFO was written to, but its reader not woken", _ELSEWHERE)
        took = time.monotonic() - start
        other.expect("heard")
    bell.drop()
    if ring_once(directory, bell.name):
        raise Failed("a FIFO without a reader takes what is written", _ELSEWHERE)
    return f"woken in {took * 1000:.1f} ms"


def _reservation(place: Place) -> str:
    path = os.path.join(place.directory, "memory")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    give(descriptor, 4 * _SIZE, 0o600, None)
    memory = FileMemory(descriptor)
    try:
        memory.reserve(0, _SIZE)
    except OSError as error:
        raise Failed(str(error.strerror), f"free some space, or {_ELSEWHERE}") from error
    memory.view[:_SIZE] = b"x" * _SIZE
    blocks = os.stat(path).st_blocks * 512
    memory.close()
    how = "posix_fallocate" if hasattr(os, "posix_fallocate") else "writing zeros"
    page = mmap.PAGESIZE
    return f"{blocks // 1024} KiB taken for {_SIZE // 1024} KiB, by {how}; pages of {page} bytes"
