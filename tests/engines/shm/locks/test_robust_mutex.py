"""The lock that is a semaphore and marks: nobody is kept out by the dead, and never two are in.

Real processes, and real SIGKILL before every opcode of whoever takes it, gives it back, recovers
it or takes a slot.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType

import pytest

from asgi_ipc.engines.shm.locks import semaphore_locks
from asgi_ipc.engines.shm.locks.robust_mutex import _STRIDE, RobustMutex
from asgi_ipc.exceptions import StoreUnavailable
from conformance.opcodes import trace_nothing, trace_opcodes
from tests.tools.doubles import (
    watchdog,
)
from tests.tools.interruptions import (
    Interruption,
    interrupted_at,
)
from tests.tools.semaphored import (
    Ground,
    ground,
    impatient,
)
from tests.tools.stores import (
    in_child,
    killed_at,
    start,
    wait,
)

__all__ = ["ground", "impatient", "watchdog"]

quickly = pytest.mark.usefixtures("impatient")
#: Seconds for which somebody is seen to wait.
A_WHILE = 0.3


@contextmanager
def wanted(mutex: RobustMutex) -> Iterator[threading.Event]:
    """A thread waits for it; whether it has got it."""
    got = threading.Event()

    def want() -> None:
        mutex.lock()
        got.set()

    thread = threading.Thread(target=want)
    thread.start()
    yield got
    thread.join()


def kills(
    operation: Callable[[], object], prepare: Callable[[], object], after: Callable[[], object]
) -> int:
    """Kill who does it before each opcode in turn, look after each kill; how many there were."""
    for opcode in itertools.count(1):
        if not killed_at(operation, opcode, prepare):
            break
        after()
    return opcode - 1


# ---- killed


@quickly
def test_killed_at_any_opcode_of_taking_it_and_giving_it_back(ground: Ground) -> None:
    assert kills(ground.take_and_give_back, ground.enter, ground.assert_free) > 30
    ground.assert_works()


@quickly
def test_killed_at_any_opcode_of_waiting_and_of_recovering(ground: Ground) -> None:
    def enter_and_see_one_die() -> None:
        ground.enter()
        ground.die_inside()

    assert kills(ground.take_and_give_back, enter_and_see_one_die, ground.assert_free) > 200
    ground.assert_works()
    assert ground.flagged() == 0


@quickly
def test_killed_at_any_opcode_of_taking_a_slot(ground: Ground) -> None:
    flags = ground.flags

    def die_flagged() -> None:
        flags[ground.mutex._flag] = 1
        os.kill(os.getpid(), signal.SIGKILL)

    for opcode in itertools.count(1):
        killed_at(die_flagged, 10**9, ground.enter)
        # The slot before one that is marked may be free.
        assert 1 <= ground.flagged() <= 2
        if not killed_at(ground.locks.take_slot, opcode, ground.locks.after_fork):
            break
        ground.assert_free()
    ground.assert_works()
    assert opcode > 200


@quickly
def test_what_the_dead_have_marked_is_cleared_by_who_comes_next(ground: Ground) -> None:
    """Or there would be no slots left one day."""

    def another_comes() -> None:
        ground.in_child(lambda: None)
        assert ground.flagged() == 0

    assert kills(ground.take_and_give_back, ground.enter, another_comes) > 30


def test_one_left_closed_is_opened_by_who_comes_next(ground: Ground) -> None:
    """As by a signal's handler that raised in who was recovering it, right at the end."""

    def just_forked() -> None:
        ground.locks.after_fork()
        ground.take_and_give_back()

    for comes_next in (ground.in_child, lambda _: in_child(just_forked)):
        ground.flags[0] = 1
        comes_next(ground.take_and_give_back)
        assert ground.flags[0] == 0
        ground.assert_works()


def test_many_that_are_killed_and_stopped_at_random_are_never_two_inside(ground: Ground) -> None:
    dice = random.Random(1)
    #: Who is inside, how often somebody came in, and how often two were.
    words = memoryview(mmap.mmap(-1, 4096)).cast("Q")

    def work() -> None:
        ground.enter()
        me = os.getpid()
        while True:
            ground.mutex.lock()
            words[0] = me
            for _ in range(20):
                if words[0] != me:
                    words[2] += 1
            words[1] += 1
            ground.mutex.unlock()

    workers = [start(work) for _ in range(4)]
    kills, passages = 0, 0
    try:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            time.sleep(dice.random() * 0.02)
            number = dice.randrange(4)
            if dice.random() < 0.3:
                os.kill(workers[number], signal.SIGSTOP)
                time.sleep(dice.random() * 0.01)
                os.kill(workers[number], signal.SIGCONT)
                continue
            os.kill(workers[number], signal.SIGKILL)
            wait(workers[number])
            kills += 1
            workers[number] = start(work)
            # Somebody gets in again.
            passages, deadline = words[1], time.monotonic() + 60
            while words[1] == passages:
                assert time.monotonic() < deadline, "nobody gets in any more"
                time.sleep(0.0005)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            wait(pid)
    assert kills > 20
    assert words[2] == 0
    words.release()
    ground.assert_works()


