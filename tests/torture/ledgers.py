"""What the processes of a soak note, and whether all of it agrees.

A ledger is a file that a process appends to before and after what it does, and that
outlives it. Times are of the one clock that all processes of a machine share.
"""

from __future__ import annotations

import collections
import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

#: Ordinary channels and groups that all use. A ledger tells them apart by number: channels
#: first, then groups, and the two channels of the quiet pair.
CHANNELS = 6
GROUPS = 3
QUIET, ANSWER = 254, 255

#: What a line of a ledger says.
TRIED, SENT, GOT, JOINED, LEFT = b"TSGJL"
_LINE = struct.Struct("<BxHIQd")

#: Which message: where it was sent, by which process, and its number among all from there.
Key = tuple[int, int, int]


class Line(NamedTuple):
    """One line of a ledger: what was done, on which channel or group, whose, which, when."""

    what: int
    where: int
    producer: int
    number: int
    at: float

    @property
    def key(self) -> Key:
        """Which message it is about."""
        return self.where, self.producer, self.number


class Ledger:
    """One process's file. What was appended stays when it is killed."""

    #: Bytes of a line.
    LINE = _LINE.size

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: int, where: int, producer: int, number: int) -> None:
        os.write(self._descriptor, _LINE.pack(what, where, producer, number, time.monotonic()))

    def close(self) -> None:
        os.close(self._descriptor)

    @staticmethod
    def read(path: Path) -> Iterator[Line]:
        data = path.read_bytes()
        return Ledger.parse(data[: len(data) // _LINE.size * _LINE.size])

    @staticmethod
    def parse(data: bytes) -> Iterator[Line]:
        """Return the lines of a whole number of lines' bytes."""
        return (Line(*fields) for fields in _LINE.iter_unpack(data))


class Death(NamedTuple):
    """A reader of ordinary channels was killed."""

    me: int
    #: The channels of each receive that it had running.
    receives: tuple[frozenset[int], ...]
    born: float
    at: float


class Missing(NamedTuple):
    """An acknowledged message that no reader noted, and between which times it was taken."""

    where: int
    after: float
    before: float


class Chance(NamedTuple):
    """A receive that was cut short: it may have taken one message, between these times."""

    channels: frozenset[int]
    after: float
    before: float

    def explains(self, lost: Missing) -> bool:
        """Whether that message may be the one."""
        return (
            lost.where in self.channels and self.after <= lost.before and lost.after <= self.before
        )


class Books:
    """All ledgers of a soak, read in the end."""

    def __init__(self, folder: Path) -> None:
        self.lines = {int(path.stem): list(Ledger.read(path)) for path in folder.glob("*.ledger")}
        self.tried: dict[Key, float] = {}
        self.sent: dict[Key, float] = {}
        self.received = 0
        for lines in self.lines.values():
            for line in lines:
                if line.what == TRIED:
                    self.tried[line.key] = line.at
                elif line.what == SENT:
                    self.sent[line.key] = line.at
                elif line.what == GOT:
                    self.received += 1

    def channels(self, deaths: Sequence[Death]) -> tuple[int, list[str]]:
        """Ordinary channels: nothing lost, doubled, mixed up or made up.

        How many messages were lost with killed readers, and the faults.
        """
        faults = []
        times: collections.Counter[Key] = collections.Counter()
        #: When the messages of a producer to a channel were noted, by number.
        noted: dict[tuple[int, int], dict[int, float]] = {}
        for me, lines in self.lines.items():
            last: dict[tuple[int, int], int] = {}
            for line in lines:
                if line.what != GOT:
                    continue
                source = line.where, line.producer
                if line.number <= last.get(source, -1):
                    faults.append(f"{me} got {line.key} out of order")
                last[source] = line.number
                if line.where < CHANNELS:
                    times[line.key] += 1
                    noted.setdefault(source, {})[line.number] = line.at
        twice = [key for key, count in times.items() if count > 1]
        if twice:
            faults.append(f"{len(twice)} messages arrived twice: {twice[:5]}")
        if times.keys() - self.tried:
            faults.append(f"messages that nobody sent: {list(times.keys() - self.tried)[:5]}")
        lost = sorted({key for key in self.sent if key[0] < CHANNELS} - times.keys())
        missing = []
        for where, producer, number in lost:
            # A queue is read in order: it was taken before all that was sent after it.
            later = [at for n, at in noted.get((where, producer), {}).items() if n > number]
            sent = self.tried[where, producer, number]
            missing.append(Missing(where, sent, min(later, default=float("inf"))))
        left = unexplained(missing, self.chances(deaths))
        if left:
            faults.append(
                f"{len(lost)} acknowledged messages lost, {len(left)} of them not by one of the "
                f"{len(deaths)} killed readers: {[lost[index] for index in left[:5]]}"
            )
        return len(lost), faults

    def chances(self, deaths: Sequence[Death]) -> list[Chance]:
        """What the killed readers may have taken along.

        One notes a message before it receives the next, so it has taken at most one since
        the last that it noted.
        """
        found = []
        for death in deaths:
            got = [line for line in self.lines.get(death.me, ()) if line.what == GOT]
            for channels in death.receives:
                after = max((line.at for line in got if line.where in channels), default=death.born)
                found.append(Chance(channels, after, death.at))
        return found

    def groups(self, steady: set[int]) -> list[str]:
        """A steady member got each group message that was sent while it was one, once."""
        faults = []
        for me in steady:
            lines = self.lines[me]
            joined = {line.where: line.at for line in lines if line.what == JOINED}
            left = {line.where: line.at for line in lines if line.what == LEFT}
            arrived = [line.key for line in lines if line.what == GOT]
            if len(set(arrived)) != len(arrived):
                faults.append(f"member {me} got a message twice")
            # Sent is noted after the sending, joined after the joining; a margin does for
            # the difference.
            due = {
                key
                for key, at in self.sent.items()
                if key[0] in joined and joined[key[0]] + 3 < at < left.get(key[0], 0)
            }
            missing = due - set(arrived)
            if missing:
                faults.append(
                    f"member {me} never got {len(missing)} of {len(due)}: {sorted(missing)[:3]}"
                )
        return faults

    def quiet(self) -> list[float]:
        """Seconds that each message of the quiet pair took."""
        return [
            line.at - self.sent[line.key]
            for lines in self.lines.values()
            for line in lines
            if line.what == GOT and line.where in (QUIET, ANSWER)
        ]


def unexplained(missing: Sequence[Missing], chances: Sequence[Chance]) -> list[int]:
    """Which of the missing messages are left if as many as can be get a chance of their own."""
    if len(missing) > len(chances):
        # To match thousands takes long, and would excuse none.
        return list(range(len(missing)))
    wanted = [
        [number for number, chance in enumerate(chances) if chance.explains(lost)]
        for lost in missing
    ]
    owner: dict[int, int] = {}
    held: dict[int, int] = {}
    left = []
    for start in range(len(missing)):
        # One loss may take over another's chance, until that finds a free one.
        asked: dict[int, int] = {}
        asking = collections.deque([start])
        free = -1
        while asking and free < 0:
            one = asking.popleft()
            for chance in wanted[one]:
                if chance not in asked:
                    asked[chance] = one
                    if chance not in owner:
                        free = chance
                        break
                    asking.append(owner[chance])
        if free < 0:
            left.append(start)
        while free >= 0:
            one = asked[free]
            given_up = held.get(one, -1)
            owner[free], held[one] = one, free
            free = given_up
    return left
