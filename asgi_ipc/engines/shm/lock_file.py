"""The lock file: which processes are inside a store and alive, and where its memory is.

The locks are those of `locks`. Closing any descriptor of the file can drop all of the
process's locks on it. So a process opens each lock file once, in the registry below, never maps it,
and closes it only when no store here needs it.

Its bytes hold a `LockFileHeader`, which is read and written under the OPENING lock only. Neither
their layout nor which bytes are locked changes with the version: a store of another one can be
replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from asgi_ipc.exceptions import Reentered, StoreUnavailable

from .critical_section import CriticalSection
from .directory import StoreDirectory, check_links
from .errors import unusable
from .location import Location, described
from .locks.base import NAMES, OPENING, Locks
from .locks.choice import choose
from .machine import machine, told

_MAGIC = b"asgi_ipc lock\n"
#: Most seconds to wait for another process that opens or removes the store.
OPENING_LIMIT = 10.0
#: Seconds between two tries: to begin with, and at most.
_SHORT, _LONG = 0.0002, 0.02
#: Most bytes of an engine's name.
LONGEST_NAME = 16
_FORMAT = struct.Struct(f"<14sHHHH16s16s{LONGEST_NAME}s")
#: Its beginning: magic, version, kind of lock, whether ready, and the `machine` that wrote it (0
#: before format 4, which only 64-bit machines of one byte order wrote).
_HEAD = struct.Struct("<14sHHHH")
#: Where the engine's name was before format 4, behind what its memory was called.
_OLD_ENGINE, _FIRST_WITHOUT = 174, 4


#: What the lock file says of the memory. Do not change.
READY, REMOVED = 1, 2


class LockFileHeader(NamedTuple):
    """What the lock file says of its store.

    Every user of the store can write it, so it names nothing but the store: where memory and locks
    are follows from the store's id, and is compared with it before it is used.
    """

    #: READY once both segments are complete, REMOVED while they are being removed, else 0.
    ready: int
    store_id: bytes
    boot_id: bytes
    engine: str
    #: Of the memory's layout. That of the lock file is the same in all versions.
    version: int


class LockFile:
    """One lock file, open in this process. Made by `open_lock_file` alone."""

    def __init__(
        self, directory: StoreDirectory, name: str, descriptor: int, key: tuple[int, int],
        locks: Locks,
    ) -> None:  # fmt: skip
        self.directory = directory.share()
        self.name = name
        self.path = os.path.join(directory.path, name)
        self.key = key
        #: One thread of this process at a time; the locks do not tell threads apart.
        self.section = CriticalSection(locks.give_back)
        self._descriptor = descriptor
        self._more_descriptors: list[int] = []
        self._users = 1
        self._locks = locks
        #: Of its locks: a key of `locks.NAMES`.
        self.kind = locks.kind
        # The `Locks` as they are.
        self.prepare, self.mutex = locks.prepare, locks.mutex
        self.hold, self.release, self.is_held = locks.hold, locks.release, locks.is_held
        self.in_use = locks.in_use

    # ---- what it says

    def read(self) -> LockFileHeader | None:
        """Return the header, or None if nothing was ever written."""
        data = os.pread(self._descriptor, _FORMAT.size, 0)
        if not data:
            return None
        if len(data) < _FORMAT.size or not data.startswith(_MAGIC):
            raise StoreUnavailable(
                f"{self.path!r} is not a lock file of asgi_ipc and was left as it is; remove it, "
                "if no other program needs it, or choose another prefix or "
                "engine_options['directory']"
            )
        _check_machine(self.path, data)
        _, version, kind, ready, _, store_id, boot_id, engine = _FORMAT.unpack(data)
        if kind not in NAMES:
            raise StoreUnavailable(
                f"the store at {os.path.dirname(self.path)!r} has locks of kind {kind}, this "
                f"asgi_ipc knows {' and '.join(map(str, NAMES))}; end the processes that use it "
                "and remove it with their version, or choose another prefix"
            )
        if kind != self.kind:
            # Two processes made it at once, each with locks that the other's can't see.
            raise StoreUnavailable(
                f"the store at {os.path.dirname(self.path)!r} was made with {NAMES[kind]}, this "
                f"process uses {NAMES[self.kind]}; end the other processes and remove it, "
                "or choose another engine_options['directory']"
            )
        if version < _FIRST_WITHOUT:
            engine = os.pread(self._descriptor, LONGEST_NAME, _OLD_ENGINE)
        name = engine.rstrip(b"\0").decode("ascii", "replace")
        return LockFileHeader(ready, store_id, boot_id, name, version)

    def write(self, header: LockFileHeader) -> None:
        """Replace the header. Raises OSError."""
        data = _FORMAT.pack(
            _MAGIC,
            header.version,
            self.kind,
            header.ready,
            machine(),
            header.store_id,
            header.boot_id,
            header.engine.encode(),
        )
        os.pwrite(self._descriptor, data, 0)

    def is_at(self, path: str) -> bool:
        """False once the file was removed or moved away: the store is no longer the store."""
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise unusable("reach", path, error) from error
        return (status.st_dev, status.st_ino) == self.key

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Hold OPENING: no other process opens or removes the store. Raises `Gone` if one has.

        Waits at most `OPENING_LIMIT` seconds for the others, then raises `StoreUnavailable`.
        """
        section = self.section
        try:
            try:
                section.enter()
                try:
                    self._lock_opening()
                    yield
                finally:
                    self._locks.unlock(OPENING)
                    section.leave()
            # As `CriticalSection.run`.
            except BaseException:
                section.let_go()
                raise
        except BaseException:
            section.let_go()
            raise

    def _lock_opening(self) -> None:
        limit = time.monotonic() + OPENING_LIMIT
        pause = _SHORT
        while not self._locks.try_lock(OPENING):
            if time.monotonic() > limit:
                raise StoreUnavailable(
                    f"another process has been opening or removing the store at "
                    f"{self.directory.path!r} for more than {OPENING_LIMIT:g} seconds"
                    f"{_holder(self._descriptor)}; if it does not go on, end it"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONG)

    def unlink(self) -> None:
        """Remove the lock file; the store is gone with it. Comes within `opening`."""
        self.directory.unlink(self.name)

    def remove_locks(self, store_id: bytes) -> None:
        """Remove what the locks of a store need beside the lock file. Comes within `opening`."""
        self._locks.remove(store_id)

    # ---- life

    def close(self) -> None:
        """One user less; the last drops every lock."""
        with _alone_in_registry():
            self._users -= 1
            if self._users:
                return
            if _registry.get(self.key) is self:
                del _registry[self.key]
            self._locks.close()
            for descriptor in (self._descriptor, *self._more_descriptors):
                os.close(descriptor)
            self.directory.close()

    def _adopt(self, descriptor: int) -> LockFile:
        """Return it for one user more, with a descriptor of its own that must not be closed yet."""
        self._users += 1
        self._more_descriptors.append(descriptor)
        return self