# ---- alive


def test_who_is_stopped_inside_keeps_the_others_out_and_then_lets_them_in(ground: Ground) -> None:
    reader, writer = os.pipe()

    def stop_inside() -> None:
        ground.enter()
        ground.mutex.lock()
        os.write(writer, b"!")
        os.kill(os.getpid(), signal.SIGSTOP)
        ground.mutex.unlock()

    child = start(stop_inside)
    os.read(reader, 1)
    with wanted(ground.mutex) as got:
        assert not got.wait(A_WHILE)
        os.kill(child, signal.SIGCONT)
        assert got.wait(60)
    ground.mutex.unlock()
    assert wait(child) == 0
    ground.assert_works()
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_while_it_is_recovered_the_living_are_waited_for_and_nobody_else_gets_in(
    ground: Ground,
) -> None:
    flags = ground.flags
    # Alive, and about to try the semaphore or just done with it.
    mark: list[int] = []
    with ground.another(lambda: flags.__setitem__(ground.mutex._flag, 1)):
        mark += [each for each in range(2 * _STRIDE, len(flags), _STRIDE) if flags[each]]
        ground.die_inside()
        with wanted(ground.mutex) as got:
            assert not got.wait(A_WHILE)
            assert flags[0] == 1, "it is closed"
            # Closed, it is not taken even if it is there to be taken.
            ground.mutex._deads.release()
            ground.assert_kept(A_WHILE)
            assert not got.is_set()
            flags[mark[0]] = 0
            assert got.wait(60)
    assert flags[0] == 0, "it is open again"
    ground.mutex.unlock()
    ground.assert_works()


@pytest.mark.parametrize("at_it", [False, True])
def test_a_living_one_s_mark_is_never_cleared_by_who_recovers(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, at_it: bool
) -> None:
    flags, slots = ground.flags, ground.locks
    with ground.another(lambda: None):
        ground.die_inside()
        alive = next(slot for slot in range(9) if slots.is_alive(slot) and slot)
        mutex = ground.mutex
        release = mutex._deads.release
        # It is at it, is waited for, and leaves.
        flags[mutex._offset(alive)] = at_it
        leaves = threading.Timer(0.2, flags.__setitem__, (mutex._offset(alive), 0))
        leaves.start()

        class Deads:
            """That process finds it closed, at the moment before it is opened again."""

            def release(self) -> None:
                leaves.join()
                flags[mutex._offset(alive)] = 1
                release()

        monkeypatch.setattr(mutex, "_deads", Deads())
        mutex.lock()
        assert flags[mutex._offset(alive)] == 1
        flags[mutex._offset(alive)] = 0
        mutex.unlock()


def test_a_forked_child_has_nothing_of_its_parent_s(ground: Ground) -> None:
    ground.mutex.lock()
    reader, writer = os.pipe()

    def want() -> None:
        ground.locks.after_fork()
        ground.mutex.unlock()
        ground.locks.take_slot()
        ground.mutex.unlock()
        assert ground.mutex._own._get_value() == 0, "that was the parent's"
        ground.mutex.lock()
        os.write(writer, b"!")
        ground.mutex.unlock()

    child = start(want)
    time.sleep(A_WHILE)
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    ground.mutex.unlock()
    assert wait(child) == 0
    assert os.read(reader, 1) == b"!"
    ground.assert_works()
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_a_child_that_does_nothing_keeps_nothing_of_a_parent_that_is_killed(
    ground: Ground,
) -> None:
    reader, writer = os.pipe()

    def enter_and_fork() -> None:
        ground.enter()
        ground.mutex.lock()
        # Which does not even do what a forked child does first of all.
        os.write(writer, struct.pack("i", start(lambda: time.sleep(60))))
        time.sleep(60)

    parent = start(enter_and_fork)
    (child,) = struct.unpack("i", os.read(reader, 4))
    os.kill(parent, signal.SIGKILL)
    wait(parent)
    ground.assert_works()
    os.kill(child, signal.SIGKILL)
    for descriptor in (reader, writer):
        os.close(descriptor)


@quickly
@pytest.mark.parametrize("died_inside", [False, True])
def test_interrupted_at_any_call_it_is_given_back_by_unlock(
    ground: Ground, died_inside: bool
) -> None:
    for call in itertools.count(1):
        if died_inside:
            ground.die_inside()
        try:
            with interrupted_at(call) as interrupted:
                ground.take_and_give_back()
        except Interruption:
            ground.mutex.unlock()
        assert not ground.flags[ground.mutex._flag]
        ground.in_child(ground.take_and_give_back)
        ground.assert_free()
        if not interrupted.happened:
            break
    assert call > (10 if died_inside else 2)


