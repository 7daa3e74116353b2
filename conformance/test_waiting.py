"""Bells and `peek` in one process: E12 to E14, E24, E26."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import pytest

from .tools import ENOUGH, CheckedThread, patient, pop, push, record, signalled

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Bell, Engine

    from .case import Case

pytestmark: pytest.MarkDecorator = pytest.mark.needs("wakes")


def waiting(engine: Engine, *queues: bytes) -> Bell:
    """Return a new bell, armed on empty queues."""
    bell = engine.bell()
    for queue in queues:
        assert engine.pop(queue, 1, bell) == []
    return bell


@pytest.mark.clause("E12")
def test_a_bell_is_silent_until_signalled_and_again_when_cleared(engine: Engine) -> None:
    bell = engine.bell()
    assert not signalled(bell)
    bell.signal()
    bell.signal()
    assert signalled(bell, ENOUGH)
    assert not signalled(bell), "rings are not counted"
    bell.clear()
    bell.signal()
    assert signalled(bell, ENOUGH)


@pytest.mark.clause("E12")
def test_signalling_a_bell_never_blocks_and_a_closed_one_is_no_error(engine: Engine) -> None:
    bell = engine.bell()
    for _ in range(70_000):  # More than a pipe holds.
        bell.signal()
    assert signalled(bell, ENOUGH)
    assert bell.fileno() >= 0
    bell.close()
    assert bell.fileno() < 0
    bell.signal()
    bell.close()


@pytest.mark.clause("E12")
def test_a_push_signals_a_receiver_that_found_the_queue_empty(engine: Engine) -> None:
    bell = waiting(engine, b"q")
    assert not signalled(bell, 0.05)
    push(engine, b"q", [b"1"])
    assert signalled(bell, ENOUGH)
    assert pop(engine, b"q") == [b"1"]


@pytest.mark.clause("E12")
def test_a_pop_that_got_less_than_asked_arms_and_one_that_got_all_does_not(
    engine: Engine,
) -> None:
    content, greedy = engine.bell(), engine.bell()
    push(engine, b"q", [b"1"])
    assert len(engine.pop(b"q", 1, content)) == 1
    push(engine, b"q", [b"2"])
    assert not signalled(content)
    assert len(engine.pop(b"q", 2, greedy)) == 1
    push(engine, b"q", [b"3"])
    assert signalled(greedy, ENOUGH)
    assert not signalled(content)


@pytest.mark.clause("E12")
def test_a_bell_signals_once_for_one_arming(engine: Engine) -> None:
    bell = waiting(engine, b"q", b"q")
    push(engine, b"q", [b"1"])
    assert signalled(bell, ENOUGH)
    push(engine, b"q", [b"2"])
    assert not signalled(bell, 0.05)
    assert pop(engine, b"q") == [b"1", b"2"]
    assert engine.pop(b"q", 1, bell) == []
    push(engine, b"q", [b"3"])
    assert signalled(bell, ENOUGH)


@pytest.mark.clause("E12")
@pytest.mark.clause("E7")
def test_only_a_push_on_its_queue_signals_it(engine: Engine) -> None:
    bell = waiting(engine, b"q")
    push(engine, b"other", [b"1"])
    push(engine, b"q2", [b"1"])
    assert engine.push([record(engine, b"q", b"x", capacity=0)]), "refused"
    assert not signalled(bell, 0.05)


@pytest.mark.clause("E12")
def test_one_bell_may_wait_for_several_queues(engine: Engine) -> None:
    bell = waiting(engine, b"a", b"b", b"c")
    for queue in (b"b", b"a", b"c"):
        push(engine, queue, [queue])
        assert signalled(bell, ENOUGH), queue
        assert pop(engine, queue) == [queue]


@pytest.mark.clause("E12")
def test_another_engine_of_this_process_signals_it_too(case: Case) -> None:
    mine, other = case.open(), case.open()
    bell = waiting(mine, b"q")
    push(other, b"q", [b"1"])
    assert signalled(bell, ENOUGH)


@pytest.mark.clause("E12")
def test_a_thread_that_relies_on_its_bell_misses_no_record(engine: Engine) -> None:
    rounds = 400
    missed: list[int] = []

    def answer() -> None:
        bell = engine.bell()
        for number in range(rounds):
            while not engine.pop(b"question", 1, bell):
                if not signalled(bell, ENOUGH):
                    missed.append(number)
                    return
            push(engine, b"answer", [b"x"])
        engine.disarm(b"question", bell)
        bell.close()

    thread = CheckedThread(answer)
    thread.start()
    bell = engine.bell()
    for number in range(rounds):
        push(engine, b"question", [b"x"])
        while not engine.pop(b"answer", 1, bell) and not missed:
            if not signalled(bell, ENOUGH):
                missed.append(number)
        if missed:
            break
    thread.join()
    assert not missed
    assert engine.statistics()["pending"] == 0


@pytest.mark.clause("E13")
def test_of_several_bells_the_one_armed_first_signals(engine: Engine) -> None:
    bells = [waiting(engine, b"q") for _ in range(3)]
    for turn in range(3):
        push(engine, b"q", [b"%d" % turn])
        assert signalled(bells[turn], ENOUGH)
        assert not any(signalled(bell) for bell in bells)
    push(engine, b"q", [b"nobody waits"])
    assert not any(signalled(bell, 0.02) for bell in bells)


@pytest.mark.clause("E13")
def test_a_bell_armed_again_waits_behind_the_others(engine: Engine) -> None:
    first, second = waiting(engine, b"q"), waiting(engine, b"q")
    push(engine, b"q", [b"1"])
    assert signalled(first, ENOUGH)
    assert len(engine.pop(b"q", 1)) == 1
    assert engine.pop(b"q", 1, first) == []
    push(engine, b"q", [b"2"])
    assert signalled(second, ENOUGH)
    assert not signalled(first)


@pytest.mark.clause("E12")
@pytest.mark.clause("E13")
def test_a_bell_that_is_armed_already_keeps_its_turn(engine: Engine) -> None:
    first, second = waiting(engine, b"q"), waiting(engine, b"q")
    assert engine.pop(b"q", 1, first) == []
    push(engine, b"q", [b"1"])
    assert signalled(first, ENOUGH)
    assert not signalled(second, 0.02)
    push(engine, b"q", [b"2"])
    assert signalled(second, ENOUGH)


@pytest.mark.clause("E13")
def test_each_record_of_a_batch_signals_for_itself(engine: Engine) -> None:
    """Otherwise a receiver would sleep although the second record is there."""
    bells = [waiting(engine, b"q") for _ in range(3)]
    push(engine, b"q", [b"1", b"2"])
    assert signalled(bells[0], ENOUGH)
    assert signalled(bells[1], ENOUGH)
    assert not signalled(bells[2], 0.05)


@pytest.mark.clause("E13")
def test_a_push_to_several_queues_signals_for_each(engine: Engine) -> None:
    bells = {queue: waiting(engine, queue) for queue in (b"a", b"b", b"c")}
    assert engine.push([record(engine, queue, b"x") for queue in (b"a", b"c")]) == []
    assert signalled(bells[b"a"], ENOUGH)
    assert signalled(bells[b"c"], ENOUGH)
    assert not signalled(bells[b"b"], 0.05)


@pytest.mark.clause("E13")
@pytest.mark.clause("E26")
def test_a_push_that_wakes_many_signals_for_each_though_one_never_clears(engine: Engine) -> None:
    bells = {bell.fileno(): bell for bell in (waiting(engine, b"%d" % n) for n in range(40))}
    assert engine.push([record(engine, b"%d" % n, b"x") for n in range(40)]) == []
    poll, is_first = select.poll(), True
    for descriptor in bells:
        poll.register(descriptor, select.POLLIN)
    silent = dict(bells)
    while silent:
        ready = poll.poll(int(patient(ENOUGH) * 1000))
        assert ready, f"{len(silent)} of {len(bells)} were not signalled"
        for descriptor, _ in ready:
            poll.unregister(descriptor)
            bell = silent.pop(descriptor)
            if not is_first:
                bell.clear()
            is_first = False


@pytest.mark.clause("E13")
def test_a_closed_bell_is_passed_over(engine: Engine) -> None:
    gone, here = waiting(engine, b"q"), waiting(engine, b"q")
    gone.close()
    push(engine, b"q", [b"1"])
    assert signalled(here, ENOUGH)


@pytest.mark.clause("E13")
@pytest.mark.clause("E21")
def test_the_bells_of_a_closed_engine_are_passed_over(case: Case) -> None:
    closed, open_ = case.open(), case.open()
    gone = waiting(closed, b"q")
    here = waiting(open_, b"q")
    closed.close()
    assert gone.fileno() < 0
    push(open_, b"q", [b"1"])
    assert signalled(here, ENOUGH)


@pytest.mark.clause("E14")
def test_a_disarmed_bell_does_not_signal(engine: Engine) -> None:
    first, second = waiting(engine, b"q"), waiting(engine, b"q")
    engine.disarm(b"q", first)
    push(engine, b"q", [b"1"])
    assert signalled(second, ENOUGH)
    assert not signalled(first)


@pytest.mark.clause("E14")
def test_disarming_a_bell_that_was_signalled_already_passes_the_signal_on(engine: Engine) -> None:
    first, second, third = (waiting(engine, b"q") for _ in range(3))
    push(engine, b"q", [b"1"])
    assert not signalled(second, 0.02)
    engine.disarm(b"q", first)
    assert signalled(second, ENOUGH)
    assert not signalled(third)
    assert pop(engine, b"q") == [b"1"]


@pytest.mark.clause("E14")
def test_nothing_is_passed_on_when_there_is_nothing_left(engine: Engine) -> None:
    first, second = waiting(engine, b"q"), waiting(engine, b"q")
    push(engine, b"q", [b"1"])
    assert pop(engine, b"q") == [b"1"]
    engine.disarm(b"q", first)
    assert not signalled(second, 0.05)
    push(engine, b"q", [b"2"])
    assert signalled(second, ENOUGH)


@pytest.mark.clause("E14")
def test_disarming_touches_that_queue_only(engine: Engine) -> None:
    bell, other = waiting(engine, b"a", b"b"), waiting(engine, b"b")
    push(engine, b"a", [b"1"])
    assert signalled(bell, ENOUGH)
    engine.disarm(b"a", bell)
    engine.disarm(b"never armed", bell)
    push(engine, b"b", [b"2"])
    assert signalled(bell, ENOUGH), "still armed there"
    engine.disarm(b"b", bell)
    assert signalled(other, ENOUGH)
    assert pop(engine, b"a") == [b"1"]


@pytest.mark.clause("E24")
def test_a_peek_changes_nothing(engine: Engine) -> None:
    def counts() -> dict[str, int]:
        return {name: n for name, n in engine.statistics().items() if name != "oldest_age"}

    bell = waiting(engine, b"q")
    before = counts()
    for _ in range(3):
        engine.peek(b"q")
        engine.peek(b"never used")
    assert counts() == before
    push(engine, b"q", [b"1", b"2"])
    before = counts()
    for _ in range(3):
        assert engine.peek(b"q") is True
    assert counts() == before
    assert signalled(bell, ENOUGH)
    assert pop(engine, b"q") == [b"1", b"2"]
