"""A lock in user space that survives its holder: a semaphore, and marks that say who is at it.

A semaphore costs no system call, but the kernel does not give it back for a process that is
killed. So every process has a *seat*: a byte of the lock file that it holds a record lock on,
which the kernel does give back, and a mark in memory that all share. It sets its mark before it
tries the semaphore and clears it after giving that back. Whoever is kept waiting takes the
*gate*, another record lock, and looks for a mark whose seat nobody holds any more. If there is
one, its process may have died with the semaphore, and the lock is *mended*:

1. The lock is closed. Who finds it closed clears its mark and queues at the gate.
2. After `_SETTLE` whoever had found it open has a mark that can be seen. Each living one is waited
   for, until its mark was seen clear once.
3. Now nobody alive has the semaphore or is about to try it. So if it can't be taken, a dead
   process has it, and it is given back for that one.
4. The dead ones' marks are cleared, and the lock is opened again.

Whoever dies mending leaves it closed; the next one at the gate begins again. A process that is
stopped (not killed) inside keeps all others out, as with any lock; one that is stopped at the very
moment between mark and semaphore keeps others from mending.
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

#: Processes that may be at one lock file.
SEATS = 1024
#: Bytes from one seat's marks to the next: what processors keep in step is never two processes'.
_STRIDE = 64
#: Bytes of shared memory for the marks of all seats: after a first stride, which says for each
#: lock whether it is closed, and a second one that means nothing.
MARKS_SIZE = (2 + SEATS) * _STRIDE
_NOBODY = _STRIDE
_FIRST = 2 * _STRIDE

#: Seconds after which what another process has written, before it read something, can be seen: a
#: thousand times what any processor takes.
_SETTLE = 0.002
#: Seconds between looks at a lock that another has: to begin with, and at most.
_SHORT, _LONG = 0.00005, 0.005

#: What is not a clear mark.
_set = re.compile(rb"[^\0]").finditer


def open_semaphore(name: str) -> Any:
    """The semaphore of that name. Raises OSError, FileNotFoundError if there is none."""
    # Of the kind, 1, that whoever likes may give back; at most once, says the next number.
    return SemLock._rebuild(0, 1, 1, name)


class Seats(Protocol):
    """What a mutex needs to know of the processes at it."""

    def sit_down(self) -> None:
        """Take a seat for this process, and `RobustMutex.admit` it."""

    def is_alive(self, seat: int) -> bool:
        """Whether another process has that seat. Never False of one that is alive."""

    def lock(self, byte: int) -> None:
        """Wait for a byte of the lock file, asleep, and take it."""

    def leave(self, gate: int) -> None:
        """Give that byte back, and what was locked to see who is alive."""


class RobustMutex:
    """One such lock, in this process. One thread at a time may call it.

    ``number`` is 0 for the first lock with these marks, 1 for the second; ``gate`` its byte.
    """

    def __init__(self, name: str, marks: memoryview, number: int, gate: int, seats: Seats) -> None:
        self._own = open_semaphore(name)
        #: To give back for the dead, which this process's own would count as its.
        self._deads = open_semaphore(name)
        self._marks = marks
        self._number = number
        self._gate = gate
        self._seats = seats
        self._at_gate = False
        self._seat, self._mark = -1, _NOBODY
        self._semaphore: Any = _NotSeated(self, seats)

    def admit(self, seat: int) -> None:
        """From now on this process has that seat, whose marks are clear."""
        self._seat, self._mark = seat, self._place(seat)
        self._semaphore = self._own

    def after_fork(self) -> None:
        """The seat is the parent's, and so is the semaphore if the parent has it."""
        self._seat, self._mark = -1, _NOBODY
        self._semaphore, self._at_gate = _NotSeated(self, self._seats), False
        self._own._after_fork()

    def close(self) -> None:
        """Let go of the semaphore."""
        self._own = self._deads = self._semaphore = _NotSeated(self, self._seats)

    def is_marked(self, seat: int) -> bool:
        """Whether a seat's mark is set."""
        return self._marks[self._place(seat)] != 0

    def _place(self, seat: int) -> int:
        return _FIRST + seat * _STRIDE + self._number

    def lock(self) -> None:
        """See `Mutex.lock`."""
        # As `_try_lock`, a call less.
        mark, marks = self._mark, self._marks
        marks[mark] = 1
        if marks[self._number] or not self._semaphore.acquire(False):
            marks[mark] = 0
            if not spin(self._own._is_zero, self._try_lock):
                self._queue()

    def _try_lock(self) -> bool:
        mark, marks = self._mark, self._marks
        marks[mark] = 1
        if not marks[self._number] and self._semaphore.acquire(False):
            return True
        marks[mark] = 0
        return False

    def unlock(self) -> None:
        """See `Mutex.unlock`."""
        semaphore = self._semaphore
        if semaphore._count():
            semaphore.release()
        self._marks[self._mark] = 0
        if self._at_gate:
            self._leave_gate()

    def _queue(self) -> None:
        """Wait for it asleep, one process after the other."""
        if self._seat < 0:
            self._seats.sit_down()
        self._at_gate = True
        self._seats.lock(self._gate)
        pause = _SHORT
        while not self._mend_or_take():
            time.sleep(pause)
            pause = min(2 * pause, _LONG)
        self._leave_gate()

    def _leave_gate(self) -> None:
        self._seats.leave(self._gate)
        self._at_gate = False

    # ---- at the gate

    def mend(self) -> None:
        """See to it that no mark of the dead is left, so that their seats can be taken."""
        self._queue()
        self.unlock()

    def _mend_or_take(self) -> bool:
        is_alive = self._seats.is_alive
        if self._marks[self._number] or not all(is_alive(seat) for seat in self._marked()):
            self._mend()
            return True
        # Not only once: others come and go all the time, and don't wait for who sleeps.
        return spin(self._own._is_zero, self._try_lock)

    def _marked(self) -> list[int]:
        """The seats whose mark is set."""
        marks = self._marks[_FIRST + self._number :: _STRIDE].tobytes()
        return [match.start() for match in _set(marks)]

    def _mend(self) -> None:
        """Take it, whoever has died with it."""
        marks = self._marks
        marks[self._number] = 1
        time.sleep(_SETTLE)
        dead = []
        for seat in self._marked():
            while marks[self._place(seat)] and self._seats.is_alive(seat):
                time.sleep(_SHORT)
            if marks[self._place(seat)]:
                dead.append(seat)
        if not self._own.acquire(False):
            self._deads.release()
            self._own.acquire(False)
        marks[self._mark] = 1
        # Not of the others: one who is alive may just find it open again.
        for seat in dead:
            marks[self._place(seat)] = 0
        marks[self._number] = 0


class _NotSeated:
    """Stands for the semaphore while this process has no seat."""

    def __init__(self, mutex: RobustMutex, seats: Seats) -> None:
        self._mutex, self._seats = mutex, seats

    def acquire(self, _: bool) -> bool:
        self._seats.sit_down()
        return self._mutex._try_lock()

    def _count(self) -> int:
        return 0


__all__ = [
    "MARKS_SIZE",
    "SEATS",
    "RobustMutex",
    "Seats",
    "SemLock",
    "open_semaphore",
]