_registry: dict[tuple[int, int], LockFile] = {}
_registry_lock = threading.RLock()
_registry_busy = False


@contextlib.contextmanager
def _alone_in_registry() -> Iterator[None]:
    """Raises `Reentered` if a signal handler or a ``__del__`` interrupted this thread in here."""
    global _registry_busy
    with _registry_lock:
        if _registry_busy:
            raise Reentered
        try:
            _registry_busy = True
            yield
        finally:
            _registry_busy = False


class OpeningLocks:
    """Whether a thread has a lock of a store that it opens, and that no layer knows yet.

    For `deferred.register`: code that Python runs in between must not wait for other locks, whose
    holders may wait for this one.
    """

    def is_inside(self) -> bool:
        """Return whether the calling thread has one."""
        return _registry_lock._is_owned() or any(  # type: ignore[attr-defined]
            lock_file.section.is_inside() for lock_file in list(_registry.values())
        )


def open_lock_file(directory: StoreDirectory, make: bool = True, name: str = "lock") -> LockFile:
    """Open the lock file of a store's directory, made if need be and ``make`` is true.

    Raises OSError, `StoreUnavailable`.
    """
    with _alone_in_registry():
        with contextlib.suppress(OSError):
            status = directory.status(name)
            known = _known(directory, name, status)
            if known:
                known._users += 1
                return known
            # Before it is opened: a descriptor of another lock file that this process has open
            # could not be closed again without dropping the locks on that.
            directory.check_file(name, status) if status.st_size else check_links(name, status)
        descriptor, is_mine = _open(directory, name, make)
        try:
            status = os.fstat(descriptor)
            known = _known(directory, name, status, descriptor)
            if known:
                return known._adopt(descriptor)
            if is_mine:
                status = directory.finish_file(descriptor, status)
            elif make and _is_unfinished(status, directory.location):
                directory.unlink(name)
                raise FileNotFoundError(errno.ENOENT, "it was unfinished, and is made again", name)
            directory.check_file(name, status)
            path = os.path.join(directory.path, name)
            try:
                locks = choose(path, descriptor, directory, _kind(path, descriptor))
            except (StoreUnavailable, OSError):
                # One that was opened meanwhile is found to be removed, and made again.
                if make and not os.fstat(descriptor).st_size:
                    directory.unlink(name)
                raise
        except BaseException:
            if _may_close(descriptor):
                os.close(descriptor)
            raise
        key = (status.st_dev, status.st_ino)
        _registry[key] = LockFile(directory, name, descriptor, key, locks)
        return _registry[key]


