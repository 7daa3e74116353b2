"""Locks that come free when their holder dies: the contract, and what its kinds share.

fcntl record locks (`fcntl_locks`) work on every UNIX. Where semaphores work too
(`semaphore_locks`), they lock the segments at a tenth of the cost. flock (`flock_locks`) is for
systems and file systems without working record locks, such as WSL1 and some network and FUSE
mounts. A process that makes a lock file tries which kind works (`choice`), and records it there.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import ClassVar, Protocol

from asgi_ipc.exceptions import StoreUnavailable

from .mutex import ByteLocks, Mutex

#: Bytes that are locked. OPENING also covers creation and removal.
OPENING, CHANNELS_LOCK, GROUPS_LOCK, FIRST_ROLE, FIRST_SLOT = 0, 1, 2, 8, 16

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


class OtherLibrary(FileNotFoundError):
    """The semaphores of the store are there, under the names that another C library gives them."""


class Locks(ByteLocks, Protocol):
    """The locks of one lock file in this process.

    All methods raise `StoreUnavailable` if the system can't lock, and `try_lock`, `lock` and
    `hold` raise `Gone` if the files were removed.

    Any of them may be interrupted by an exception between two steps (a signal handler, no memory,
    too deep a stack). What each leaves then is said below; in no case a byte that this process
    has and that neither `give_back` nor `release` gives back. If the process ends, however it
    ends, the kernel frees every byte, and `RobustMutex` every semaphore.
    """

    kind: ClassVar[int]

    def prepare(self, store_id: bytes, create: bool) -> None:
        """Be ready for the locks of this store. FileNotFoundError if some are missing.

        The caller holds OPENING. Interrupted, it can be called again.
        """

    def mutex(self, byte: int, words: memoryview, hint: int) -> Mutex:
        """Return the lock of a segment: CHANNELS_LOCK or GROUPS_LOCK. Comes after `prepare`.

        ``words`` are the segment's; the one at ``hint`` is for the lock's own use.
        """

    def give_back(self) -> None:
        """Give back OPENING and the locks of both segments, as far as this process has them.

        The way out for an interrupted thread; can be called again, whatever interrupts it. The
        caller holds the ``thread_lock`` of the section, so no other thread has them.
        """

    def hold(self, byte: int) -> bool:
        """Take a byte for as long as this process lives; False if it is taken.

        Interrupted, it may have taken it: `release` it.
        """

    def release(self, byte: int) -> None:
        """Give up a byte, held or half held; can be called again."""

    def is_held(self, byte: int) -> bool:
        """Whether any living process holds a byte. Never False if one does.

        Interrupted, it leaves nothing locked, unless the same happens to its clean-up; then
        the byte looks held until this process asks again, or ends.
        """

    def in_use(self, store_id: bytes) -> bool:
        """Whether any living process holds a slot of this store, whatever its version."""

    def remove(self, store_id: bytes) -> None:
        """Remove the files beside the lock file that belong to this store, even while in use.

        Interrupted, it can be called again.
        """

    def after_fork_in_child(self) -> None:
        """Have nothing, in a forked child. Called there before any other method."""

    def close(self) -> None:
        """Give back and forget everything; can be called again."""


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
