"""A lock file with semaphores beside it, for one test and its forked children."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from asgi_ipc.engines.shm.locks import mutex, robust_mutex
from asgi_ipc.engines.shm.locks.base import CHANNELS_LOCK
from asgi_ipc.engines.shm.locks.robust_mutex import RobustMutex
from asgi_ipc.engines.shm.locks.semaphore_locks import SemaphoreLocks, no_new_ones, semaphores_fail
from asgi_ipc.engines.shm.segment import Location
from tests.tools.stores import (
    in_child,
    start,
    wait,
)

__all__ = ["Ground", "ground", "impatient"]


class Ground(NamedTuple):
    """The locks of this process, and the mutex of the channels."""

    locks: SemaphoreLocks
    mutex: RobustMutex
    flags: memoryview
    path: Path

    def enter(self) -> None:
        """What a forked child does first of all: it is another process."""
        self.locks.after_fork()
        self.locks.take_slot()

    def in_child(self, function: Callable[[], object]) -> None:
        """Run it in another process; its failure is the test's."""

        def other() -> None:
            self.enter()
            function()

        in_child(other)

    def flagged(self) -> int:
        """How many slots have a mark of the channels' mutex."""
        return len(self.mutex._flagged())

    def take_and_give_back(self) -> None:
        """Take the mutex, and give it back."""
        self.mutex.lock()
        self.mutex.unlock()

    def assert_kept(self, seconds: float = 0.01) -> None:
        """Another process wants the mutex, and is killed as it has not got it for so long."""

        def want() -> None:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            self.enter()
            self.take_and_give_back()

        assert wait(start(want)) == signal.SIGALRM

    def assert_free(self) -> None:
        """This process gets the mutex, and one may be inside afterwards, as before."""
        self.mutex.lock()
        assert self.mutex._own._get_value() == 0
        self.mutex.unlock()
        assert self.mutex._own._get_value() == 1

    def assert_works(self) -> None:
        """This process gets the mutex, others don't while it has it, and do after that."""
        self.mutex.lock()
        self.assert_kept()
        self.mutex.unlock()
        self.assert_free()
        self.in_child(self.take_and_give_back)

    def die_inside(self) -> None:
        """Another process takes the mutex and is killed."""

        def die() -> None:
            self.enter()
            self.mutex.lock()
            os.kill(os.getpid(), signal.SIGKILL)

        wait(start(die))
        assert not self.mutex._own._get_value()

    @contextmanager
    def another(self, function: Callable[[], object]) -> Iterator[int]:
        """Another process that does something, and then sleeps until it is killed."""
        reader, writer = os.pipe()

        def other() -> None:
            self.enter()
            function()
            os.write(writer, b"!")
            time.sleep(600)

        pid = start(other)
        try:
            assert os.read(reader, 1) == b"!"
            yield pid
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reader)
            os.close(writer)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    why = semaphores_fail(str(path), descriptor) or no_new_ones()
    if why:
        pytest.skip(why)
    locks = SemaphoreLocks(str(path), descriptor, Location(str(tmp_path), 0o600, None))
    store_id = secrets.token_bytes(16)
    locks.prepare(store_id, create=True)
    found = locks.mutex(CHANNELS_LOCK, memoryview(b""))
    assert isinstance(found, RobustMutex)
    yield Ground(locks, found, found._flags, path)
    locks.close()
    locks.remove(store_id)
    os.close(descriptor)
    assert not [name for name in os.listdir("/dev/shm") if store_id.hex() in name]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits sleeps almost at once, so that there are not too many opcodes to be killed at."""
    for name in ("_TRIES", "_LOOKS", "_PAUSE"):
        monkeypatch.setattr(mutex, name, range(1))
    monkeypatch.setattr(robust_mutex, "_SETTLE", 0.0002)
