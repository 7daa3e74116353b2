"""A short soak, and that a soak finds what is wrong. The long one is `make torture`."""

from __future__ import annotations

import faulthandler
import os
import secrets
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap.heap import Heap
from asgi_ipc.engines.shm.heap.layout import MESSAGE
from asgi_ipc.engines.shm.queues.queues import Queues
from asgi_ipc.engines.shm.tables import Tables
from tests.torture.ledgers import (
    Chance,
    Missing,
    unexplained,
)
from tests.torture.soak import (
    ENGINES,
    Soak,
    soak,
)
from tests.torture.standstill import (
    Standstill,
)

#: Seconds of a soak; longer ones for a machine on which too little has happened.
LONGER = (7, 15, 45)
#: The same where something is planted, and sure to show.
PLANTED = (4, 12, 45)


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


# Faults that are planted must be found. Most are planted in the workers alone, as the
# supervisor reads what they left.


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
        ours = record.queue.startswith(b"channel") and now_and_then(500)
        if ours and os.getpid() != supervisor:
            return 0
        return push(self, record, *args)

    monkeypatch.setattr(Queues, "push", push_most)
    assert finds("lost, ")


def test_a_message_that_overtakes_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pop, supervisor = SharedMemoryEngine.pop, os.getpid()

    def second_first(self: SharedMemoryEngine, queue: bytes, *args: Any) -> Any:
        taken = pop(self, queue, *args)
        if os.getpid() != supervisor and taken and queue.startswith(b"channel") and now_and_then(5):
            second = pop(self, queue, 1)
            if second:
                self.restore(queue, taken[0])
                return second
        return taken

    monkeypatch.setattr(SharedMemoryEngine, "pop", second_first)
    assert finds("out of order")


def test_readers_that_get_nothing_any_more_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pop, supervisor = SharedMemoryEngine.pop, os.getpid()
    began = time.monotonic()

    def nothing_after_a_while(self: SharedMemoryEngine, queue: bytes, *args: Any) -> Any:
        late = time.monotonic() > began + 1
        if os.getpid() != supervisor and late and queue.startswith(b"channel"):
            return []
        return pop(self, queue, *args)

    monkeypatch.setattr(SharedMemoryEngine, "pop", nothing_after_a_while)
    assert finds("no message arrived")


def test_a_bell_that_is_not_signalled_now_and_then_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signal, supervisor = SharedMemoryEngine._signal, os.getpid()

    def signal_mostly(self: SharedMemoryEngine, *args: Any) -> None:
        if os.getpid() == supervisor or not now_and_then(20):
            signal(self, *args)

    monkeypatch.setattr(SharedMemoryEngine, "_signal", signal_mostly)
    assert finds("a wake-up was lost")


def test_a_membership_that_outlives_its_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Tables.__init__

    def trusting(self: Tables, *args: Any) -> None:
        init(self, *args)
        self._owner_alive = lambda owner: True

    monkeypatch.setattr(Tables, "__init__", trusting)
    assert finds("membership of the dead")


def test_memory_that_is_not_given_back_now_and_then_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free, supervisor = Heap.free, os.getpid()

    def free_mostly(self: Heap, change: dict[int, int], handle: int) -> None:
        message = self.kind(self.address(handle)) == MESSAGE
        if os.getpid() == supervisor or not message or not now_and_then(50):
            free(self, change, handle)

    monkeypatch.setattr(Heap, "free", free_mostly)
    assert finds("bytes in use went from")


def now_and_then(seldom: int) -> bool:
    """True once in so many calls. Forked children would share what `random` gives."""
    return secrets.randbelow(seldom) == 0


def finds(word: str) -> bool:
    """Whether a soak finds it, which may take longer on a busy machine."""
    return any(
        word in fault for seconds in PLANTED for fault in Soak("mmap", seconds, 1).run().faults
    )


# What excuses a loss or a delay, and what does not.


def test_a_killed_reader_excuses_one_lost_message_of_its_channels_and_its_time() -> None:
    reader = Chance(frozenset({1, 2}), after=10.0, before=11.0)
    fitting = Missing(1, after=9.0, before=10.5)
    assert unexplained([fitting], [reader]) == []
    assert unexplained([fitting, fitting], [reader]) == [0, 1]
    assert unexplained([fitting, fitting], [reader, reader]) == []
    assert unexplained([Missing(3, after=9.0, before=10.5)], [reader]) == [0]
    # Sent when it was dead already, and taken before it took its last.
    assert unexplained([Missing(1, after=11.5, before=12.0)], [reader]) == [0]
    assert unexplained([Missing(1, after=9.0, before=9.5)], [reader]) == [0]


def test_who_could_be_excused_by_several_readers_leaves_others_theirs() -> None:
    both = Chance(frozenset({1, 2}), after=0.0, before=1.0)
    one = Chance(frozenset({1}), after=0.0, before=1.0)
    lost = [Missing(channel, after=0.5, before=0.6) for channel in (1, 2)]
    assert unexplained(lost, [both, one]) == []
    assert unexplained(lost, [one, both]) == []
    assert unexplained(lost, [one, one]) == [1]


def test_a_machine_that_stands_still_is_no_standstill() -> None:
    still = Standstill()
    for _ in range(3):
        still.look(1, 60.0)
    assert still.seconds <= 2 * Standstill.LONGEST_TURN
    for _ in range(1000):
        still.look(1, 0.01)
    assert still.seconds > 5
    still.look(2, 0.01)
    assert still.seconds == 0
