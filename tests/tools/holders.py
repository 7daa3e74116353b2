"""Processes that are stopped while they hold a lock of a store, or while they hold none."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_ipc.cli import sighting
from asgi_ipc.engines.base import Engine
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from tests.tools.doubles import PATIENCE, in_thread
from tests.tools.stores import start, wait

#: Seconds until a store counts as locked by a process that was stopped.
_LOCKED = 1.0


@contextlib.contextmanager
def stopped_holder(
    open_engine: Callable[[], SharedMemoryEngine], opening: bool = False
) -> Iterator[Callable[[], None]]:
    """A process that is stopped inside a store; yields what continues it.

    It holds the lock of the channels, or that of opening and removing. At the end it continues,
    and leaves the store as it is.
    """

    def stops() -> None:
        engine = open_engine()
        store = engine.session.joined()

        def inside() -> None:
            with engine.session.channels:
                os.kill(os.getpid(), signal.SIGSTOP)

        if opening:
            with store.lock_file.opening():
                os.kill(os.getpid(), signal.SIGSTOP)
        else:
            store.lock_file.section.run(inside)
        engine.close()

    stopped = start(stops)
    os.waitpid(stopped, os.WUNTRACED)

    def go_on() -> None:
        os.kill(stopped, signal.SIGCONT)

    try:
        yield go_on
    finally:
        go_on()
        wait(stopped)


def stop_outside(pid: int, answers: Callable[[], object]) -> None:
    """Stop a process at a moment at which it holds no lock of its store.

    ``answers`` tells whether the store answers; if not, the process goes on and is stopped again.
    """
    until = time.monotonic() + PATIENCE
    while True:
        os.kill(pid, signal.SIGSTOP)
        while not _is_stopped(pid):
            assert time.monotonic() < until, "it does not stop"
            time.sleep(0.001)
        if answers():
            return
        os.kill(pid, signal.SIGCONT)
        assert time.monotonic() < until, "it holds a lock whenever it is stopped"


def _is_stopped(pid: int) -> bool:
    """Return whether all threads of a process are stopped: that takes a moment."""
    try:
        threads = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False  # A thread has just ended.
    return all(each.rpartition(")")[2].split()[0] == "T" for each in threads)


def answering(engine: Engine) -> Callable[[], bool]:
    """What tells whether the locks of a store are given at once."""

    def use() -> None:
        engine.statistics(b"?")
        engine.members(b"?")

    def answers() -> bool:
        using.append(in_thread(use))
        using[-1].join(_LOCKED)
        return not any(each.is_alive() for each in using)

    using: list[threading.Thread] = []
    return answers


def impatient(patch: pytest.MonkeyPatch) -> None:
    """Let checks of a Django project give up soon on a store that does not answer."""
    patch.setattr(sighting, "PATIENCE", 0.1)


__all__ = ["answering", "impatient", "stop_outside", "stopped_holder"]
