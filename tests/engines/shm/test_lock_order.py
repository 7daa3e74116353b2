"""Threads of a process that need a session's lock and the critical section never wait in a circle.

The order is: the session's lock, then the critical section. So a thread in the critical section
waits for no session's lock; nor does code that interrupted one there. What an exception left of the
critical section is taken over from a thread that waits for the lock.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines import deferred
from asgi_ipc.engines.shm import critical_section, lock_file, opening
from asgi_ipc.engines.shm.critical_section import hold_lock
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.processes import Processes
from asgi_ipc.exceptions import Reentered, StoreUnavailable
from tests.tools.meetings import Meeting, guarded, is_waiting, started, wait_until
from tests.tools.operations import OPERATIONS, OTHERS, Operation, prepare, use
from tests.tools.samples import each_value
from tests.tools.stores import open_store, record


def _replaced(engine: SharedMemoryEngine) -> None:
    """The lock file was removed by hand, and this thread is the first to see it."""
    store = engine.session.store
    assert store is not None
    os.unlink(store.lock_file.path)
    engine.session.reopen(store)


MEANWHILE: dict[str, Operation] = {
    "closes": lambda engine: engine.close(),
    "destroys": lambda engine: engine.destroy(),
    "replaces": _replaced,
    "makes a bell": lambda engine: engine.bell(),
}
NAMES = [*OPERATIONS, *OTHERS]
FIRST = [(name, meanwhile, "") for name in NAMES for meanwhile in ("closes", "replaces")]
HALF = [(meanwhile, half) for meanwhile in ("closes", "replaces") for half in ("slot", "store")]
REST = [("destroys", ""), ("makes a bell", ""), *HALF]


# Of the rest each operation meets one: most operations begin and end alike.
@pytest.mark.parametrize(
    ("name", "meanwhile", "half"),
    FIRST + [(name, *rest) for name, rest in each_value(NAMES, REST)],
)
def test_an_operation_ends_in_the_middle_of_which_another_thread(
    tmp_path: Path, name: str, meanwhile: str, half: str
) -> None:
    operation = (OPERATIONS | OTHERS)[name]

    def meet() -> None:
        point, met = 0, True
        while met:
            point += 1
            engine = open_store(tmp_path / str(point))
            prepare(engine)
            with pytest.MonkeyPatch.context() as patch:
                met = Meeting(patch, point, half).hold(
                    lambda engine=engine: operation(engine),  # type: ignore[misc]
                    lambda engine=engine: MEANWHILE[meanwhile](engine),  # type: ignore[misc]
                )
            if meanwhile not in ("closes", "destroys") or not met:
                use(engine)
                engine.destroy()
        assert point > 1 or name in ("peek", "flushes", "release a role")

    guarded(meet)


# ---- what an exception left of the critical section


def leave_it_held(engine: SharedMemoryEngine) -> None:
    """As if no clean-up had come to an end: all is as inside."""
    engine.session.channels.__enter__()


@pytest.mark.parametrize("name", ["bell", "identity", "members", "hold a role"])
def test_what_a_thread_left_is_taken_over_while_it_waits_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(critical_section, "PATIENCE", 0.5)

    def leave_and_go_on() -> None:
        engine = open_store(tmp_path)
        leave_it_held(engine)
        errors: list[BaseException] = []
        closer = started(engine.close, errors)
        wait_until(lambda: is_waiting(closer))
        with pytest.raises(StoreUnavailable):
            (OPERATIONS | OTHERS)[name](engine)
        closer.join()
        assert not errors

    guarded(leave_and_go_on)


def test_threads_that_wait_for_the_lock_keep_nobody_from_taking_over_what_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critical_section, "PATIENCE", 0.5)

    def take_over() -> None:
        engine = open_store(tmp_path)
        errors: list[BaseException] = []
        left, over = threading.Event(), threading.Event()

        def leave() -> None:
            leave_it_held(engine)
            left.set()
            # Another thread would be given the ident of one that has ended.
            over.wait()

        leaver = started(leave, errors)
        left.wait()
        closer = started(engine.close, errors)
        wait_until(lambda: is_waiting(closer))
        waiting = [started(engine.bell, errors) for _ in range(2)]
        for thread in (closer, *waiting):
            thread.join()
        over.set()
        leaver.join()
        assert not errors

    guarded(take_over)


# ---- code that a call calls outside


def test_a_handler_of_log_lines_waits_for_a_thread_that_is_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is called by a call that has ended, and interrupts none."""

    def log_while_another_thread_is_inside() -> None:
        engine = open_store(tmp_path)
        prepare(engine)
        is_inside, may_leave = threading.Event(), threading.Event()
        errors: list[BaseException] = []
        others: list[threading.Thread] = []
        found: list[object] = []

        def stay() -> None:
            with engine.session.channels:
                is_inside.set()
                may_leave.wait()

        def fail(now: int) -> None:
            engine.upkeep.due = now + 10**12
            others.append(started(stay, errors))
            is_inside.wait()
            raise ZeroDivisionError

        class Asks(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                threading.Timer(0.1, may_leave.set).start()
                try:
                    found.append(engine.statistics())
                except Reentered as error:
                    found.append(error)

        handler = Asks()
        log = logging.getLogger("asgi_ipc")
        log.addHandler(handler)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(engine.upkeep, "_look", fail)
                engine.upkeep.due = 0
                engine.push([record(engine, b"q")])
        finally:
            log.removeHandler(handler)
        for each in others:
            each.join()
        assert not errors
        assert [type(each) for each in found] == [dict]
        engine.destroy()

    guarded(log_while_another_thread_is_inside)


# ---- code that interrupts a call


def interrupting(
    engine: SharedMemoryEngine, patch: pytest.MonkeyPatch, code: Callable[[], object]
) -> Callable[[], object]:
    """Return a push in the middle of which Python runs that code."""
    push = engine.session.queues.push

    def interrupted(*arguments: Any) -> Any:
        code()
        return push(*arguments)

    patch.setattr(engine.session.queues, "push", interrupted)
    return lambda: engine.push([record(engine, b"q")])


@pytest.mark.parametrize("name", ["bell", "push", "members", "closing"])
def test_code_in_the_middle_of_a_call_does_not_wait_for_the_lock_of_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its holder may wait for the store in which the code is."""

    def meet() -> None:
        engine, other = open_store(tmp_path / "a"), open_store(tmp_path / "b")
        over, inside = threading.Event(), threading.Event()
        errors: list[BaseException] = []
        call = {"closing": SharedMemoryEngine.close}.get(name) or OPERATIONS[name]

        def have_it() -> None:
            # As while it is opened again.
            slot, other.session.slot = other.session.slot, -1
            inside.set()
            over.wait()
            other.session.slot = slot

        holder = started(lambda: hold_lock(other.session.lock, have_it), errors)
        inside.wait()

        def code() -> None:
            with pytest.raises(Reentered):
                call(other)

        interrupting(engine, monkeypatch, code)()
        over.set()
        holder.join()
        assert not errors
        use(other)
        engine.destroy()
        other.destroy()

    guarded(meet)


@pytest.mark.parametrize("end", ["close", "destroy"])
def test_code_in_the_middle_of_a_call_closes_another_store_as_a_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def meet() -> None:
        engine, other = open_store(tmp_path / "a"), open_store(tmp_path / "b")

        def code() -> None:
            with pytest.raises(Reentered):
                getattr(other, end)()

        interrupting(engine, monkeypatch, code)()
        use(other)
        engine.destroy()
        other.destroy()

    guarded(meet)


STAGES: dict[str, tuple[object, str]] = {
    "the registry of lock files": (lock_file, "_open"),
    "the opening": (opening._Opening, "_attach_or_create"),
    "the critical section": (Processes, "join"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_code_in_the_middle_of_an_opening_waits_for_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """No layer knows the session yet, whose locks other threads may wait for."""
    owner, name = STAGES[stage]
    really = getattr(owner, name)
    seen: list[bool] = []

    def interrupted(*arguments: Any) -> Any:
        seen.append(deferred.is_inside())
        return really(*arguments)

    monkeypatch.setattr(owner, name, interrupted)
    engine = open_store(tmp_path)
    assert seen
    assert all(seen)
    assert not deferred.is_inside()
    engine.destroy()
