"""Record locks, and semaphores for what is locked all the time: the kind that is the rule on Linux.

Being inside a segment takes two system calls with any lock that the kernel releases for a dead
holder; with a `robust_mutex` it takes none. Opening, and which processes are alive, stay with
record locks.

Semaphores, and the flags that belong to them, lie under /dev/shm, whatever the engine. Each process
that sees the lock file must see them too. So this kind is chosen for the folder that a user has by
default, and for one that lies there itself; in any other folder, which containers with different
/dev/shm may share, record locks do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable
from functools import cache
from typing import ClassVar

from asgi_ipc.exceptions import StoreUnavailable

from ..errors import remedy_for
from ..files import SHM, FileMemory, free_space, give
from ..location import FOLDER_BYTES, Location, folder_mark, folder_said, public_token
from .base import CHANNELS_LOCK, FIRST_SLOT, GROUPS_LOCK, SEMAPHORE, OtherLibrary
from .fcntl_locks import TRIAL, RecordLocks, record_locks_fail
from .mutex import Mutex
from .robust_mutex import (
    FLAGS_SIZE,
    LOCK_SLOTS,
    RobustMutex,
    SemLock,
    open_semaphore,
)

#: How the file of a semaphore begins: in the GNU C library, and in musl.
_BEGINNINGS = "sem.", ""
#: How the name of a semaphore itself begins.
_SEMAPHORES = "asgi_ipc."
#: More than a semaphore takes on any system.
_SIZE = 64
#: What is used of a class that Python keeps for itself.
_USED = {"_rebuild", "_after_fork", "_count", "_is_zero", "acquire", "release"}
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
#: Bytes of the lock file: a recovery lock for each mutex, and the slots, which are among the bytes
#: that tell all versions that a process uses a store (`locks.FIRST_SLOT`).
_RECOVERY_LOCKS = {CHANNELS_LOCK: 3, GROUPS_LOCK: 4}
_FIRST_LOCK_SLOT = 1 << 16


#: Among the bytes of the flags that mean nothing: which directory the store has.
_FOLDER = slice(72, 72 + FOLDER_BYTES)


def folder_of_flags(token: str, known: Iterable[str]) -> str | None:
    """Return the directory of the store whose flags have that token in their name.

    A long path is not written down, and only recognized among the ``known`` ones. Marks of
    another user, and what is no plain file, say nothing.
    """
    path = f"{SHM}/asgi_ipc.{token}.marks"
    with contextlib.suppress(OSError):
        if not _is_own(path):
            return None
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            said = file.read(_FOLDER.stop)[_FOLDER]
        return folder_said(said) or next(
            (each for each in known if folder_mark(each) == said), None
        )
    return None


def _semaphore(store_id: bytes, byte: int) -> str:
    return f"{_SEMAPHORES}{public_token(store_id, 'locks')}.{byte}"


def _flags(store_id: bytes) -> str:
    return f"{SHM}/asgi_ipc.{public_token(store_id, 'locks')}.marks"


def _files(store_id: bytes) -> list[str]:
    """Return where semaphores of either C library, and the flags, lie."""
    return [
        f"{SHM}/{beginning}{_semaphore(store_id, byte)}"
        for beginning in _BEGINNINGS
        for byte in _RECOVERY_LOCKS
    ] + [_flags(store_id)]


def _is_own(path: str) -> bool:
    """Whether a file is this user's alone; then no other can put anything in its place.

    Raises FileNotFoundError.
    """
    status = os.lstat(path)
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and status.st_nlink == 1
        and not status.st_mode & 0o022
    )


def _is_foreign(path: str) -> bool:
    """Whether there is a file, and it is not this user's alone."""
    try:
        return not _is_own(path)
    except FileNotFoundError:
        return False


def _make_semaphore(path: str, mode: int) -> None:
    """Make a semaphore that is held: a file of zeros is one.

    `sem_open` would first make a file of a random name, which a killed process would leave.
    """
    descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, mode)
    give(descriptor, _SIZE, mode, None)
    try:
        os.write(descriptor, bytes(_SIZE))
    finally:
        os.close(descriptor)


