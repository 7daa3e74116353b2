"""Whether the ledgers of a round agree: at most once, in order, and no loss that is not counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..ledgers import GOT, SENT, TRIED, Ledger
from .notes import (
    CHANCE,
    EMPTIED,
    FULL,
    LATER,
    LEFT,
    MEMBER,
    OPENED,
    OVERFLOWED,
    REFUSED,
    STORE,
    STRANDED,
)
from .plan import CHANNELS, GROUPS, Plan

#: Messages that a receive may take along into a handler's exception, by what it receives on.
_LOST_ORDINARY, _LOST_OWN = 1, 64
#: A capacity that no queue reaches in a round.
ROOMY = 100_000


class Lost(NamedTuple):
    """A message that was accepted, and did not arrive on a channel that it was for."""

    where: int
    producer: int
    number: int


class Books:
    """All ledgers of a round, as far as they are written."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.plan = plan
        self.tried: dict[tuple[int, int], tuple[int, float]] = {}
        self.sent: list[tuple[int, int]] = []
        self.got: Counter[Lost] = Counter()
        self.stranded: list[Lost] = []
        #: The queue of each own channel; which of them were given up; and members of groups.
        self.opened: dict[int, int] = {}
        self.left: set[int] = set()
        self.members: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        self.emptied = float("-inf")
        self.chances: Counter[int] = Counter()
        self.overflowed: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        #: What each store of the round has refused on all its queues.
        self.refused_by: Counter[int] = Counter()
        self.later: Counter[int] = Counter()
        self.full: Counter[int] = Counter()
        #: By actor and channel, what it got of each producer last.
        self.disordered: list[str] = []
        #: The greatest number of a producer that has arrived on a channel.
        self.newest: dict[tuple[int, int], int] = {}
        for path in folder.glob("*.ledger"):
            self._read(path)

    def _read(self, path: Path) -> None:
        last: dict[tuple[int, int], int] = {}
        for what, where, producer, number, at in Ledger.read(path):
            if what == TRIED:
                self.tried[producer, number] = where, at
            elif what == SENT:
                self.sent.append((producer, number))
            elif what == GOT:
                self.got[Lost(where, producer, number)] += 1
                source = where, producer
                if number < last.get(source, -1) and not self._may_be_put_back(where):
                    self.disordered.append(
                        f"{path.stem} got {number} of {producer} on {where} after {last[source]}"
                    )
                last[source] = number
                self.newest[source] = max(number, self.newest.get(source, -1))
            elif what == OPENED:
                self.opened[where] = number
            elif what == LEFT:
                self.left.add(where)
            elif what == MEMBER:
                self.members[number].append((where, at))
            elif what == EMPTIED:
                self.emptied = max(self.emptied, at)
            elif what == CHANCE:
                self.chances[where] += 1
            elif what == OVERFLOWED:
                self.overflowed[where] = max(number, self.overflowed[where])
            elif what == REFUSED and where == STORE:
                self.refused_by[producer] = max(number, self.refused_by[producer])
            elif what == REFUSED:
                self.refused[where] = max(number, self.refused[where])
            elif what == LATER:
                self.later[where] = max(number, self.later[where])
            elif what == FULL:
                self.full[where] += 1
            elif what == STRANDED:
                self.stranded.append(Lost(where, producer, number))

    def _may_be_put_back(self, where: int) -> bool:
        """Whether a cancelled receiver may put a message back while another takes the next."""
        return self.plan.engine == "sqlite" and where < CHANNELS

    # Findings

    def _due(self) -> Iterable[tuple[Lost, float]]:
        """All arrivals that there should be, and when they were sent."""
        for producer, number in self.sent:
            where, at = self.tried[producer, number]
            if where in GROUPS:
                for channel, joined in self.members[where]:
                    if joined < at:
                        yield Lost(channel, producer, number), at
            else:
                yield Lost(where, producer, number), at

    def missing(self) -> dict[str, list[Lost]]:
        """What did not arrive, and what nothing explains; by what might have explained it."""
        missing: defaultdict[str, list[Lost]] = defaultdict(list)
        dropped: defaultdict[int, list[Lost]] = defaultdict(list)
        chances = Counter({where: count * _LOST_ORDINARY for where, count in self.chances.items()})
        own_chances = _LOST_OWN * self.chances.total()
        grouped: Counter[int] = Counter()
        raised: Counter[int] = Counter()
        for where, count in self.full.items():
            raised[self.opened.get(where, where)] += count
        for lost, at in self._due():
            where = lost.where
            if self.got[lost] or at <= self.emptied:
                continue
            if where in self.left:
                # The last that were sent to it may have come too late, but no others. (What was
                # dropped from its buffer since the last count was told to no caller.)
                if (
                    self.plan.own_capacity >= ROOMY
                    and self.newest.get((where, lost.producer), -1) > lost.number
                ):
                    dropped[self.opened[where]].append(lost)
            elif where in self.opened:
                dropped[self.opened[where]].append(lost)
            elif chances[where] > 0:
                chances[where] -= 1
            else:
                dropped[where].append(lost)
        for members in self.members.values():
            grouped.update(self.opened[channel] for channel, _ in members)
        for queue, those in dropped.items():
            # Refusals that were raised are no losses; others met groups, and finalizers, whose
            # message may have been left for later. A record to a group is for all its members.
            refused = max(0, self.refused[queue] - raised[queue]) * max(1, grouped[queue])
            counted = self.overflowed[queue] + refused
            if queue >= CHANNELS:
                counted += own_chances
            if len(those) > counted:
                missing[f"lost, with {counted} drops counted on their queue"] += those
        if self.plan.has("finalizers"):
            # A finalizer can't be told that its message was refused when its turn came.
            refused = max(0, self.refused_by.total() - self.full.total())
            if sum(map(len, missing.values())) <= self.later.total() + refused:
                missing.clear()
        return missing

    def faults(self, waited_for: Iterable[Lost] = ()) -> list[str]:
        """All that is wrong; ``waited_for``: what receivers waited for to the end, without result."""
        found = []
        twice = [each for each, count in self.got.items() if count > 1]
        if twice:
            found.append(f"{len(twice)} messages arrived twice: {twice[:3]}")
        for lost in self.got:
            if (lost.producer, lost.number) not in self.tried:
                found.append(f"a message arrived that was never sent: {lost}")
        if self.disordered:
            found.append(f"{len(self.disordered)} times out of order: {self.disordered[:3]}")
        for why, those in self.missing().items():
            found.append(f"{len(those)} messages {why}: {[self._told(each) for each in those[:3]]}")
        unread = sorted(set(self.stranded).intersection(waited_for))
        if unread:
            told = [self._told(each) for each in unread[:3]]
            found.append(
                f"a wake-up was lost: {len(unread)} messages lay unread while receivers waited"
                f" for them: {told}"
            )
        return found

    def _told(self, lost: Lost) -> str:
        where, at = self.tried[lost.producer, lost.number]
        kind = "ordinary" if lost.where < CHANNELS else "own"
        via = f" by group {where}" if where in GROUPS else ""
        return f"{kind} channel {lost.where}{via}: {lost.producer}/{lost.number} at {at:.3f}"


__all__ = ["Books", "Lost"]
