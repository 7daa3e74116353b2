"""A short soak, and that a soak finds what is wrong. The long one is `make torture`."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator

import pytest

from tests.torture import soak_plants
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
LONGER = (4, 15, 45)
#: The same where something is planted, and sure to show.
PLANTED = (3, 12, 45)


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    faulthandler.dump_traceback_later(600, exit=True, file=sys.__stderr__ or sys.stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_and_stopped_processes_harm_no_other(engine: str) -> None:
    for seconds in LONGER:
        report = soak(engine, seconds)
        assert report.faults == [], str(report)
        if report.kills > 10 and report.received > 100:
            return
    raise AssertionError(f"too little has happened: {report}")


# Faults that are planted must be found.


def test_a_reader_that_gets_a_message_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    soak_plants.give_twice(monkeypatch)
    assert finds("twice")


def test_a_message_that_is_acknowledged_and_not_stored_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soak_plants.store_most(monkeypatch)
    assert finds("lost, ")


def test_a_message_that_overtakes_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    soak_plants.give_second_first(monkeypatch)
    assert finds("out of order")


def test_readers_that_get_nothing_any_more_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    soak_plants.give_nothing_after_a_while(monkeypatch)
    assert finds("no message arrived")


def test_a_bell_that_is_not_signalled_now_and_then_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soak_plants.signal_mostly(monkeypatch)
    assert finds("a wake-up was lost")


def test_a_membership_that_outlives_its_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    soak_plants.trust_owners(monkeypatch)
    assert finds("membership of the dead")


def test_memory_that_is_not_given_back_now_and_then_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soak_plants.free_mostly(monkeypatch)
    assert finds("bytes in use went from")


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


def test_a_loss_that_several_readers_could_excuse_leaves_the_others_theirs() -> None:
    both = Chance(frozenset({1, 2}), after=0.0, before=1.0)
    one = Chance(frozenset({1}), after=0.0, before=1.0)
    lost = [Missing(channel, after=0.5, before=0.6) for channel in (1, 2)]
    assert unexplained(lost, [both, one]) == []
    assert unexplained(lost, [one, both]) == []
    assert unexplained(lost, [one, one]) == [1]


def test_a_paused_machine_is_not_a_standstill() -> None:
    still = Standstill()
    for _ in range(3):
        still.look(1, 60.0)
    assert still.seconds <= 2 * Standstill.LONGEST_TURN
    for _ in range(1000):
        still.look(1, 0.01)
    assert still.seconds > 5
    still.look(2, 0.01)
    assert still.seconds == 0