class SemaphoreLocks(RecordLocks):
    """`RecordLocks`, but the mutexes are of semaphores."""

    kind: ClassVar[int] = SEMAPHORE

    def __init__(self, path: str, descriptor: int, location: Location) -> None:
        super().__init__(path, descriptor)
        self._location = location
        self._store = b""
        self._memory: FileMemory | None = None
        self._mutexes: dict[int, RobustMutex] = {}
        self._slot = -1

    def prepare(self, store_id: bytes, create: bool) -> None:
        """See `Locks.prepare`."""
        if self._store == store_id:
            return
        self._forget()
        if create:
            try:
                self._create(store_id)
            except FileExistsError:
                raise  # Taken, and tried again with the names of another id.
            except OSError as error:
                usual = "make room there, or name an engine_options['directory'] that does not lie "
                raise StoreUnavailable(
                    f"can't make semaphores in {free_space(SHM)}: {error.strerror}; "
                    f"{remedy_for(error, usual + 'there')}"
                ) from error
        try:
            self._attach(store_id)
            self.take_slot()
        except BaseException:
            self._forget()
            raise
        self._store = store_id

    def _create(self, store_id: bytes) -> None:
        mode = self._location.mode
        descriptor = os.open(_flags(store_id), _FLAGS | os.O_CREAT | os.O_EXCL, mode)
        give(descriptor, FLAGS_SIZE, mode, None)
        memory = FileMemory(descriptor)
        try:
            memory.reserve(0, FLAGS_SIZE)
            memory.view[_FOLDER] = folder_mark(self._location.directory)
        finally:
            memory.close()
        for byte in _RECOVERY_LOCKS:
            name = _semaphore(store_id, byte)
            _make_semaphore(f"{SHM}/{_beginning()}{name}", mode)
            open_semaphore(f"/{name}").release()

    def _attach(self, store_id: bytes) -> None:
        foreign = [path for path in _files(store_id) if _is_foreign(path)]
        if foreign:
            # The name that the other C library uses is free here, so any user may occupy it.
            with contextlib.suppress(OSError, StoreUnavailable):
                opened = f"{SHM}/{_beginning()}{_SEMAPHORES}", _flags(store_id)
                foreign = [path for path in foreign if path.startswith(opened)]
        if foreign:
            raise StoreUnavailable(
                f"{foreign[0]!r} is not a file of this user's alone and was left as it is; choose "
                "another prefix or engine_options['directory']"
            )
        self._memory = FileMemory(os.open(_flags(store_id), _FLAGS))
        if not self._memory.view.nbytes:
            raise FileNotFoundError(errno.ENOENT, "the flags were never completed")
        if self._memory.view.nbytes < FLAGS_SIZE:
            raise StoreUnavailable(
                f"{_flags(store_id)!r} has {self._memory.view.nbytes} bytes instead of "
                f"{FLAGS_SIZE}: it was cut; end the processes that use the store at "
                f"{self._location.directory!r} and remove it, or choose another prefix"
            )
        for number, (byte, recovery_lock) in enumerate(_RECOVERY_LOCKS.items()):
            name = f"/{_semaphore(store_id, byte)}"
            try:
                mutex = RobustMutex(name, self._memory.view, number, recovery_lock, self)
            except FileNotFoundError as error:
                if any(os.path.exists(f"{SHM}/{each}{name[1:]}") for each in _BEGINNINGS):
                    raise OtherLibrary(*error.args, name) from error
                raise
            self._mutexes[byte] = mutex

    def mutex(self, byte: int, words: memoryview, hint: int) -> Mutex:
        """See `Locks.mutex`."""
        return self._mutexes[byte]

    def give_back(self) -> None:
        """See `Locks.give_back`."""
        for mutex in self._mutexes.values():
            mutex.unlock()
        super().give_back()

    def remove(self, store_id: bytes) -> None:
        """See `Locks.remove`."""
        for path in _files(store_id):
            with contextlib.suppress(FileNotFoundError):
                if _is_own(path):
                    os.unlink(path)

    def in_use(self, store_id: bytes) -> bool:
        """See `Locks.in_use`."""
        if self._slot < 0:
            return super().in_use(store_id)
        # A process that only looks has a slot already and is no user: the memory may be gone.
        own = _FIRST_LOCK_SLOT + self._slot
        return self._held_between(FIRST_SLOT, own) or self._held_between(own + 1, TRIAL)

    def after_fork_in_child(self) -> None:
        """See `Locks.after_fork_in_child`. A slot is taken when it is first needed."""
        super().after_fork_in_child()
        self._slot = -1
        for mutex in self._mutexes.values():
            mutex.after_fork_in_child()

    def close(self) -> None:
        """See `Locks.close`."""
        self._forget()
        super().close()

    def _forget(self) -> None:
        """Forget the store that these locks were prepared for."""
        self._store = b""
        self._slot = -1
        for mutex in self._mutexes.values():
            mutex.close()
        self._mutexes.clear()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    # ---- slots

    def take_slot(self) -> None:
        """See `Slots.take_slot`."""
        try:
            slot, left_flagged = self._find_slot()
        except BaseException:
            # What stays locked would look alive.
            self.unlock(_FIRST_LOCK_SLOT, LOCK_SLOTS)
            raise
        self._slot = slot
        for mutex in self._mutexes.values():
            mutex.admit(slot)
        if left_flagged:
            for mutex in self._mutexes.values():
                mutex.clear_dead_flags()

    def _find_slot(self) -> tuple[int, bool]:
        """Lock a slot; that, and whether there was one whose owner has died marked."""
        left_flagged = False
        for slot in range(LOCK_SLOTS):
            if not self.try_lock(_FIRST_LOCK_SLOT + slot):
                continue
            if not self._is_flagged(slot):
                return slot, left_flagged
            # One must go on seeing that its owner died.
            self.unlock(_FIRST_LOCK_SLOT + slot)
            left_flagged = True
        raise StoreUnavailable(
            f"{LOCK_SLOTS} processes use the store at {self._location.directory!r}, and no more can"
        )

    def _is_flagged(self, slot: int) -> bool:
        return any(mutex.is_flagged(slot) for mutex in self._mutexes.values())

    def is_alive(self, slot: int) -> bool:
        """See `Slots.is_alive`."""
        return slot == self._slot or self.is_held(_FIRST_LOCK_SLOT + slot)

    def leave(self, recovery_lock: int) -> None:
        """See `Slots.leave`."""
        # All slots but this process's own.
        for first, last in ((0, self._slot), (self._slot + 1, LOCK_SLOTS)):
            if first < last:
                self.unlock(_FIRST_LOCK_SLOT + first, last - first)
        self.unlock(recovery_lock)


