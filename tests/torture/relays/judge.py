"""Whether what the processes noted agrees with what relays promise and counted.

* Nothing arrives twice, nor where it was not sent.
* What one process sends to one channel arrives in order, direct and group messages together.
* Between processes of one machine nothing is lost.
* Between machines no more is lost than was counted: by the machine that hears as gaps, or by either
  as drops. What a killed relay took since its last report its machine counts, as a drop.
* A message to a shared channel arrives at most once, and is lost only with a connection or relay.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from asgi_ipc.relay.outbound import BATCH
from tests.torture.ledgers import GOT, SENT, TRIED, Line

from .places import (
    GROUPS,
    LOCAL,
    LOCAL_GROUP,
    MACHINES,
    OWN,
    SHARED,
    SHARED_CHANNEL,
    STEADY,
    machine_of,
    steady,
)

#: Messages to shared channels that a relay takes along when it is killed, at most.
IN_HAND = BATCH
#: Drops before a message has got a sequence, and after it was heard. What has an unknown outcome
#: was numbered: it is a gap.
_OUT = (
    "expired", "no_machine", "not_a_record", "relay_killed", "too_large_for_the_server",
    "way_out_full",
)  # fmt: skip
_IN = ("expired", "failed", "flushed", "no_room_in_the_store", "store_unavailable")


class Told(NamedTuple):
    """What a machine's relay said last."""

    #: Frames of each other machine that were missed.
    gaps: Mapping[int, int]
    #: By reason.
    drops: Mapping[str, int]


class Harm(NamedTuple):
    """What was done to a machine's relay."""

    kills: int = 0
    #: How often it lost a connection.
    breaks: int = 0


class Between(NamedTuple):
    """What became of the messages from one machine to another."""

    sent: int
    lost: int
    gaps: int
    drops: int
    kills: int

    @property
    def uncounted(self) -> int:
        """How many were lost that nobody has counted."""
        return max(0, self.lost - self.gaps - self.drops)


