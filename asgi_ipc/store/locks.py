"""Locks that come free when their holder dies: the contract, and what its kinds share.

fcntl record locks (`record_locks`) work on every UNIX. Where they can, semaphores
(`semaphore_locks`) do what is done all the time for a tenth of the price. flock (`file_locks`)
is for systems and file systems where record locks don't work, as on WSL1 and on some network
and FUSE mounts. Which kind a store has is decided once, by trying, when its lock file is new
(`lock_choice`), and stands in the lock file.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import ClassVar, Protocol

from ..exceptions import StoreUnavailable
from .mutex import Mutex

#: Bytes that are locked. OPENING also covers creation and removal.
OPENING, CHANNELS_LOCK, GROUPS_LOCK, FIRST_SLOT = 0, 1, 2, 16

#: Kinds of lock, as the lock file says them. Do not change.
FCNTL, FLOCK, SEMAPHORE = 1, 2, 3
#: What people call them.
NAMES = {FCNTL: "fcntl record locks", FLOCK: "flock", SEMAPHORE: "semaphores"}

#: What the system says of a lock that another holds.
HELD = frozenset({errno.EACCES, errno.EAGAIN})
#: To take a lock, or be told so if another holds it.
AT_ONCE = fcntl.LOCK_EX | fcntl.LOCK_NB


class Gone(Exception):
    """The store was removed while this process had it; open it again."""


class Locks(Protocol):
    """The locks of one lock file in this process.

    All raise `StoreUnavailable` if the system can't lock, and `try_lock`, `lock` and `hold`
    raise `Gone` if the files were removed.
    """

    kind: ClassVar[int]

    def prepare(self, store_id: bytes, create: bool) -> None:
        """Be ready for the locks of this store. FileNotFoundError if some are missing.

        Comes under OPENING.
        """

    def try_lock(self, byte: int) -> bool:
        """Take a byte if nobody has it. The caller holds the sidecar's ``thread_lock``."""

    def lock(self, byte: int) -> None:
        """Wait for a byte, asleep, and take it; as `try_lock`."""

    def unlock(self, byte: int) -> None:
        """Give a byte back."""

    def mutex(self, byte: int, words: memoryview) -> Mutex:
        """What locks the segment of those words: CHANNELS_LOCK or GROUPS_LOCK. After `prepare`."""

    def hold(self, byte: int) -> bool:
        """Take a byte for as long as this process lives; False if it is taken."""

    def release(self, byte: int) -> None:
        """Give up a byte that is held."""

    def is_held(self, byte: int) -> bool:
        """Whether any living process holds a byte."""

    def in_use(self, store_id: bytes) -> bool:
        """Whether any living process holds a slot of this store, whatever its version."""

    def remove(self, store_id: bytes) -> None:
        """Remove what lies beside the lock file for this store, whoever uses it."""

    def after_fork(self) -> None:
        """Called first of all in a forked child: nothing is held here."""

    def close(self) -> None:
        """Let go of everything."""


def again(path: str, descriptor: int) -> int:
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


def unusable(path: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"can't lock {path!r} ({error.strerror}): the store needs a file system with fcntl "
        "record locks or flock; choose another engine_options['directory']"
    )
