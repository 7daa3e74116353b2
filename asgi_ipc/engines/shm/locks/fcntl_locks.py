"""fcntl record locks on single bytes of the lock file: the kind for every UNIX.

Portable, and a forked child has none of its parent's. Their trap: closing *any* descriptor
of the file drops *all* of the process's locks on it, so only `lock_file` opens the lock file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import struct
import sys
import time
from typing import ClassVar

from .base import AT_ONCE, FCNTL, FIRST_SLOT, GROUPS_LOCK, HELD, OPENING, again, unusable
from .mutex import HintedMutex, Mutex

#: Whether one process can play two. Asked of the platform as well, since that decides how
#: a struct flock is laid out.
_OTHER_HOLDER = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
#: Where the bytes begin that are locked only to see whether locks work.
TRIAL = 1 << 20


class RecordLocks:
    """fcntl record locks on bytes of the lock file itself."""

    kind: ClassVar[int] = FCNTL

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._held: set[int] = set()

    def prepare(self, store_id: bytes, create: bool) -> None:
        """See `Locks.prepare`."""

    def try_lock(self, byte: int, length: int = 1) -> bool:
        """See `Locks.try_lock`. Of several bytes, all or none."""
        try:
            fcntl.lockf(self._descriptor, AT_ONCE, length, byte)
        except OSError as error:
            if error.errno in HELD:
                return False
            raise unusable(self._path, error) from error
        return True

    def lock(self, byte: int) -> None:
        """See `Locks.lock`."""
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, byte)
                return
            except OSError as error:
                # The kernel counts all threads of a process as one and can see a
                # circle where there is none; the holder is out in microseconds.
                if error.errno != errno.EDEADLK:
                    raise unusable(self._path, error) from error
            time.sleep(0.0005)

    def unlock(self, byte: int, length: int = 1) -> None:
        """See `Locks.unlock`."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, length, byte)
        except OSError as error:
            raise unusable(self._path, error) from error

    def mutex(self, byte: int, words: memoryview, hint: int) -> Mutex:
        """See `Locks.mutex`."""
        return HintedMutex(self, byte, words, hint)

    def give_back(self) -> None:
        """See `Locks.give_back`."""
        self.unlock(OPENING, GROUPS_LOCK - OPENING + 1)

    def hold(self, byte: int) -> bool:
        """See `Locks.hold`."""
        # Another engine's of this process, which the kernel would grant once more.
        if byte in self._held or not self.try_lock(byte):
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
        try:
            return not self.try_lock(byte)
        finally:
            # Also if a signal's handler raises: what stays locked looks alive.
            self.unlock(byte)

    def in_use(self, store_id: bytes) -> bool:
        """See `Locks.in_use`."""
        return self._held_between(FIRST_SLOT, TRIAL)

    def _held_between(self, first: int, end: int) -> bool:
        """Whether a slot is held here, or by another process any byte from ``first`` to ``end``."""
        if self._held or not self.try_lock(first, end - first):
            return True
        self.unlock(first, end - first)
        return False

    def remove(self, store_id: bytes) -> None:
        """See `Locks.remove`."""

    def after_fork_in_child(self) -> None:
        """See `Locks.after_fork_in_child`. The kernel left the locks with the parent."""
        self._held.clear()

    def close(self) -> None:
        """See `Locks.close`. The locks go with the lock file's descriptor."""
        # A thread that still calls must not unlock a file that gets the same number.
        self._descriptor = -1
        self._held.clear()


def record_locks_fail(path: str, descriptor: int) -> str | None:
    """None if fcntl record locks work on this open file, or what they do wrong.

    Record locks never meet another of the same process, and to fork a large or threaded
    process for a look is dear and dangerous. But they meet the locks of an open file
    description, which Linux has, as they would meet those of another process: a second
    descriptor plays that part. Where there is no such thing it is enough that locking
    raises nothing; but a system that has Linux's C library without Linux's locks only
    imitates Linux, and has been known to hand one lock to several processes (WSL1).
    """
    # A byte of this trial's own, so that other processes' trials at the same time don't count.
    byte = TRIAL + secrets.randbelow(TRIAL)

    def take() -> bool:
        try:
            fcntl.lockf(descriptor, AT_ONCE, 1, byte)
        except OSError as error:
            if error.errno in HELD:
                return False
            raise
        return True

    other = again(path, descriptor)
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
        if error.errno in HELD:
            return False
        raise
    return True
