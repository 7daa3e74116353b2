"""Locks that the kernel frees when their holder dies: two kinds behind one seam.

fcntl record locks on single bytes of the lock file are the rule: portable, and a forked
child has none of its parent's. Their trap: closing *any* descriptor of the file drops
*all* of the process's locks on it, so only `sidecar` opens the lock file.

flock(2) is for systems and file systems where those don't work, as on WSL1 and on some
network and FUSE mounts. A flock is on a whole file, so each byte is played by a small file
beside the lock file. Its trap: a forked child shares its parent's locks, until it closes
the descriptors, which it therefore does first of all.

Which kind a store has is decided once, by trying, when its lock file is new, and stands in
the lock file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import struct
import sys
import time
from typing import ClassVar, Protocol

from ..exceptions import StoreUnavailable
from .segment import Place

#: Bytes that are locked. OPENING also covers creation and removal.
OPENING, CHANNELS_LOCK, GROUPS_LOCK, FIRST_SLOT = 0, 1, 2, 16

#: Kinds of lock, as the lock file says them. Do not change.
FCNTL, FLOCK = 1, 2
#: What people call them.
NAMES = {FCNTL: "fcntl record locks", FLOCK: "flock"}

_HELD = {errno.EACCES, errno.EAGAIN}
#: Whether one process can play two. Asked of the platform as well, since that decides how
#: a struct flock is laid out.
_OTHER_HOLDER = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
#: Where the bytes begin that are locked only to see whether locks work.
_TRIAL = 1 << 20


class Gone(Exception):
    """The store was removed while this process had it; open it again."""


class Locks(Protocol):
    """The locks of one lock file in this process.

    All raise `StoreUnavailable` if the system can't lock, and `lock` and `hold` raise
    `Gone` if the files were removed.
    """

    kind: ClassVar[int]

    def prepare(self, store_id: bytes, create: bool) -> None:
        """Be ready for the locks of this store. FileNotFoundError if some are missing."""

    def lock(self, byte: int) -> None:
        """Wait for a byte and take it. The caller holds the sidecar's ``thread_lock``."""

    def unlock(self, byte: int) -> None:
        """Give a byte back."""

    def hold(self, byte: int) -> bool:
        """Take a byte for as long as this process lives; False if it is taken."""

    def release(self, byte: int) -> None:
        """Give up a byte that is held."""

    def is_held(self, byte: int) -> bool:
        """Whether any living process holds a byte."""

    def remove(self, store_id: bytes) -> None:
        """Remove what lies beside the lock file for this store, whoever uses it."""

    def after_fork(self) -> None:
        """Called first of all in a forked child: nothing is held here."""

    def close(self) -> None:
        """Let go of everything."""


class RecordLocks:
    """fcntl record locks on bytes of the lock file itself."""

    kind: ClassVar[int] = FCNTL

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._held: set[int] = set()

    def prepare(self, store_id: bytes, create: bool) -> None:
        """See `Locks.prepare`."""

    def lock(self, byte: int) -> None:
        """See `Locks.lock`."""
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, byte)
                return
            except OSError as error:
                # The kernel counts all threads of a process as one and can see a
                # circle where there is none; whoever is inside is out in microseconds.
                if error.errno != errno.EDEADLK:
                    raise _unusable(self._path, error) from error
            time.sleep(0.0005)

    def unlock(self, byte: int) -> None:
        """See `Locks.unlock`."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, byte)
        except OSError as error:
            raise _unusable(self._path, error) from error

    def hold(self, byte: int) -> bool:
        """See `Locks.hold`."""
        if byte in self._held or not self._try(byte):
            return False
        self._held.add(byte)
        return True

    def release(self, byte: int) -> None:
        """See `Locks.release`."""
        self._held.discard(byte)
        self.unlock(byte)

    def is_held(self, byte: int) -> bool:
        """See `Locks.is_held`."""
        # The kernel would grant it to its own holder.
        if byte in self._held:
            return True
        if not self._try(byte):
            return True
        self.unlock(byte)
        return False

    def _try(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise _unusable(self._path, error) from error
        return True

    def remove(self, store_id: bytes) -> None:
        """See `Locks.remove`."""

    def after_fork(self) -> None:
        """See `Locks.after_fork`. The kernel left the locks with the parent."""
        self._held.clear()

    def close(self) -> None:
        """See `Locks.close`. The locks go with the lock file's descriptor."""


