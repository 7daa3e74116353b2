"""flock(2), for where fcntl record locks don't work.

A flock is on a whole file, so each byte is played by a small file beside the lock file. Its
trap: a forked child shares its parent's locks, until it closes the descriptors, which it
therefore does first of all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import ClassVar

from ..directory import StoreDirectory
from .base import (
    AT_ONCE,
    CHANNELS_LOCK,
    FIRST_SLOT,
    FLOCK,
    GROUPS_LOCK,
    HELD,
    OPENING,
    Gone,
    again,
    unusable,
)
from .mutex import HintedMutex, Mutex


class FileLocks:
    """flock on the lock file (OPENING) and on ``lock.<store>.<byte>`` files beside it.

    The files carry the store's id: a later store in the same directory has others. Those
    of the processes stay until the store goes; there is at most one for each slot.
    """

    kind: ClassVar[int] = FLOCK

    def __init__(self, path: str, descriptor: int, directory: StoreDirectory) -> None:
        self._path = path
        self._directory = directory
        self._lock_file = descriptor
        self._store = ""
        self._descriptors = {OPENING: descriptor}
        self._held: dict[int, int] = {}

    def _name(self, byte: int) -> str:
        return f"{os.path.basename(self._path)}.{self._store}.{byte}"

    def _file(self, byte: int) -> str:
        return f"{self._path}.{self._store}.{byte}"

    def prepare(self, store_id: bytes, create: bool) -> None:
        """See `Locks.prepare`. All have the same files open."""
        if self._store != store_id.hex():
            self._drop(CHANNELS_LOCK)
            self._drop(GROUPS_LOCK)
            self._store = store_id.hex()
        for byte in (CHANNELS_LOCK, GROUPS_LOCK):
            if byte not in self._descriptors:
                self._descriptors[byte] = self._open(byte, create)

    def try_lock(self, byte: int) -> bool:
        """See `Locks.try_lock`."""
        return self._flock(byte, AT_ONCE)

    def lock(self, byte: int) -> None:
        """See `Locks.lock`."""
        self._flock(byte, fcntl.LOCK_EX)

    def _flock(self, byte: int, how: int) -> bool:
        descriptor = self._descriptors.get(byte, -1)
        if descriptor < 0:
            descriptor = self._reach(byte)
        try:
            fcntl.flock(descriptor, how)
        except OSError as error:
            if how == AT_ONCE and error.errno in HELD:
                return False
            raise unusable(self._path, error) from error
        return True

    def unlock(self, byte: int) -> None:
        """See `Locks.unlock`."""
        descriptor = self._descriptors.get(byte, -1)
        if descriptor >= 0:  # Else it was not locked: `Gone`.
            try:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            except OSError as error:
                raise unusable(self._path, error) from error

    def mutex(self, byte: int, words: memoryview, hint: int) -> Mutex:
        """See `Locks.mutex`."""
        return HintedMutex(self, byte, words, hint)

    def give_back(self) -> None:
        """See `Locks.give_back`."""
        for byte in (OPENING, CHANNELS_LOCK, GROUPS_LOCK):
            self.unlock(byte)

    def hold(self, byte: int) -> bool:
        """See `Locks.hold`."""
        if byte in self._held:
            return False
        try:
            descriptor = self._open(byte, create=True)
        except FileNotFoundError as error:
            raise Gone from error
        except OSError as error:
            raise unusable(self._file(byte), error) from error
        self._held[byte] = descriptor
        try:
            fcntl.flock(descriptor, AT_ONCE)
        except OSError as error:
            del self._held[byte]
            os.close(descriptor)
            if error.errno in HELD:
                return False
            raise unusable(self._file(byte), error) from error
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
        return byte in self._held or _is_locked(self._directory, self._name(byte))

    def in_use(self, store_id: bytes) -> bool:
        """See `Locks.in_use`."""
        return any(
            _is_locked(self._directory, name)
            for byte, name in self._files(store_id)
            if byte >= FIRST_SLOT
        )

    def remove(self, store_id: bytes) -> None:
        """See `Locks.remove`."""
        for _, name in self._files(store_id):
            with contextlib.suppress(FileNotFoundError):
                self._directory.unlink(name)

    def _files(self, store_id: bytes) -> Iterator[tuple[int, str]]:
        """The bytes of a store that have a file, and the names of the files."""
        beginning = f"{os.path.basename(self._path)}.{store_id.hex()}."
        with contextlib.suppress(FileNotFoundError):
            for name in self._directory.names():
                byte = name[len(beginning) :]
                if name.startswith(beginning) and byte.isdecimal():
                    yield int(byte), name

    def after_fork_in_child(self) -> None:
        """See `Locks.after_fork_in_child`. To unlock would unlock for the parent: only close."""
        for byte in list(self._descriptors):
            self._drop(byte)
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()
        # The descriptor of the lock file stays in use, so it is replaced. If the file is no more,
        # the store is gone too, and no process needs what the parent may hold.
        with contextlib.suppress(OSError):
            own = again(self._path, self._lock_file)
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
                descriptor = again(self._path, self._lock_file)
            else:
                descriptor = self._open(byte, create=False)
        except FileNotFoundError as error:
            raise Gone from error
        except OSError as error:
            raise unusable(self._path, error) from error
        self._descriptors[byte] = descriptor
        return descriptor

    def _open(self, byte: int, create: bool) -> int:
        directory = self._directory
        name = self._name(byte)
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        descriptor = directory.open_file(name, flags, directory.location.mode)
        try:
            status = os.fstat(descriptor)
            if create and _is_new(status):
                status = directory.finish_file(descriptor, status)
            directory.check_file(name, status)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _is_new(status: os.stat_result) -> bool:
    """Whether a file may be given group and mode: a plain one, this user's, empty, one name."""
    mine = status.st_uid == os.geteuid() and status.st_nlink == 1
    return mine and stat.S_ISREG(status.st_mode) and not status.st_size


def _is_locked(directory: StoreDirectory, name: str) -> bool:
    """Whether another process has a lock on a file."""
    path = os.path.join(directory.path, name)
    try:
        descriptor = directory.open_file(name, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unusable(path, error) from error
    try:
        # Shared, so that two processes that look at once don't take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return True
        raise unusable(path, error) from error
    finally:
        os.close(descriptor)
    return False


def flocks_fail(path: str, descriptor: int) -> str | None:
    """None if flock works on this open file, or what it does wrong."""
    other = again(path, descriptor)
    try:
        fcntl.flock(descriptor, AT_ONCE)
        try:
            fcntl.flock(other, AT_ONCE)
            return "two holders get the same lock"
        except OSError as error:
            if error.errno not in HELD:
                return error.strerror or str(error)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as error:
        # Taken by a process that is just opening the store: so locks work.
        if error.errno not in HELD:
            return error.strerror or str(error)
    finally:
        os.close(other)
    return None