class Books:
    """All ledgers of a run."""

    def __init__(self, ledgers: Mapping[int, list[Line]]) -> None:
        self.ledgers = ledgers
        self.faults: list[str] = []
        #: Of each sender, where it tried to send a message, and where it did.
        self.tried: dict[tuple[int, int], int] = {}
        self.sent: dict[tuple[int, int], int] = {}
        #: By place and message.
        self.got: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self.received = 0
        #: Messages of one sender to a shared channel of which a later one came first.
        self.overtaken = 0
        for lines in ledgers.values():
            for line in lines:
                if line.what == TRIED:
                    self.tried[line.producer, line.number] = line.where
                elif line.what == SENT:
                    self.sent[line.producer, line.number] = line.where
        for me, lines in sorted(ledgers.items()):
            self._read(me, lines)

    def _read(self, me: int, lines: list[Line]) -> None:
        last: dict[tuple[int, int], int] = {}
        for line in lines:
            if line.what != GOT:
                continue
            self.received += 1
            message = line.producer, line.number
            if message in self.got[line.where]:
                self.faults.append(f"{_named(message)} came twice to {_place(line.where)}")
            self.got[line.where].add(message)
            tried = self.tried.get(message)
            if tried is None or line.where not in _hearing(tried, me):
                self.faults.append(f"{_named(message)} came to {_place(line.where)}, not its place")
            source = line.where, line.producer
            if line.number < last.get(source, 0):
                if SHARED_CHANNEL <= line.where < OWN:
                    self.overtaken += 1
                else:
                    self.faults.append(
                        f"{_named(message)} came to {_place(line.where)} after {last[source]},"
                        f" from machine {machine_of(line.producer)} to {machine_of(me)}"
                    )
            last[source] = max(line.number, last.get(source, 0))

    def local(self) -> None:
        """Between processes of one machine nothing is lost."""
        lost = [
            (message, where)
            for message, sent in self.sent.items()
            for where in _expected(sent, machine_of(message[0]))
            if message not in self.got[where]
        ]
        if lost:
            examples = ", ".join(f"{_named(each)} to {_place(where)}" for each, where in lost[:3])
            self.faults.append(f"{len(lost)} messages lost on one machine: {examples}")

    def between(self, told: Mapping[int, Told], harm: Mapping[int, Harm]) -> list[Between]:
        """Between machines all that is lost was counted."""
        found = []
        for here in range(MACHINES):
            for there in range(MACHINES):
                if here != there:
                    found.append(self._between(here, there, told, harm))
                    uncounted, kills = found[-1].uncounted, found[-1].kills
                    if uncounted:
                        self.faults.append(
                            f"from machine {here} to {there} {uncounted} messages were lost that"
                            f" nobody counted, with {kills} relays killed: {found[-1]}"
                        )
        return found

    def _between(
        self, here: int, there: int, told: Mapping[int, Told], harm: Mapping[int, Harm]
    ) -> Between:
        sent = lost = 0
        for message, where in self.sent.items():
            expected = list(_expected(where, there)) if machine_of(message[0]) == here else []
            # One frame for all members there.
            sent += bool(expected)
            lost += any(message not in self.got[each] for each in expected)
        gaps = told[there].gaps.get(here, 0)
        kills = harm[here].kills
        drops = sum(told[here].drops.get(reason, 0) for reason in _OUT)
        drops += sum(told[there].drops.get(reason, 0) for reason in _IN)
        return Between(sent, lost, gaps, drops, kills)

    def shared(self, told: Mapping[int, Told], harm: Mapping[int, Harm]) -> tuple[int, int]:
        """Return how many messages to shared channels were sent, and lost."""
        arrived: Counter[tuple[int, int]] = Counter()
        sent = lost = 0
        for number in range(SHARED):
            arrived.update(self.got[SHARED_CHANNEL + number])
        for message, where in self.sent.items():
            if SHARED_CHANNEL <= where < OWN:
                sent += 1
                lost += not arrived[message]
        drops = sum(sum(each.drops.values()) for each in told.values())
        # What it took off the server for a receiver here; and, killed, what it took to the server.
        taken = STEADY * SHARED
        allowed = sum(
            each.kills * (IN_HAND + taken) + each.breaks * taken for each in harm.values()
        )
        if lost > drops + allowed:
            self.faults.append(
                f"{lost} of {sent} messages to shared channels were lost; {drops} were counted,"
                f" and {allowed} may be lost with connections and relays"
            )
        return sent, lost


def told_by(reports: Mapping[int, Mapping[str, Any]]) -> dict[int, Told]:
    """Return what all machines have counted, from their relays' last reports."""
    nodes = {bytes(report["node"]): machine for machine, report in reports.items()}
    return {
        machine: Told(
            {
                nodes[peer["node"]]: peer["gaps"]
                for peer in report["peers"]
                if peer["node"] in nodes
            },
            {
                name.removeprefix("dropped_"): count
                for name, count in report["counts"].items()
                if name.startswith("dropped_")
            },
        )
        for machine, report in reports.items()
    }


def _expected(where: int, machine: int) -> Iterator[int]:
    """Return the places of the steady processes of a machine where a message must arrive."""
    if where < GROUPS or where == LOCAL_GROUP + machine:
        return (OWN + me for me in steady(machine))
    if where == LOCAL + machine or (where >= OWN and machine_of(where - OWN) == machine):
        return iter((where,))
    return iter(())


def _hearing(where: int, me: int) -> tuple[int, ...]:
    """Return the places at which a process may get what was sent somewhere."""
    if where < GROUPS or where == LOCAL_GROUP + machine_of(me):
        return (OWN + me,)
    return (where,)


def _named(message: tuple[int, int]) -> str:
    return f"message {message[1]} of {message[0]}"


def _place(where: int) -> str:
    if where >= OWN:
        return f"the channel of {where - OWN}"
    if where >= SHARED_CHANNEL:
        return f"shared.{where - SHARED_CHANNEL}"
    return f"the channel 'local' of machine {where - LOCAL}"
