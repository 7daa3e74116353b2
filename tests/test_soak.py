"""A short soak, and that a soak finds what is wrong. The long one is `make torture`."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_ipc.store.engine import SharedMemoryEngine
from asgi_ipc.store.queues import Queues

from .torture.soak import ENGINES, Soak, soak

#: Seconds of a soak; longer ones for a machine on which too little has happened.
LONGER = (3, 12, 48)


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    faulthandler.dump_traceback_later(600, exit=True, file=sys.__stderr__ or sys.stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_and_stopped_processes_harm_nobody(engine: str) -> None:
    for seconds in LONGER:
        report = soak(engine, seconds)
        assert report.faults == [], str(report)
        if report.kills > 10 and report.received > 100:
            return
    raise AssertionError(f"too little has happened: {report}")


def test_a_reader_that_gets_a_message_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pop, supervisor = SharedMemoryEngine.pop, os.getpid()

    def popped_and_put_back(self: SharedMemoryEngine, queue: bytes, *args: Any) -> Any:
        taken = pop(self, queue, *args)
        if os.getpid() != supervisor and taken and queue.startswith(b"channel"):
            self.restore(queue, taken[0])
        return taken

    monkeypatch.setattr(SharedMemoryEngine, "pop", popped_and_put_back)
    assert finds("twice")


def test_a_message_that_is_acknowledged_and_not_stored_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push, supervisor = Queues.push, os.getpid()

    def push_most(self: Queues, record: Any, *args: Any) -> int:
        ours = record.queue.startswith(b"channel") and hash(record.payload) % 5 == 0
        if ours and os.getpid() != supervisor:
            return 0
        return push(self, record, *args)

    monkeypatch.setattr(Queues, "push", push_most)
    assert finds("lost")


def finds(word: str) -> bool:
    """Whether a soak finds it, which may take longer on a busy machine."""
    return any(
        word in fault for seconds in LONGER for fault in Soak("mmap", seconds, 1).run().faults
    )
