"""The processes of a store: each has a slot, for exactly as long as it holds a byte lock.

A slot's generation and number make up the words by which queues, members and bells
name a process; the word is dead as soon as the slot's generation is another. Nothing
here ever looks at a process id to decide: those are reused, and differ between namespaces.

A table of slots costs what was ever used of it at once (`SLOTS_USED`), and no method here does
more under the lock than `REAP_SLICE` and `TRIES` allow, however many processes have died.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import compress
from typing import NamedTuple

from asgi_ipc.exceptions import StoreUnavailable

from ..base import COUNTERS, GAUGES, IDENTITY_BYTES
from .heap import layout
from .heap.heap import Heap
from .heap.journal import Change
from .heap.layout import (
    BELL_GENERATION_SHIFT,
    OWNER_GENERATION_SHIFT,
    SLOT_GENERATION,
    SLOT_MASK,
    SLOT_WORDS,
    SLOTS,
    WORD,
)
from .lock_file import LockFile
from .locks.base import FIRST_SLOT

#: Processes that are looked at, and slots that are passed, while the lock is held once.
REAP_SLICE, _REAP_SPAN = 28, 256
#: Slots that are free, but whose byte is still held, before a join gives up for now.
TRIES = 64
#: What a process notes of itself, in the order of its words.
_COUNTED = (*COUNTERS, *GAUGES)
_WORD_MASK = (1 << 64) - 1
_LEFT = range(layout.LEFT, layout.LEFT + len(COUNTERS))


def _add(first: int, second: int) -> int:
    return first + second & _WORD_MASK


class Present(NamedTuple):
    """A process that lives, as its slot tells of it."""

    #: By which queues and members name it.
    owner_word: int
    identity: bytes
    #: For people: see `layout`.
    pid: int
    started: int
    joined: int
    counts: dict[str, int]


class Processes:
    """The slots of a store. Methods that say so need the channels lock."""

    def __init__(self, heap: Heap, lock_file: LockFile) -> None:
        self._heap = heap
        self._words = heap.words
        self._slots = heap.geometry.slots
        #: How many there are.
        self.count = min(SLOTS, heap.geometry.slot_count)
        self._lock_file = lock_file
        self._known: dict[bytes, int] = {}
        #: The slot of this process, or -1.
        self.own = -1

    def _at(self, slot: int) -> int:
        return self._slots + slot * SLOT_WORDS

    def _row(self, slot: int) -> int:
        return self._heap.geometry.processes + slot * layout.PROCESS_WORDS

    def identity(self, slot: int) -> bytes:
        """Identity of the process in a slot; zeros if free."""
        start = (self._at(slot) + layout.SLOT_IDENTITY) * WORD
        return self._heap.bytes[start : start + IDENTITY_BYTES].tobytes()

    def generation(self, slot: int) -> int:
        """Generation of a slot."""
        return self._words[self._at(slot) + SLOT_GENERATION]

    def deaths(self) -> int:
        """How many processes have gone so far. Takes no lock."""
        return self._words[layout.DEATHS]

    def owner_alive(self, word: int) -> bool:
        """Whether an owner word's process is still in its slot. Takes no lock."""
        slot = word & SLOT_MASK
        if slot >= self.count:
            return False
        generation = self._words[self._slots + slot * SLOT_WORDS + SLOT_GENERATION]
        return generation == word >> OWNER_GENERATION_SHIFT

    def bell_alive(self, word: int) -> bool:
        """Whether a bell word's process is still in its slot. Takes no lock."""
        slot = word & SLOT_MASK
        return slot < self.count and self.generation(slot) == word >> BELL_GENERATION_SHIFT

    def owner_word(self, identity: bytes) -> int:
        """The owner word of a process, or 0 if it is not (or no longer) here. Takes no lock."""
        word = self._known.get(identity, 0)
        if word and self.owner_alive(word):
            return word
        start = self._slots * WORD
        size = SLOT_WORDS * WORD
        slots = self._heap.bytes[start : start + self._ever_used() * size].tobytes()
        location = slots.find(identity) if any(identity) else -1
        slot, rest = divmod(location, size)
        if location < 0 or rest != layout.SLOT_IDENTITY * WORD:
            return 0
        if len(self._known) > 4 * self.count:
            self._known.clear()
        self._known[identity] = word = self.generation(slot) << OWNER_GENERATION_SHIFT | slot
        return word

    def _ever_used(self) -> int:
        return min(self._words[layout.SLOTS_USED], self.count)

    def _identities(self, first: int, last: int) -> list[int]:
        """The first words of the identities in some slots; zero for those that are free."""
        start = self._slots + layout.SLOT_IDENTITY
        words = self._words[start + first * SLOT_WORDS : start + last * SLOT_WORDS : SLOT_WORDS]
        found: list[int] = words.tolist()
        return found

    def join(self, identity: bytes, now: int, start: int, first: int = 0) -> int:
        """Take a free slot, from ``first`` on; its number, or -1 if none was found. Needs the lock.

        ``start`` is when this process started, in clock ticks since the boot, or 0.

        Interrupted, it may have joined; the slot is then that of a dead process.
        """
        identities = self._identities(0, self.count)
        slot = first - 1
        for _ in range(TRIES):
            try:
                slot = identities.index(0, slot + 1)
            except ValueError:
                return -1
            # Held, if its last owner has left and did not yet give it back.
            if self._lock_file.hold(FIRST_SLOT + slot):
                try:
                    self._settle(slot, identity, now, start)
                except BaseException:
                    self._lock_file.release(FIRST_SLOT + slot)
                    raise
                return slot
        return -1

    def _settle(self, slot: int, identity: bytes, now: int, start: int) -> None:
        words = self._words
        low, high = memoryview(identity.ljust(16, b"\0")).cast("Q")
        row = self._row(slot)
        # The row belongs to no process until the identity is there.
        words[row + layout.P_PID], words[row + layout.P_STARTED] = os.getpid(), start
        words[row + layout.P_JOINED] = now
        for word in range(row + layout.P_COUNTS, row + layout.P_SEEN):
            words[word] = 0
        words[row + layout.P_SEEN] = layout.PEEKS_NOT
        at = self._at(slot)
        # A generation must stay within the 32 bits of a bell word.
        generation = (words[at + SLOT_GENERATION] + 1) & 0x7FFFFFFF or 1
        self._heap.commit(
            {
                at + SLOT_GENERATION: generation,
                at + layout.SLOT_IDENTITY: low,
                at + layout.SLOT_IDENTITY + 1: high,
                layout.SLOTS_USED: max(words[layout.SLOTS_USED], slot + 1),
            }
        )

    def full(self) -> StoreUnavailable:
        """What is raised when every slot is that of a living process."""
        return StoreUnavailable(
            f"the store at {os.path.dirname(self._lock_file.path)!r} already has {self.count} "
            "processes, the most it can have: end some that need it no more, or give some "
            "another prefix"
        )

    def leave(self, slot: int) -> None:
        """Give a slot up, one's own or that of the dead. Needs the lock.

        What its process has counted is added to what those that left before had counted.
        """
        words, at = self._words, self._at(slot)
        generation = (words[at + SLOT_GENERATION] + 1) & 0x7FFFFFFF or 1
        counts = self._row(slot) + layout.P_COUNTS
        noted = words[counts : counts + len(COUNTERS)].tolist()
        # In C as far as that goes: this is done for many processes in one hold.
        change: Change = dict.fromkeys(range(counts, counts + len(_COUNTED)), 0)
        left = words[_LEFT.start : _LEFT.stop].tolist()
        change.update(zip(_LEFT, map(_add, left, noted), strict=True))
        self._heap.commit(
            {
                **change,
                at + SLOT_GENERATION: generation,
                at + layout.SLOT_IDENTITY: 0,
                at + layout.SLOT_IDENTITY + 1: 0,
                layout.DEATHS: words[layout.DEATHS] + 1,
            }
        )

    def used(self) -> list[int]:
        """The slots in use."""
        return [slot for slot, word in enumerate(self._identities(0, self._ever_used())) if word]

    # ---- what is told of them

    def note(self, slot: int, counts: Mapping[str, int]) -> None:
        """Write down what the process in a slot has counted. Needs the lock.

        Each word is valid by itself, so a kill in between does no harm.
        """
        first = self._row(slot) + layout.P_COUNTS
        for at, name in enumerate(_COUNTED, first):
            self._words[at] = counts.get(name, 0) & _WORD_MASK

    def see(self) -> None:
        """Note that this process is not in the middle of a peek. Takes no lock."""
        if self.own >= 0:
            self._words[self._row(self.own) + layout.P_SEEN] = self._words[layout.RETURNS]

    def all_have_seen(self) -> bool:
        """Whether no process can be in a peek that began before the last announcement.

        See `heap.returns`. Needs the lock.
        """
        words, ever = self._words, self._ever_used()
        first, stop = self._row(0) + layout.P_SEEN, self._row(ever)
        seen = words[first : stop + layout.P_SEEN : layout.PROCESS_WORDS].tolist()
        # In C: there may be a thousand.
        of_the_living = set(compress(seen, self._identities(0, ever)))
        return of_the_living <= {words[layout.RETURNS], layout.PEEKS_NOT}

    def sums(self) -> dict[str, int]:
        """The sums of what processes have counted; of the counters, also those that have left.

        Needs the lock.
        """
        words, first = self._words, self._row(0) + layout.P_COUNTS
        # Those of free slots are zero.
        stop, step = self._row(self._ever_used()), layout.PROCESS_WORDS
        sums = [sum(words[first + n : stop : step].tolist()) for n in range(len(_COUNTED))]
        for number in range(len(COUNTERS)):
            sums[number] += words[layout.LEFT + number]
        return dict(zip(_COUNTED, sums, strict=True))

    def present(self, first: int) -> tuple[list[Present], int]:
        """Some of the processes that live, from slot ``first`` on; and where to go on, or 0.

        Needs the lock.
        """
        ever = self._ever_used()
        last = min(first + _REAP_SPAN, ever)
        used = [slot for slot, word in enumerate(self._identities(first, last), first) if word]
        if len(used) > REAP_SLICE:
            del used[REAP_SLICE:]
            last = used[-1] + 1
        return [
            self._present(slot) for slot in used if self._lock_file.is_held(FIRST_SLOT + slot)
        ], last if last < ever else 0

    def _present(self, slot: int) -> Present:
        row = self._row(slot)
        pid, started, joined, *counts = self._words[row : row + layout.PROCESS_WORDS].tolist()
        word = self.generation(slot) << OWNER_GENERATION_SHIFT | slot
        noted = dict(zip(_COUNTED, counts, strict=False))
        return Present(word, self.identity(slot), pid, started, joined, noted)

    def reap(self) -> tuple[list[bytes], bool]:
        """Free the slots of some dead processes; their identities, and whether that was the last.

        It goes on where the last call, of any process, stopped. Needs the lock.
        """
        ever = self._ever_used()
        first = self._words[layout.REAP_CURSOR]
        if first >= ever:
            first = 0
        last = min(first + _REAP_SPAN, ever)
        used = [slot for slot, word in enumerate(self._identities(first, last), first) if word]
        if len(used) > REAP_SLICE:
            del used[REAP_SLICE:]
            last = used[-1] + 1
        dead = []
        for slot in used:
            if not self._lock_file.is_held(FIRST_SLOT + slot):
                dead.append(self.identity(slot))
                self.leave(slot)
        self._heap.commit({layout.REAP_CURSOR: last if last < ever else 0})
        return dead, last >= ever
