"""Twenty seconds of the stress driver, and proof that it sees what is wrong.

Ten minutes of it are in `make torture`. The seed of a round that fails is in its report:
``python -m tests.torture stress --engine E --seed S --round N``.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.tools.doubles import (
    watchdog,
)
from tests.torture.ledgers import (
    GOT,
    SENT,
    TRIED,
    Ledger,
)
from tests.torture.stress import (
    driver,
    plants,
)
from tests.torture.stress.judge import (
    Books,
)
from tests.torture.stress.notes import (
    EMPTIED,
    LEFT,
    MEMBER,
    OPENED,
    OVERFLOWED,
    STRANDED,
)
from tests.torture.stress.plan import (
    ENGINES,
    Plan,
    draw,
)

__all__ = ["watchdog"]

#: Seconds for each of the engines, in two parts that may run beside each other.
SECONDS = 20 / len(ENGINES) / 2
#: Another one each time, unless it is asked for.
SEED = int(os.environ.get("STRESS_SEED", random.randrange(1 << 30)))


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_lost_doubled_reordered_or_left_asleep(engine: str, part: int) -> None:
    for outcome in driver.stress(engine, SECONDS, SEED + part):
        assert outcome.faults == [], driver.told(outcome)
        assert outcome.sent > 0, "nothing was sent"
        assert outcome.arrived > 0, "nothing arrived"


@pytest.mark.parametrize("name", plants.PLANTS)
def test_a_planted_fault_is_seen(name: str) -> None:
    assert driver.caught(name, SEED)


def test_a_round_is_planned_from_its_seed_alone() -> None:
    plans = [draw(7, number, "posix", 1.0) for number in range(50)]
    assert plans == [draw(7, number, "posix", 1.0) for number in range(50)]
    assert len(set(plans)) == 50
    assert plans != [draw(8, number, "posix", 1.0) for number in range(50)]


# What the judge makes of ledgers

ORDINARY, GROUP, OWN, QUEUE = 0, 8, 100, 101


@pytest.fixture
def plan() -> Plan:
    return draw(0, 0, "posix", 1.0, ())._replace(own_capacity=100_000)


def judged(folder: Path, plan: Plan, *actors: list[tuple[int, int, int, int]]) -> str:
    """The faults in what some actors have written: what, where, producer and number."""
    for path in folder.glob("*.ledger"):
        path.unlink()
    for me, lines in enumerate(actors):
        ledger = Ledger(folder / f"{me}.ledger")
        for line in lines:
            ledger.note(*line)
        ledger.close()
    return "\n".join(Books(folder, plan).faults())


def sent(*numbers: int, where: int = ORDINARY) -> list[tuple[int, int, int, int]]:
    return [(what, where, 1, number) for number in numbers for what in (TRIED, SENT)]


def got(*numbers: int, where: int = ORDINARY) -> list[tuple[int, int, int, int]]:
    return [(GOT, where, 1, number) for number in numbers]


def test_ledgers_that_agree_are_in_order(tmp_path: Path, plan: Plan) -> None:
    assert judged(tmp_path, plan, sent(1, 2, 3), got(1, 3), got(2)) == ""


def test_a_message_that_does_not_arrive_is_lost(tmp_path: Path, plan: Plan) -> None:
    assert "1 messages lost" in judged(tmp_path, plan, sent(1, 2, 3), got(1, 3))


def test_a_message_that_was_tried_may_arrive_or_not(tmp_path: Path, plan: Plan) -> None:
    tried = [(TRIED, ORDINARY, 1, 1), (TRIED, ORDINARY, 1, 2)]
    assert judged(tmp_path, plan, tried, got(2)) == ""


def test_a_message_that_arrives_twice_or_was_never_sent_is_seen(tmp_path: Path, plan: Plan) -> None:
    told = judged(tmp_path, plan, sent(1), got(1), got(1, 9))
    assert "arrived twice" in told
    assert "never sent" in told


def test_order_counts_for_each_receiver_by_itself(tmp_path: Path, plan: Plan) -> None:
    assert "out of order" in judged(tmp_path, plan, sent(1, 2), got(2, 1))


def test_a_flush_excuses_what_was_sent_before_it_and_nothing_else(
    tmp_path: Path, plan: Plan
) -> None:
    flushed = [(EMPTIED, 0, 0, 0)]
    assert judged(tmp_path, plan, [*sent(1), *flushed]) == ""
    assert "1 messages lost" in judged(tmp_path, plan, [*sent(1), *flushed, *sent(2)])


def test_drops_are_excused_as_far_as_they_are_counted(tmp_path: Path, plan: Plan) -> None:
    opened = [(OPENED, OWN, 0, QUEUE)]
    dropped = [(OVERFLOWED, QUEUE, 0, 2)]
    lines = [*opened, *sent(1, 2, where=OWN), *dropped]
    assert judged(tmp_path, plan, lines) == ""
    told = judged(tmp_path, plan, [*lines, *sent(3, where=OWN)])
    assert "3 messages lost, with 2 drops counted" in told


def test_a_channel_that_is_given_up_loses_its_last_and_no_other(tmp_path: Path, plan: Plan) -> None:
    opened, left = [(OPENED, OWN, 0, QUEUE)], [(LEFT, OWN, 0, 0)]
    lines = [*opened, *sent(1, 2, 3, where=OWN)]
    assert judged(tmp_path, plan, lines, [*got(1, where=OWN), *left]) == ""
    assert "1 messages lost" in judged(tmp_path, plan, lines, [*got(1, 3, where=OWN), *left])


def test_a_member_gets_what_was_sent_after_it_joined(tmp_path: Path, plan: Plan) -> None:
    opened, member = [(OPENED, OWN, 0, QUEUE)], [(MEMBER, OWN, 0, GROUP)]
    lines = [*opened, *sent(1, where=GROUP), *member, *sent(2, where=GROUP)]
    assert judged(tmp_path, plan, lines, got(2, where=OWN)) == ""
    assert "1 messages lost" in judged(tmp_path, plan, lines)


def test_what_lay_unread_while_somebody_waited_is_a_lost_wake_up(
    tmp_path: Path, plan: Plan
) -> None:
    stranded = [(STRANDED, ORDINARY, 1, 1)]
    judged(tmp_path, plan, sent(1), [*stranded, *got(1)])
    books = Books(tmp_path, plan)
    assert books.faults() == []
    assert "a wake-up was lost" in "\n".join(books.faults(books.stranded))