class FileLocks:
    """flock on the lock file (OPENING) and on ``lock.<store>.<byte>`` files beside it.

    The files carry the store's id: a later store in the same directory has others. Those
    of the processes stay until the store goes; there is at most one for each slot.
    """

    kind: ClassVar[int] = FLOCK

    def __init__(self, path: str, descriptor: int, place: Place) -> None:
        self._path = path
        self._place = place
        self._lock_file = descriptor
        self._store = ""
        self._descriptors = {OPENING: descriptor}
        self._held: dict[int, int] = {}

    def _file(self, byte: int) -> str:
        return f"{self._path}.{self._store}.{byte}"

    def prepare(self, store_id: bytes, create: bool) -> None:
        """See `Locks.prepare`. Comes under OPENING, so all have the same files open."""
        if self._store != store_id.hex():
            self._drop(CHANNELS_LOCK)
            self._drop(GROUPS_LOCK)
            self._store = store_id.hex()
        for byte in (CHANNELS_LOCK, GROUPS_LOCK):
            if byte not in self._descriptors:
                self._descriptors[byte] = self._open(byte, create)

    def lock(self, byte: int) -> None:
        """See `Locks.lock`."""
        descriptor = self._descriptors.get(byte, -1)
        if descriptor < 0:
            descriptor = self._reach(byte)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise _unusable(self._path, error) from error

    def unlock(self, byte: int) -> None:
        """See `Locks.unlock`."""
        descriptor = self._descriptors.get(byte, -1)
        if descriptor >= 0:  # Else it was not locked: `Gone`.
            try:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            except OSError as error:
                raise _unusable(self._path, error) from error

    def hold(self, byte: int) -> bool:
        """See `Locks.hold`."""
        if byte in self._held:
            return False
        try:
            descriptor = self._open(byte, create=True)
        except FileNotFoundError as error:
            raise Gone from error
        except OSError as error:
            raise _unusable(self._file(byte), error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD:
                return False
            raise _unusable(self._file(byte), error) from error
        self._held[byte] = descriptor
        return True

    def release(self, byte: int) -> None:
        """See `Locks.release`."""
        descriptor = self._held.pop(byte, -1)
        if descriptor >= 0:
            # A child forked by code that runs no hooks would keep it locked.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def is_held(self, byte: int) -> bool:
        """See `Locks.is_held`."""
        if byte in self._held:
            return True
        try:
            descriptor = self._open(byte, create=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unusable(self._file(byte), error) from error
        try:
            # Shared, so that two who look at once don't take each other for the holder.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return True
            raise _unusable(self._file(byte), error) from error
        finally:
            os.close(descriptor)
        return False

    def remove(self, store_id: bytes) -> None:
        """See `Locks.remove`."""
        directory, name = os.path.split(self._path)
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(directory):
                if entry.startswith(f"{name}.{store_id.hex()}."):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(directory, entry))

    def after_fork(self) -> None:
        """See `Locks.after_fork`. To unlock would unlock for the parent: only close."""
        for byte in list(self._descriptors):
            self._drop(byte)
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()
        # The sidecar goes on using the lock file's, so that one is replaced. If the file
        # is no more, then so is the store, and nobody needs what the parent may hold.
        with contextlib.suppress(OSError):
            own = _again(self._path, self._lock_file)
            os.dup2(own, self._lock_file, inheritable=False)
            os.close(own)
            self._descriptors[OPENING] = self._lock_file

    def close(self) -> None:
        """See `Locks.close`."""
        for byte in list(self._held):
            self.release(byte)
        for byte in list(self._descriptors):
            self._drop(byte)

    def _drop(self, byte: int) -> None:
        descriptor = self._descriptors.pop(byte, -1)
        if descriptor >= 0 and descriptor != self._lock_file:
            os.close(descriptor)

    def _reach(self, byte: int) -> int:
        """Open for itself, after a fork, what the parent had open."""
        try:
            if byte == OPENING:
                descriptor = _again(self._path, self._lock_file)
            else:
                descriptor = self._open(byte, create=False)
        except FileNotFoundError as error:
            raise Gone from error
        except OSError as error:
            raise _unusable(self._path, error) from error
        self._descriptors[byte] = descriptor
        return descriptor

    def _open(self, byte: int, create: bool) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        if not create:
            return os.open(self._file(byte), flags)
        place = self._place
        descriptor = os.open(self._file(byte), flags | os.O_CREAT, place.mode)
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                if place.gid is not None:
                    os.fchown(descriptor, -1, place.gid)
                os.fchmod(descriptor, place.mode)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def choose(path: str, descriptor: int, place: Place, recorded: int) -> Locks:
    """The locks of a lock file: of the kind that it says, or else of the first that works.

    Nobody in this process may have the file open but as ``descriptor``. Takes tens of
    microseconds. Raises `StoreUnavailable` when what is needed does not work, and
    FileNotFoundError if the file is removed meanwhile.
    """
    trials = {FCNTL: record_locks_fail, FLOCK: flocks_fail}
    wrong = {}
    for kind in [recorded] if recorded in trials else list(trials):
        reason = trials[kind](path, descriptor)
        if reason is None:
            if kind == FCNTL:
                return RecordLocks(path, descriptor)
            return FileLocks(path, descriptor, place)
        wrong[kind] = reason
    told = "; ".join(f"{NAMES[kind]} do not work here ({why})" for kind, why in wrong.items())
    if recorded in trials:
        other = NAMES[FLOCK if recorded == FCNTL else FCNTL]
        raise StoreUnavailable(
            f"the store at {place.directory!r} was made with {NAMES[recorded]}, which this "
            f"process can't use ({wrong[recorded]}), and a store never has {other} as well; end "
            "the processes that use it and remove it from here, or choose another "
            "engine_options['directory']"
        )
    raise StoreUnavailable(
        f"can't lock {path!r}: {told}; choose an engine_options['directory'] on another file "
        "system, best a local one"
    )


def record_locks_fail(path: str, descriptor: int) -> str | None:
    """None if fcntl record locks work on this open file, or what they do wrong.

    Record locks never meet another of the same process, and to fork a large or threaded
    process for a look is dear and dangerous. But they meet the locks of an open file
    description, which Linux has, as they would meet those of another process: a second
    descriptor plays that part. Where there is no such thing it is enough that locking
    raises nothing; but a system that has Linux's C library without Linux's locks only
    imitates Linux, and has been known to hand one lock to several processes (WSL1).
    """
    # Bytes of this trial's own, so that others who try at the same time don't count.
    byte = _TRIAL + secrets.randbelow(_TRIAL)

    def take() -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        return True

    other = _again(path, descriptor)
    try:
        if not take():
            return "a lock that nobody has is refused"
        if _OTHER_HOLDER:
            if _take_as_other(other, byte):
                return "two holders get the same lock"
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, byte)
            if not _take_as_other(other, byte):
                return "a lock that was given back is refused"
            if take():
                return "two holders get the same lock"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        # Drops the trial's locks, and would drop every other one too.
        os.close(other)
    return None


def _take_as_other(descriptor: int, byte: int) -> bool:
    # Linux's struct flock: type, whence, start, length, pid; the pid must be 0.
    wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def flocks_fail(path: str, descriptor: int) -> str | None:
    """None if flock works on this open file, or what it does wrong."""
    other = _again(path, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return "two holders get the same lock"
        except OSError as error:
            if error.errno not in _HELD:
                return error.strerror or str(error)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as error:
        # Taken by somebody who is just opening the store: then it works.
        if error.errno not in _HELD:
            return error.strerror or str(error)
    finally:
        os.close(other)
    return None


def _again(path: str, descriptor: int) -> int:
    """A second descriptor of a file that is open; FileNotFoundError if it was removed."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    other = os.open(path, flags)
    try:
        if not os.path.sameopenfile(other, descriptor):
            raise FileNotFoundError(errno.ENOENT, "the lock file was replaced", path)
    except BaseException:
        os.close(other)
        raise
    return other


def _unusable(path: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"can't lock {path!r} ({error.strerror}): the store needs a file system with fcntl "
        "record locks or flock; choose another engine_options['directory']"
    )