def are_seen_by_all(location: Location, descriptor: int) -> bool:
    """Return whether all processes that see the lock file see semaphores, and may remove them."""
    if location.gid is not None:
        return False
    with contextlib.suppress(OSError):
        return location.private or os.stat(SHM).st_dev == os.fstat(descriptor).st_dev
    return False


def semaphores_fail(path: str, descriptor: int) -> str | None:
    """None if a store with semaphores can be used here, or what is wrong."""
    if SemLock is None or _USED - set(dir(SemLock)):
        return "this Python has no semaphores that asgi_ipc knows"
    return record_locks_fail(path, descriptor)


def no_new_ones() -> str | None:
    """None if semaphores can be made here, where there is a class for them, or what is wrong."""
    try:
        _beginning()
    except StoreUnavailable as error:  # /dev/shm is no memory, but a folder of a disk
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return None


@cache
def _beginning() -> str:
    """How the name of a semaphore's file begins here. Raises OSError if none can be made."""
    refusal = OSError(errno.ENOSYS, f"no file under {SHM} can be made a semaphore")
    for beginning in _BEGINNINGS:
        name = f"asgi_ipc.{secrets.token_hex(8)}.t"
        file = f"{SHM}/{beginning}{name}"
        try:
            _make_semaphore(file, 0o600)
            mine, other = open_semaphore(f"/{name}"), open_semaphore(f"/{name}")
            os.unlink(file)  # At once, as a process that is killed before leaves it.
            refused = not mine.acquire(False)
            mine.release()
            if refused and other.acquire(False) and not mine.acquire(False):
                return beginning
        except OSError as error:
            refusal = error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(file)
    raise refusal
