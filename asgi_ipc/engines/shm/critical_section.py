"""One thread of a process at a time in a store, and the locks that an interrupted one left.

An exception may come between any two steps: a signal handler raises, memory runs out, the stack
is too deep. It may come in the clean-up too. So nothing here relies on one clean-up that works:

1. Each lock can be asked whether this process has it, and is given back only then. To give all of
   them back twice, or when there is nothing to give back, does no harm (`let_go`).
2. `let_go` comes three times on the way out of an operation: in the region's ``__exit__``, and in
   two nested handlers of the operation. Two exceptions in a row leave one that works.
3. What is left all the same is found by the next entry: this thread's takes it over at once, and
   that of another thread after `PATIENCE` seconds, once no other thread runs the store.
4. What is left by a process that then ends is freed by the kernel, or by `robust_mutex`.

A thread whose lock is taken by itself either left it, or is a signal handler, or a ``__del__``
that a collection calls, that interrupted the store. The stack tells which: in the second case
there is a frame of this package below that of the operation.

A session's lock comes before the critical section. A thread waits for it in `hold_lock` alone, and
never while it is inside, be it in an operation or in code that interrupted one. So a thread that
waits there counts as outside, and what it left is taken over meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import ParamSpec, TypeVar

from asgi_ipc.exceptions import Reentered, StoreUnavailable

from ..deferred import call_outside
from ..guards import OwnLock, hold_at_once

P = ParamSpec("P")
Result = TypeVar("Result")

#: Seconds after which a waiting thread asks whether another thread really is inside.
PATIENCE = 1.0
#: Seconds between two looks at the other threads, once this one is next.
_PAUSE = 0.001


class CriticalSection:
    """Held by the thread of this process that is inside the store of one lock file."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        #: Taken first. Reentrant, since such a lock knows its owner from the moment it is taken.
        #: It is replaced if its owner left it.
        self.thread_lock = threading.RLock()
        #: The lock by which a thread entered, while it is inside.
        self.entered: threading.RLock | None = None
        #: Give back every lock of the store that this process has; nothing if it has none.
        self._give_back = give_back
        self._replacing = threading.Lock()

    def after_fork_in_child(self) -> None:
        """Be free: the thread that was inside is the parent's."""
        self.thread_lock, self.entered = threading.RLock(), None
        self._replacing = threading.Lock()

    def enter(self) -> None:
        """Take the thread lock; `LockedSegment.__enter__` has these lines of its own.

        Raises `Reentered`. An exception may leave it taken: call `let_go`.
        """
        lock = self.thread_lock
        if not lock.acquire(False):
            lock = self.wait()
        if self.entered is not None:
            lock = self.take_over(lock)
        self.entered = lock

    def leave(self) -> None:
        """Give the thread lock back."""
        lock, self.entered = self.entered, None
        if lock is not None:
            lock.release()

    def run(self, operation: Callable[P, Result], *arguments: P.args, **named: P.kwargs) -> Result:
        """Call what enters the store, and give back what an exception left of its locks."""
        try:
            try:
                return operation(*arguments, **named)
            except BaseException:
                self.let_go()
                raise
        except BaseException:
            # Another exception may have come before that was done.
            self.let_go()
            raise

    def is_inside(self) -> bool:
        """Whether the caller interrupted this thread while it was inside."""
        return self.thread_lock._is_owned() and is_interruption()  # type: ignore[attr-defined]

    # ---- the unusual

    def wait(self) -> threading.RLock:
        """Wait for the thread lock, however long another thread is inside, and take it.

        Raises `Reentered` in code that interrupted this thread inside another store: the thread
        that is inside this one may wait for that.
        """
        if is_interruption():
            raise Reentered
        while True:
            lock = self.thread_lock
            if not _acquire(lock):
                if _other_threads_inside():
                    continue
                lock = self._replace(lock)
            if lock is self.thread_lock:
                return lock
            lock.release()

    def _replace(self, left: threading.RLock) -> threading.RLock:
        """Take a fresh lock in place of one whose owner left it, unless another thread did."""
        fresh = threading.RLock()
        fresh.acquire()
        with self._replacing:
            if self.thread_lock is not left:
                return fresh
            self.thread_lock = fresh
        # From now on threads wait for the fresh lock. One that got the old one just before
        # runs this package, and is waited for.
        while _other_threads_inside():
            time.sleep(_PAUSE)
        return fresh

    def take_over(self, lock: threading.RLock) -> threading.RLock:
        """Free what was left by a thread that is not inside any more, or raise `Reentered`."""
        try:
            interrupts = is_interruption()
        except BaseException:
            lock.release()
            raise
        if interrupts:
            lock.release()
            raise Reentered
        self._free(lock)
        lock = self.thread_lock
        return lock if lock.acquire(False) else self.wait()

    def let_go(self) -> None:
        """Give back all that this thread has, unless it belongs to an operation it interrupts."""
        lock = self.entered or self.thread_lock
        # Taken by no call of this, which could be interrupted right after it. As `Condition` asks.
        if lock._is_owned() and not is_interruption():  # type: ignore[attr-defined]
            self._free(lock)

    def _free(self, lock: threading.RLock) -> None:
        try:
            self._give_back()
        except (StoreUnavailable, ValueError):  # the system refuses, or the memory is closed
            pass
        self.entered = None
        try:
            while True:
                lock.release()
        except RuntimeError:  # all that this thread had
            pass


def _acquire(lock: threading.RLock) -> bool:
    # A thread with this function on its stack waits, and is not inside.
    return lock.acquire(True, PATIENCE)


def hold_lock(
    lock: OwnLock, operation: Callable[P, Result], *arguments: P.args, **named: P.kwargs
) -> Result:
    """Call with a session's lock held. The caller is not in the critical section.

    Blocks while another thread has the lock; raises `Reentered` then in code that interrupted this
    thread in any store: the thread that has the lock may wait for what this one has there.
    """
    if not lock._is_owned() and is_interruption():
        return hold_at_once(lock, operation, *arguments, **named)
    # While this function is on top of its stack, a thread waits or is just about to go on.
    with lock:
        return operation(*arguments, **named)


_WAITING: CodeType = _acquire.__code__
_HOLDING: CodeType = hold_lock.__code__
#: Below it stands a call that has none of these locks: one that writes a log line, say.
_OUTSIDE: CodeType = call_outside.__code__
#: Where the code of this package lies, as its code objects say.
_FOLDER = os.path.dirname(_WAITING.co_filename) + os.sep
#: What may stand between two frames of one operation: this, and ``contextlib``.
_BETWEEN = _FOLDER, contextlib.contextmanager.__code__.co_filename


def is_interruption() -> bool:
    """Whether this operation was called by code that interrupted another one in its thread."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        frame = frame.f_back
    while frame is not None and frame.f_code is not _OUTSIDE:
        if frame.f_code.co_filename.startswith(_FOLDER):
            return True
        frame = frame.f_back
    return False


def _other_threads_inside() -> bool:
    """Whether any other thread of this process may be inside a store."""
    me = threading.get_ident()
    return any(
        thread != me and _runs_the_store(frame) for thread, frame in sys._current_frames().items()
    )


def _runs_the_store(top: FrameType) -> bool:
    if top.f_code is _HOLDING:
        return False
    frame: FrameType | None = top
    inside = False
    while frame is not None and frame.f_code is not _OUTSIDE:
        if frame.f_code is _WAITING:
            return False
        inside = inside or frame.f_code.co_filename.startswith(_FOLDER)
        frame = frame.f_back
    return inside


__all__ = ["PATIENCE", "CriticalSection", "hold_lock", "is_interruption"]
