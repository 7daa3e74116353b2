"""A semaphore that recovers from the death of its holder, by flags in shared memory.

Taking a semaphore costs no system call, but the kernel does not release it for a process that is
killed. Three things make up for that:

- a *slot* for each process: one byte of the lock file, on which the process holds a record lock
  for life. The kernel releases record locks, so other processes can tell whether it is alive;
- an *intent flag* for each slot: a byte in shared memory. A process sets its flag before it tries
  the semaphore, and clears it only when it does not have the semaphore;
- a *recovery lock*: a record lock that serialises waiting and recovery.

So a semaphore that is taken has a flagged holder, at every instant. A process that waits for long
takes the recovery lock and looks for a flag whose process is dead. If it finds one, that process
may have died with the semaphore. It recovers the lock:

1. It sets its own flag and closes the lock. A process that finds the lock closed clears its flag
   and queues at the recovery lock.
2. After `_SETTLE` the flag of every process that had found the lock open can be seen. The
   recovering process waits for each living one, until it has seen that flag clear once.
3. Now no other living process has the semaphore or is about to try it. If the recovering
   process can't take it, a dead process has it, and it is released on the dead one's behalf.
4. It clears the flags of the dead and opens the lock.

Step 3 is sound whatever made the process begin. So a waiting process begins also when the
semaphore is taken and no process is flagged, which no process's death alone brings about.

A recovering process that dies leaves the lock closed; the next process at the recovery lock begins
again. A process that is stopped (SIGSTOP) while it has the semaphore keeps all others out, as with
any lock; one that is stopped between setting its flag and trying the semaphore keeps others from
recovering.

**What an exception leaves.** It may come between any two steps of every method. A process that
has the semaphore is flagged all the same, and its next `lock` takes over what it finds that this
process has; `unlock` may be called again until it returns. If the process ends instead, it is a
dead one that is flagged.
"""

from __future__ import annotations

import re
import time
from typing import Any, Protocol

from .mutex import spin

try:
    from _multiprocessing import SemLock  # type: ignore[import-not-found]
except ImportError:  # Python was built for a system without semaphores
    SemLock = None

#: Processes that may be at one lock file: more than have slots, as one without a slot may have
#: to take the lock (to join, to check, to remove the store).
LOCK_SLOTS = 1088
#: Bytes from one slot's flags to the next: what processors keep in step is never two processes'.
_STRIDE = 64
#: Bytes of shared memory for the flags of all slots: after a first stride, which says for each
#: lock whether it is closed, and a second one that means nothing.
FLAGS_SIZE = (2 + LOCK_SLOTS) * _STRIDE
_NOBODY = _STRIDE
_FIRST = 2 * _STRIDE

#: Seconds after which what another process has written, before it read something, can be seen: a
#: thousand times what any processor takes.
_SETTLE = 0.002
#: Seconds between looks at a lock that another has: to begin with, and at most.
_SHORT, _LONG = 0.00005, 0.005

#: What is not a clear flag.
_set = re.compile(rb"[^\0]").finditer


def open_semaphore(name: str) -> Any:
    """Return the semaphore of that name. Raises OSError, FileNotFoundError if there is none."""
    # Kind 1 may be released by any process; the next number is its largest value.
    return SemLock._rebuild(0, 1, 1, name)


class Slots(Protocol):
    """What a mutex needs to know of the processes at it.

    Each method may be interrupted by an exception and called again.
    """

    def take_slot(self) -> None:
        """Take a slot for this process, and `RobustMutex.admit` it.

        Interrupted, it leaves no byte locked but that of a slot it has admitted.
        """

    def is_alive(self, slot: int) -> bool:
        """Whether a living process has that slot. Never False of one that is alive.

        Interrupted, it may leave the byte of a dead process locked, until `leave`.
        """

    def lock(self, byte: int) -> None:
        """Wait for a byte of the lock file, asleep, and take it; at once if this process has it."""

    def leave(self, recovery_lock: int) -> None:
        """Unlock that byte, and every byte that `is_alive` locked; no harm if none is locked."""


