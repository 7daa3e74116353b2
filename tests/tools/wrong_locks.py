"""Locks with one fault each, to see that the tests of clean-up and recovery can fail.

A plugin of pytest: ``WRONG_LOCK=name python -m pytest -p tests.tools.wrong_locks …`` plants one.
The file named by ``WRONG_LOCK_BEGUN`` then gets the number of the test that has begun last.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from asgi_ipc.engines.shm import critical_section, engine, processes, upkeep
from asgi_ipc.engines.shm.critical_section import CriticalSection
from asgi_ipc.engines.shm.locked_segment import LockedSegment
from asgi_ipc.engines.shm.locks.mutex import spin
from asgi_ipc.engines.shm.locks.robust_mutex import RobustMutex
from asgi_ipc.engines.shm.processes import Processes


def not_asked_whether_it_is_ours() -> None:
    """Taking a semaphore does not ask whether this process has it, and clears its mark."""

    def lock(self: RobustMutex) -> None:
        if not self._try_lock() and not spin(self._own._is_zero, self._try_lock):
            self._queue()

    RobustMutex.lock = lock  # type: ignore[method-assign]


def flag_cleared_first() -> None:
    """A process clears its mark before it gives the semaphore back."""

    def release(self: RobustMutex) -> None:
        self._flags[self._flag] = 0
        self._semaphore.release()
        if self._recovering:
            self._end_recovery()

    RobustMutex.release = release  # type: ignore[method-assign]


def unmarked_is_waited_for() -> None:
    """A semaphore that is taken while no process is marked is waited for."""

    def left_behind(self: RobustMutex) -> bool:
        return not all(self._slots.is_alive(slot) for slot in self._flagged())

    RobustMutex._left_behind = left_behind  # type: ignore[method-assign]


def thread_lock_first() -> None:
    """The thread lock is given back although the segment's could not be."""

    def leave(
        self: LockedSegment,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType,
    ) -> None:
        try:
            self._release()
        finally:
            self._section.leave()

    LockedSegment.__exit__ = leave  # type: ignore[method-assign, assignment]


def nothing_is_let_go() -> None:
    """What an exception leaves is left to the next entry."""
    CriticalSection.let_go = lambda self: None  # type: ignore[method-assign]


def leftovers_are_signal_handlers() -> None:
    """A thread that finds its own lock taken is always taken for a handler."""
    critical_section.is_interruption = lambda: True


def never_taken_over() -> None:
    """A thread waits for another that left the lock, for as long as that one lives."""
    critical_section._other_threads_inside = lambda: True


def the_dead_stay_until_the_look() -> None:
    """Joining a store that is full of the dead does not look whether they are alive."""
    Processes.reap = lambda self: ([], True)  # type: ignore[method-assign]


def all_are_looked_at_at_once() -> None:
    """The dead are found and freed while the lock is held once."""
    processes.REAP_SLICE = processes._REAP_SPAN = 1 << 16


def no_upkeep_but_by_push() -> None:
    """Operations that are not for messages do no upkeep."""
    upkeep.Upkeep.maintain = lambda self, now: None  # type: ignore[method-assign]


def any_interpreter_will_do() -> None:
    """A sub-interpreter opens a store."""
    engine.unsuitable = lambda: None  # type: ignore[attr-defined]


class WrongLock(NamedTuple):
    """A fault, and the tests that must catch it."""

    plant: Callable[[], None]
    tests: str


_CLEAN_UP = "tests/engines/shm/test_clean_up.py::test_"
# With one kind of lock, as all that these faults touch is the same with each.
_STRUCK = f"{_CLEAN_UP}struck_at_any_opcode_of_the_clean_up and fcntl"
_MUTEX = "tests/engines/shm/locks/test_robust_mutex.py::test_"
_PROCESSES = "tests/engines/shm/test_processes.py::test_"
WRONG_LOCKS = [
    WrongLock(not_asked_whether_it_is_ours, f"{_MUTEX}a_holder_has_its_flag_set_at_every_instant"),
    WrongLock(flag_cleared_first, f"{_MUTEX}a_holder_has_its_flag_set_at_every_instant"),
    WrongLock(unmarked_is_waited_for, f"{_MUTEX}a_mutex_that_is_locked_while_no_flag_is_set"),
    WrongLock(thread_lock_first, _STRUCK),
    WrongLock(nothing_is_let_go, _STRUCK),
    WrongLock(leftovers_are_signal_handlers, f"{_CLEAN_UP}a_thread_takes_over_what_it_left"),
    WrongLock(never_taken_over, f"{_CLEAN_UP}another_thread_takes_over_what_a_thread_left"),
    WrongLock(the_dead_stay_until_the_look, f"{_PROCESSES}a_store_full_of_dead_processes"),
    WrongLock(all_are_looked_at_at_once, f"{_PROCESSES}dead_processes_are_found_a_slice_at_a_time"),
    WrongLock(no_upkeep_but_by_push, f"{_PROCESSES}each_kind_of_call_does_the_upkeep"),
    WrongLock(any_interpreter_will_do, "tests/engines/shm/test_machine.py::test_the_class_itself"),
]


def pytest_configure() -> None:
    """Plant the one that is asked for."""
    for wrong in WRONG_LOCKS:
        if wrong.plant.__name__ == os.environ.get("WRONG_LOCK"):
            wrong.plant()


_tests = itertools.count(1)


def pytest_runtest_call() -> None:
    """Tell the process that waits."""
    begun = os.environ.get("WRONG_LOCK_BEGUN")
    if begun:
        Path(begun).write_text(f"{next(_tests)}")
