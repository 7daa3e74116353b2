"""A short torture of relays, and that its judge finds what is wrong. The long: `make torture`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from asgi_ipc.conformance.wires.servers import Redis

from tests.torture.ledgers import GOT, SENT, TRIED, Line
from tests.torture.relays.judge import Books, Harm, Told
from tests.torture.relays.places import (
    LOCAL,
    LOCAL_GROUP,
    MACHINES,
    OWN,
    SHARED_CHANNEL,
    steady,
)
from tests.torture.relays.plants import PLANTS

#: Steady processes of machines 0 and 1, and another of machine 0.
HERE, THERE, NEAR = 0, 1, MACHINES
NONE: dict[int, Harm] = {machine: Harm() for machine in range(MACHINES)}


def test_relays_account_for_all_messages_while_all_goes_wrong() -> None:
    if Redis.missing():
        pytest.skip(str(Redis.missing()))
    command = "relays --short --wire redis --trouble mixed --seconds 3"
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", *command.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4_000:]
    assert "redis, mixed" in done.stdout


@pytest.mark.parametrize("plant", [each.plant for each in PLANTS])
def test_a_fault_can_be_planted(plant: Callable[[pytest.MonkeyPatch], None]) -> None:
    """That each is found takes minutes: `make torture`."""
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)  # Raises if what it changes has another name now.


class Ledgers:
    """What processes noted, as a test makes it up."""

    def __init__(self) -> None:
        self.lines: dict[int, list[Line]] = {me: [] for me in steady()}

    def send(self, me: int, where: int, *numbers: int) -> None:
        for number in numbers:
            self.lines[me] += [Line(what, where, me, number, 0.0) for what in (TRIED, SENT)]

    def get(self, me: int, where: int, sender: int, *numbers: int) -> None:
        self.lines[me] += [Line(GOT, where, sender, number, 0.0) for number in numbers]

    def books(self) -> Books:
        return Books(self.lines)


def told(gaps: int = 0, **drops: int) -> dict[int, Told]:
    """Return that machine 1 missed so many of machine 0, and dropped some."""
    return {n: Told({HERE: gaps} if n == 1 else {}, drops if n == 1 else {}) for n in range(3)}


def test_what_comes_once_in_order_and_where_it_belongs_is_right() -> None:
    made = Ledgers()
    made.send(HERE, 0, 1)
    made.send(HERE, OWN + THERE, 2, 3)
    made.send(HERE, LOCAL, 4)
    for me in steady():
        made.get(me, OWN + me, HERE, 1)
    made.get(THERE, OWN + THERE, HERE, 2, 3)
    made.get(NEAR, LOCAL, HERE, 4)
    books = made.books()
    books.local()
    assert all(each.lost == 0 for each in books.between(told(), NONE))
    assert books.faults == []


@pytest.mark.parametrize(
    ("numbers", "fault"), [((1, 1), "twice"), ((2, 1), "after 2"), ((3,), "not its place")]
)
def test_what_comes_twice_out_of_order_or_from_nowhere_is_a_fault(
    numbers: tuple[int, ...], fault: str
) -> None:
    made = Ledgers()
    made.send(HERE, OWN + THERE, 1, 2)
    made.get(THERE, OWN + THERE, HERE, *numbers)
    assert fault in made.books().faults[0]


def test_what_comes_where_it_was_not_sent_is_a_fault() -> None:
    made = Ledgers()
    made.send(HERE, LOCAL_GROUP, 1)
    made.get(THERE, OWN + THERE, HERE, 1)
    assert "not its place" in made.books().faults[0]


@pytest.mark.parametrize("where", [0, LOCAL_GROUP, LOCAL, OWN + NEAR])
def test_what_is_lost_on_one_machine_is_a_fault(where: int) -> None:
    made = Ledgers()
    made.send(HERE, where, 1)
    books = made.books()
    books.local()
    assert "lost on one machine" in books.faults[0]


def test_what_is_lost_between_machines_must_have_been_counted() -> None:
    made = Ledgers()
    made.send(HERE, OWN + THERE, *range(1, 11))
    made.get(THERE, OWN + THERE, HERE, 1, 2, 10)
    killed = {**told(5), HERE: Told({}, {"relay_killed": 2})}
    for counted, is_right in (
        (told(7), True),
        (told(4, expired=3), True),
        (killed, True),
        (told(6), False),
    ):
        books = made.books()
        books.between(counted, NONE)
        assert (books.faults == []) is is_right
    books.between(told(4, late=3, outcome_unknown=3), NONE)
    assert "nobody counted" in books.faults[0]


def test_of_shared_channels_so_much_may_be_lost_as_was_counted_or_in_hands() -> None:
    made = Ledgers()
    made.send(HERE, SHARED_CHANNEL, *range(1, 21))
    made.get(THERE, SHARED_CHANNEL, HERE, *range(1, 11))
    broken = {**NONE, 1: Harm(breaks=2)}
    for counted, harm, is_right in (
        (told(outcome_unknown=10), NONE, True),
        (told(outcome_unknown=2), broken, True),
        (told(), broken, False),
    ):
        books = made.books()
        assert books.shared(counted, harm) == (20, 10)
        assert (books.faults == []) is is_right
