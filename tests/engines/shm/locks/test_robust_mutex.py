"""The robust mutex: dead processes keep no other out, and two never hold it.

Real processes, and real SIGKILL before every opcode with an effect on others of a process that
takes the mutex, releases it, recovers it or takes a slot. `make torture` kills before all others
too, with ``CASES=all`` in the environment.
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
from conformance.opcodes import acts, trace_nothing, trace_opcodes
from tests.tools.doubles import (
    watchdog,
)
from tests.tools.interruptions import (
    Interruption,
    interrupted_at,
)
from tests.tools.samples import ALL
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
#: Between two opcodes that act, a kill leaves what it leaves right before the second.
COUNTED = (lambda code, offset: True) if ALL else acts
#: Seconds for which a process is seen to wait.
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
    """Kill the process that does it before each `COUNTED` opcode, and look; the number of kills."""
    for opcode in itertools.count(1):
        if not killed_at(operation, opcode, prepare, counts=COUNTED):
            break
        after()
    return opcode - 1


# ---- killed


@quickly
def test_killed_at_any_opcode_of_taking_it_and_giving_it_back(ground: Ground) -> None:
    assert kills(ground.take_and_give_back, ground.enter, ground.assert_free) > 4
    ground.assert_works()


@quickly
def test_killed_at_any_opcode_of_waiting_and_of_recovering(ground: Ground) -> None:
    def enter_and_see_one_die() -> None:
        ground.enter()
        ground.die_inside()

    assert kills(ground.take_and_give_back, enter_and_see_one_die, ground.assert_free) > 30
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
        enter = ground.locks.after_fork_in_child
        if not killed_at(ground.locks.take_slot, opcode, enter, counts=COUNTED):
            break
        ground.assert_free()
    ground.assert_works()
    assert opcode > 20


@quickly
def test_flags_of_dead_processes_are_cleared_by_the_next_caller(ground: Ground) -> None:
    """Or there would be no slots left one day."""

    def another_comes() -> None:
        ground.in_child(lambda: None)
        assert ground.flagged() == 0

    assert kills(ground.take_and_give_back, ground.enter, another_comes) > 4


def test_a_recovery_interrupted_at_its_end_is_finished_by_the_next_caller(ground: Ground) -> None:
    """As by a signal handler that raised in the recovering process, right at the end."""

    def just_forked() -> None:
        ground.locks.after_fork_in_child()
        ground.take_and_give_back()

    for comes_next in (ground.in_child, lambda _: in_child(just_forked)):
        ground.flags[0] = 1
        comes_next(ground.take_and_give_back)
        assert ground.flags[0] == 0
        ground.assert_works()


def test_of_many_processes_killed_and_stopped_at_random_never_two_hold_it(ground: Ground) -> None:
    dice = random.Random(1)
    #: Which process is inside, how often one came in, and how often two were.
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
        while time.monotonic() < until or kills < 20:
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
            # A process gets in again.
            passages, deadline = words[1], time.monotonic() + 60
            while words[1] == passages:
                assert time.monotonic() < deadline, "nobody gets in any more"
                time.sleep(0.0005)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            wait(pid)
    assert words[2] == 0
    words.release()
    ground.assert_works()


# ---- alive


def test_a_stopped_holder_keeps_the_others_out_until_it_goes_on(ground: Ground) -> None:
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


def test_recovery_waits_for_living_processes_and_lets_no_other_in(
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
def test_recovery_never_clears_the_flag_of_a_living_process(
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


def test_a_forked_child_has_no_slot_and_no_flag_of_its_parent(ground: Ground) -> None:
    ground.mutex.lock()
    reader, writer = os.pipe()

    def want() -> None:
        ground.locks.after_fork_in_child()
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
def test_interrupted_at_any_call_of_taking_a_slot_no_dead_process_seems_alive(
    ground: Ground,
) -> None:
    def take_slot_interrupted(call: int) -> bool:
        ground.locks.after_fork_in_child()
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
        ground.locks.after_fork_in_child()
        with pytest.raises(StoreUnavailable, match="2 processes"):
            ground.mutex.lock()
        ground.mutex.unlock()

    with ground.another(lambda: None), monkeypatch.context() as patch:
        patch.setattr(semaphore_locks, "LOCK_SLOTS", 2)
        in_child(refused)
    ground.assert_works()


def test_slots_of_dead_processes_are_reused(
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
def test_a_mutex_that_is_locked_while_no_flag_is_set_is_recovered(ground: Ground) -> None:
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
def test_a_holder_has_its_flag_set_at_every_instant(ground: Ground, died_inside: bool) -> None:
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
def test_a_holder_takes_it_over_and_keeps_its_flag(ground: Ground) -> None:
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


def test_many_that_look_for_dead_holders_never_rob_a_living_one(ground: Ground) -> None:
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
def test_slots_of_any_number_of_dead_processes_are_free(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semaphore_locks, "LOCK_SLOTS", 4)
    for each in range(20):
        if each % 2:
            ground.die_inside()
        else:
            ground.in_child(lambda: os._exit(0))
    ground.assert_works()
