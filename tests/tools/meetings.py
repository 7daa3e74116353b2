"""Threads that meet in the middle of calls, and what ends a test in which they hang."""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from asgi_ipc.engines.shm import critical_section
from asgi_ipc.engines.shm.locked_segment import LockedSegment
from asgi_ipc.engines.shm.session import Session
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.stores import in_child

__all__ = ["Meeting", "guarded", "is_waiting", "started", "wait_until"]

#: Seconds after which threads hang that have a few operations to do.
_HANG = 30
_WAITING = critical_section._WAITING, critical_section._HOLDING


def guarded(test: Callable[[], None]) -> None:
    """Run it in a forked child, which a hang ends with all stacks."""

    def run() -> None:
        # `dump_traceback_later` hangs in a child whose parent has called it.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, file=sys.__stderr__ or sys.stderr, chain=True)
        signal.alarm(_HANG)
        test()

    in_child(run)


def is_waiting(thread: threading.Thread) -> bool:
    """Whether a thread waits for the critical section, or for a session's lock."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code in _WAITING


def started(work: Callable[[], object], errors: list[BaseException]) -> threading.Thread:
    """Start a thread that notes what it raises, but that the session is closed."""

    def run() -> None:
        try:
            work()
        except StoreUnavailable:
            pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for as long as it takes."""
    while not condition():
        time.sleep(0.001)


class Meeting:
    """An operation of one thread, and what another thread does or begins in the middle of it."""

    def __init__(self, patch: pytest.MonkeyPatch, point: int, half: str) -> None:
        """Stop the operation at its ``point``-th point, from 1 on.

        There is one wherever it has entered a segment, or read what other threads change. It goes
        on once the other thread has written the attribute ``half``, if that is not empty; else
        once that has ended, or waits. Of two that could go on the operation goes on.
        """
        self._left, self._half = point, half
        self._stopped, self._go_on = threading.Event(), threading.Event()
        self._first: threading.Thread | None = None
        self._second: threading.Thread | None = None
        enter = LockedSegment.__enter__

        def entered(segment: LockedSegment) -> Any:
            heap = enter(segment)
            self._pass()
            return heap

        patch.setattr(LockedSegment, "__enter__", entered)
        for name in ("slot", "store"):
            patch.setattr(Session, name, self._watched(name), raising=False)

    def _watched(self, name: str) -> property:
        def read(session: Session) -> Any:
            value = vars(session)[name]
            self._pass()
            return value

        def write(session: Session, value: Any) -> None:
            vars(session)[name] = value
            if name == self._half and threading.current_thread() is self._second:
                self._half = ""
                self._go_on.set()
                wait_until(self._is_first_at_rest)

        return property(read, write)

    def _pass(self) -> None:
        if threading.current_thread() is self._first:
            self._left -= 1
            if not self._left:
                self._stopped.set()
                self._go_on.wait()

    def _is_first_at_rest(self) -> bool:
        first = self._first
        return first is None or not first.is_alive() or is_waiting(first)

    def hold(self, first: Callable[[], object], second: Callable[[], object]) -> bool:
        """Do both; False if the first has fewer points."""
        errors: list[BaseException] = []

        def begin() -> None:
            self._first = threading.current_thread()
            first()

        def begin_meanwhile() -> None:
            self._second = threading.current_thread()
            second()

        one = started(begin, errors)
        wait_until(lambda: self._stopped.is_set() or not one.is_alive())
        if self._stopped.is_set():
            other = started(begin_meanwhile, errors)
            wait_until(lambda: self._go_on.is_set() or not other.is_alive() or is_waiting(other))
            self._go_on.set()
            other.join()
        one.join()
        if errors:
            raise errors[0]
        return self._stopped.is_set()