# ---- slots


@quickly
def test_interrupted_at_any_call_of_taking_a_slot_no_dead_one_seems_alive(ground: Ground) -> None:
    def take_slot_interrupted(call: int) -> bool:
        ground.locks.after_fork()
        ground.die_inside()
        try:
            with interrupted_at(call) as interrupted:
                ground.locks.take_slot()
        except Interruption:
            for mutex in ground.locks._mutexes.values():
                mutex.unlock()
        ground.in_child(ground.take_and_give_back)
        return interrupted.happened

    def all_calls() -> None:
        for call in itertools.count(1):
            if not take_slot_interrupted(call):
                break
        assert call > 10

    in_child(all_calls)


def test_when_all_slots_are_taken_the_error_says_so(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        ground.locks.after_fork()
        with pytest.raises(StoreUnavailable, match="2 processes"):
            ground.mutex.lock()
        ground.mutex.unlock()

    with ground.another(lambda: None), monkeypatch.context() as patch:
        patch.setattr(semaphore_locks, "LOCK_SLOTS", 2)
        in_child(refused)
    ground.assert_works()


def test_the_slots_of_the_dead_are_taken_again(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semaphore_locks, "LOCK_SLOTS", 3)
    for _ in range(5):
        ground.die_inside()
        ground.mutex.lock()
        ground.mutex.unlock()
    ground.assert_works()


# ---- taken, and no process is marked


@quickly
def test_one_that_is_taken_although_no_process_is_marked_is_recovered(ground: Ground) -> None:
    """No death alone does that; a mark may be lost in some other way."""

    def lose_the_mark_and_die() -> None:
        ground.enter()
        ground.mutex.lock()
        ground.flags[ground.mutex._flag] = 0
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        wait(start(lose_the_mark_and_die))
        assert ground.flagged() == 0
        ground.in_child(ground.take_and_give_back)
        ground.assert_free()
    ground.assert_works()


@quickly
@pytest.mark.parametrize("died_inside", [False, True])
def test_at_every_instant_a_process_that_has_it_is_marked(
    ground: Ground, died_inside: bool
) -> None:
    unmarked: list[int] = []
    opcodes = 0

    def each(code: CodeType, offset: int) -> None:
        nonlocal opcodes
        opcodes += 1
        if ground.mutex._own._count() and not ground.flags[ground.mutex._flag]:
            unmarked.append(opcodes)

    if died_inside:
        ground.die_inside()
    for give_back in (ground.mutex.release, ground.mutex.unlock):
        trace_opcodes(each)
        ground.mutex.lock()
        # Its own, as an interrupted operation leaves it.
        ground.mutex.lock()
        give_back()
        trace_nothing()
    assert opcodes > 60
    assert unmarked == []
    ground.assert_works()


@quickly
def test_a_process_that_has_it_already_takes_it_over_and_stays_marked(ground: Ground) -> None:
    """As when giving it back was interrupted: it must not clear its mark, or it could not die."""

    def take_twice_and_die() -> None:
        ground.enter()
        ground.mutex.lock()
        ground.mutex.lock()
        assert ground.flags[ground.mutex._flag] == 1
        os.kill(os.getpid(), signal.SIGKILL)

    ground.mutex.lock()
    ground.mutex.lock()
    ground.assert_kept()
    ground.mutex.unlock()
    ground.assert_works()
    status = wait(start(take_twice_and_die))
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert ground.flagged() == 1
    ground.in_child(ground.take_and_give_back)
    ground.assert_works()


def test_a_holder_is_never_robbed_by_many_that_look_for_the_dead(ground: Ground) -> None:
    """It holds on for long, while others wait, look, and are killed as they recover."""
    ground.mutex.lock()
    assert ground.mutex._own._get_value() == 0

    def want() -> None:
        ground.enter()
        ground.mutex._queue()

    waiting = [start(want) for _ in range(3)]
    for _ in range(20):
        time.sleep(0.02)
        assert ground.mutex._own._get_value() == 0
        os.kill(waiting[0], signal.SIGKILL)
        wait(waiting.pop(0))
        waiting.append(start(want))
    ground.mutex.unlock()
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
        wait(pid)
    ground.assert_works()


@quickly
def test_the_slots_of_any_number_of_dead_are_free(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semaphore_locks, "LOCK_SLOTS", 4)
    for each in range(20):
        if each % 2:
            ground.die_inside()
        else:
            ground.in_child(lambda: os._exit(0))
    ground.assert_works()
