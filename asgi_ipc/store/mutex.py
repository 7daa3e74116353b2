"""How a segment's lock is waited for, and the one that is a byte or a file and a hint.

Who is inside is out in microseconds, and to be woken takes ten times as long. So a lock that is
held is looked at for a while before it is waited for asleep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from .layout import TAKEN

if TYPE_CHECKING:
    from .locks import Locks

#: How often a lock is asked for before it is waited for asleep, and how often it is looked at
#: before each time.
_TRIES, _LOOKS = range(10), range(64)
#: What is looked at is cleared just before the lock is given back. To ask at once is to be
#: refused, which takes longer.
_PAUSE = range(20)


class Mutex(Protocol):
    """The lock of one segment. One thread of a process at a time may call it.

    Raises `StoreUnavailable` if the system can't lock.
    """

    def lock(self) -> None:
        """Wait for it, awake for a while, then asleep, and take it. May raise `Gone`."""

    def unlock(self) -> None:
        """Give it back; does nothing if this process hasn't got it.

        Also the way out of `lock` for who was interrupted in it.
        """


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

    To ask the kernel for what is held takes long. Nothing rests on the hint: who was killed has
    left it set.
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

    def unlock(self) -> None:
        """See `Mutex.unlock`."""
        self._words[TAKEN] = 0
        self._unlock()


__all__ = ["HintedMutex", "Mutex", "spin"]