class RobustMutex:
    """One such lock, in this process. One thread at a time may call it.

    ``number`` is 0 for the first lock with these flags, 1 for the second; ``recovery_lock`` is the
    byte of its recovery lock.
    """

    def __init__(
        self, name: str, flags: memoryview, number: int, recovery_lock: int, slots: Slots
    ) -> None:
        self._own = open_semaphore(name)
        #: To give back for the dead, which this process's own would count as its.
        self._deads = open_semaphore(name)
        self._flags = flags
        self._number = number
        self._recovery_lock = recovery_lock
        self._slots = slots
        self._recovering = False
        self._slot, self._flag = -1, _NOBODY
        self._semaphore: Any = _WithoutSlot(self, slots)

    def admit(self, slot: int) -> None:
        """Use this slot from now on, whose flags are clear."""
        self._slot, self._flag = slot, self._offset(slot)
        self._semaphore = self._own

    def after_fork_in_child(self) -> None:
        """Have no slot: it is the parent's, and so is the semaphore if the parent has it."""
        self._slot, self._flag = -1, _NOBODY
        self._semaphore, self._recovering = _WithoutSlot(self, self._slots), False
        self._own._after_fork()

    def close(self) -> None:
        """Release the semaphore if this process has it, and forget it."""
        self.unlock()
        self._own = self._deads = self._semaphore = _WithoutSlot(self, self._slots)

    def is_flagged(self, slot: int) -> bool:
        """Return whether a slot's flag is set."""
        return self._flags[self._offset(slot)] != 0

    def _offset(self, slot: int) -> int:
        return _FIRST + slot * _STRIDE + self._number

    def lock(self) -> None:
        """See `Mutex.lock`."""
        semaphore = self._semaphore
        mine = self._flag
        flags = self._flags
        # What an interrupted `unlock` left is taken over. To ask is also to find out, before
        # anything is taken, whether the stack has room for the calls that `release` makes.
        if semaphore._count():
            flags[mine] = 1
            return
        # As `_try_lock`, a call less.
        flags[mine] = 1
        if flags[self._number] or not semaphore.acquire(False):
            flags[mine] = 0
            if not spin(self._own._is_zero, self._try_lock):
                self._queue()

    def _try_lock(self) -> bool:
        mine, flags = self._flag, self._flags
        flags[mine] = 1
        if not flags[self._number] and self._semaphore.acquire(False):
            return True
        flags[mine] = 0
        return False

    def release(self) -> None:
        """See `Mutex.release`."""
        self._semaphore.release()
        # Only now: a process that has the semaphore is marked.
        self._flags[self._flag] = 0
        if self._recovering:
            self._end_recovery()

    def unlock(self) -> None:
        """See `Mutex.unlock`."""
        if self._semaphore._count():
            self._semaphore.release()
        self._flags[self._flag] = 0
        if self._recovering:
            self._end_recovery()

    def _queue(self) -> None:
        """Wait asleep, one process after the other, and take the semaphore."""
        if self._slot < 0:
            self._slots.take_slot()
        # Nothing to leave yet; but now the stack is known to have room for it.
        self._end_recovery()
        self._recovering = True
        self._slots.lock(self._recovery_lock)
        pause = _SHORT
        while not self._recover_or_take():
            time.sleep(pause)
            pause = min(2 * pause, _LONG)
        self._end_recovery()

    def _end_recovery(self) -> None:
        self._slots.leave(self._recovery_lock)
        self._recovering = False

    # ---- at the recovery lock

    def clear_dead_flags(self) -> None:
        """Clear the flags of all dead processes, so that their slots can be taken.

        May block, as `lock` does: it takes the lock, which recovers it, and releases it.
        """
        self._queue()
        self.unlock()

    def _recover_or_take(self) -> bool:
        if self._flags[self._number] or self._left_behind():
            self._recover()
            return True
        # Not only once: processes that don't queue come and go all the time.
        return spin(self._own._is_zero, self._try_lock)

    def _left_behind(self) -> bool:
        """Whether a dead process may have the semaphore."""
        flagged = self._flagged()
        if flagged:
            is_alive = self._slots.is_alive
            return not all(is_alive(slot) for slot in flagged)
        # Taken without a flag: looked at once more, as a holder may just have come or gone.
        taken: bool = self._own._is_zero()
        return taken and not self._flagged() and bool(self._own._is_zero())

    def _flagged(self) -> list[int]:
        """Return the slots whose flag is set."""
        flags = self._flags[_FIRST + self._number :: _STRIDE].tobytes()
        return [match.start() for match in _set(flags)]

    def _recover(self) -> None:
        """Take the semaphore, whichever process has died with it."""
        flags = self._flags
        # First, so that this process is marked whenever it has the semaphore.
        flags[self._flag] = 1
        flags[self._number] = 1
        time.sleep(_SETTLE)
        dead = []
        for slot in self._flagged():
            if slot == self._slot:
                continue
            while flags[self._offset(slot)] and self._slots.is_alive(slot):
                time.sleep(_SHORT)
            # No process takes a slot that is marked, so this one stays a dead one's.
            if flags[self._offset(slot)]:
                dead.append(slot)
        if not self._own._count() and not self._own.acquire(False):
            self._deads.release()
            self._own.acquire(False)
        # Only those: a living process may just set its flag, to find the lock still closed.
        for slot in dead:
            flags[self._offset(slot)] = 0
        flags[self._number] = 0


class _WithoutSlot:
    """Stands for the semaphore while this process has no slot."""

    def __init__(self, mutex: RobustMutex, slots: Slots) -> None:
        self._mutex, self._slots = mutex, slots

    def acquire(self, _: bool) -> bool:
        self._slots.take_slot()
        return self._mutex._try_lock()

    def release(self) -> None:
        """Nothing: a forked child leaves what its parent is inside of."""

    def _count(self) -> int:
        return 0


__all__ = [
    "FLAGS_SIZE",
    "LOCK_SLOTS",
    "RobustMutex",
    "SemLock",
    "Slots",
    "open_semaphore",
]
