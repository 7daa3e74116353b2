"""Processes that are stopped while they hold a lock of a store."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from asgi_ipc.cli import sighting
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from tests.tools.stores import start, wait


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


def impatient(patch: pytest.MonkeyPatch) -> None:
    """Let checks of a Django project give up soon on a store that does not answer."""
    patch.setattr(sighting, "PATIENCE", 0.1)


__all__ = ["impatient", "stopped_holder"]