def _known(
    directory: StoreDirectory, name: str, status: os.stat_result, descriptor: int = -1
) -> LockFile | None:
    """Return the lock file of that status if this process has it open.

    Raises `StoreUnavailable` if it is the lock file of another directory: a link was put here.
    """
    known = _registry.get((status.st_dev, status.st_ino))
    if known and status.st_nlink > 1:
        if descriptor >= 0:
            known._more_descriptors.append(descriptor)
        check_links(os.path.join(directory.path, name), status)
    return known


def _open(directory: StoreDirectory, name: str, make: bool) -> tuple[int, bool]:
    """Open a lock file; that, and whether it was made just now."""
    if make:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        with contextlib.suppress(FileExistsError):
            return directory.open_file(name, flags, directory.location.mode), True
    return directory.open_file(name, os.O_RDWR), False


def _is_unfinished(status: os.stat_result, location: Location) -> bool:
    """Whether a file is as a process of this user leaves it that is killed at making it.

    It may also be another one of this user's that a member of the group has put there. So it is
    not given to the group, but removed, which the member might have done as well.
    """
    if status.st_uid != os.geteuid() or status.st_nlink != 1 or status.st_size:
        return False
    right = location.gid in (None, status.st_gid) and status.st_mode & 0o777 == location.mode
    return stat.S_ISREG(status.st_mode) and not right


def _may_close(descriptor: int) -> bool:
    """Whether no lock of this process goes with a descriptor."""
    return all(descriptor not in each._more_descriptors for each in _registry.values())


def _holder(descriptor: int) -> str:
    """Say which process has a lock on the first byte, if the system tells (Linux does)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        number = os.fstat(descriptor).st_ino
        with open("/proc/locks") as table:
            for line in table:
                # 1: POSIX  ADVISORY  WRITE 1234 00:1b:5678 0 0
                words = line.split()
                if "->" in words or int(words[5].rpartition(":")[2]) != number:
                    continue
                if int(words[6]) == 0 and int(words[4]) > 0:
                    owner = os.stat(f"/proc/{words[4]}").st_uid
                    return f": process {words[4]} of user {described(owner)}, it seems"
    return ""


def _kind(path: str, descriptor: int) -> int:
    """The kind of locks that a lock file says it has, or 0.

    Read without a lock, as it says which lock to take; it never changes once written. Nor does
    the machine: processes of another word size or byte order are refused here, before they lock.
    """
    data = os.pread(descriptor, _HEAD.size, 0)
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        return 0
    _check_machine(path, data)
    kind: int = _HEAD.unpack(data)[2]
    return kind


def _check_machine(path: str, data: bytes) -> None:
    """Refuse the store of a machine or a Python with other words."""
    made_by = _HEAD.unpack_from(data)[4]
    if made_by not in (0, machine()):
        raise StoreUnavailable(
            f"the store at {os.path.dirname(path)!r} was made by a {told(made_by)} process, and "
            f"this one is {told(machine())}: they can't share memory or locks; run all processes "
            "with Pythons of one kind, or choose another prefix"
        )


def _after_fork_in_child() -> None:
    # The locks stay with the parent; a thread that held one of these is not here.
    global _registry_lock, _registry_busy
    _registry_lock, _registry_busy = threading.RLock(), False
    for lock_file in _registry.values():
        lock_file.section.after_fork_in_child()
        lock_file._locks.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
