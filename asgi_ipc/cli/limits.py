"""A limit of time for a whole command, also while it waits for a lock of a store."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

#: Seconds past ``--timeout`` for the last look at a store, or for leaving it.
GRACE = 1.0
#: Why a look at a store may take so long, and the remedy.
STOPPED = (
    "a stopped process (state T in ps) may hold the store's lock: continue it (kill -CONT) or end "
    "it"
)
#: Seconds, about three years: the system's timers take no more on some machines.
_MOST = 1e8


class TooLate(Exception):
    """The time limit has passed."""

    #: Whether the store is still joined: leaving it would wait for the lock that is not given.
    is_joined = False


def _give_up() -> None:
    raise TooLate


@contextlib.contextmanager
def limit(seconds: float, late: Callable[[], object] = _give_up) -> Iterator[None]:
    """Call ``late`` in the block once so many seconds have passed; in the main thread alone.

    It interrupts whatever the block does, and raises `TooLate` unless another is given.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_alarm(number: int, frame: FrameType | None) -> None:
        late()

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, min(_MOST, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_at_once(status: int) -> None:
    """End this process without leaving the store, as a killed one does.

    Leaving it properly would wait for the lock that is not given.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


__all__ = ["GRACE", "STOPPED", "TooLate", "end_at_once", "limit"]
