"""The lock of a segment: the contract, adaptive spinning, and a kernel lock with a hint.

A holder releases the lock within microseconds, and waking a sleeper takes ten times as long. So
a process spins on a lock that is held for a while before it sleeps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..heap.layout import TAKEN

if TYPE_CHECKING:
    from .base import Locks

#: How often a lock is asked for before it is waited for asleep, and how often it is looked at
#: before each time.
_TRIES, _LOOKS = range(10), range(64)
#: What is looked at is cleared just before the lock is given back. To ask at once is to be
#: refused, which takes longer.
_PAUSE = range(20)


class Mutex(Protocol):
    """The lock of one segment. One thread of a process at a time may call it.

    Raises `StoreUnavailable` if the system can't lock. Each method may be interrupted by an
    exception between any two steps; `unlock`, called again until it returns, leaves the lock
    free after each of them. If the process ends instead, the lock is free for the others, at
    once or after some milliseconds.
    """

    def lock(self) -> None:
        """Wait for the lock, awake for a while, then asleep, and take it. May raise `Gone`.

        If this process has it already, since an `unlock` was interrupted, that counts. Interrupted,
        it may have taken the lock.
        """

    def release(self) -> None:
        """Give back the lock that this process has.

        Calls no deeper than `lock` does before it takes anything, so that an operation which ran
        out of stack can give back what it took.
        """

    def unlock(self) -> None:
        """Give the lock back if this process has it, otherwise as `release`."""


def spin(looks_taken: Callable[[], object], try_lock: Callable[[], bool]) -> bool:
    """Wait for a lock awake; False if it is to be waited for asleep."""
    for _ in _TRIES:
        for _ in _LOOKS:
            if not looks_taken():
                break
        for _ in _PAUSE:
            pass
        if try_lock():
            return True
    return False


class HintedMutex:
    """A lock of the kernel's, and a word of the segment that says whether it seems to be taken.

    To ask the kernel for a lock that is held takes long. The hint is no more than that: a process
    that was killed leaves it set.
    """

    def __init__(self, locks: Locks, byte: int, words: memoryview) -> None:
        self._words = words
        self._try_lock = partial(locks.try_lock, byte)
        self._lock, self._unlock = partial(locks.lock, byte), partial(locks.unlock, byte)

    def lock(self) -> None:
        """See `Mutex.lock`."""
        words = self._words
        if (words[TAKEN] or not self._try_lock()) and not spin(
            lambda: words[TAKEN], self._try_lock
        ):
            self._lock()
        words[TAKEN] = 1

    def release(self) -> None:
        """See `Mutex.release`."""
        self._words[TAKEN] = 0
        self._unlock()

    # The system unlocks only what this process has.
    unlock = release


__all__ = ["HintedMutex", "Mutex", "spin"]
