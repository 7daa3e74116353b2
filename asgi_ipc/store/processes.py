"""Who uses a store: one slot a process, which lives exactly as long as a byte lock.

A slot's generation and number make up the words by which queues, members and bells
name a process; the word is dead as soon as the slot's generation is another. Nothing
here ever looks at a process id: those are reused, and differ between namespaces.
"""

from __future__ import annotations

import os

from ..engines.base import IDENTITY_BYTES
from ..exceptions import StoreUnavailable
from .heap import Heap
from .layout import (
    BELL_GENERATION_SHIFT,
    DEATHS,
    OWNER_GENERATION_SHIFT,
    SLOT_GENERATION,
    SLOT_IDENTITY,
    SLOT_MASK,
    SLOT_WORDS,
    SLOTS,
    WORD,
)
from .locks import FIRST_SLOT
from .sidecar import Sidecar


class Processes:
    """The slots of a store. Methods that say so need the channels lock."""

    def __init__(self, heap: Heap, sidecar: Sidecar) -> None:
        self._heap = heap
        self._words = heap.words
        self._slots = heap.geometry.slots
        self._sidecar = sidecar
        self._known: dict[bytes, int] = {}

    def _at(self, slot: int) -> int:
        return self._slots + slot * SLOT_WORDS

    def identity(self, slot: int) -> bytes:
        """Identity of the process in a slot; zeros if free."""
        start = (self._at(slot) + SLOT_IDENTITY) * WORD
        return self._heap.bytes[start : start + IDENTITY_BYTES].tobytes()

    def generation(self, slot: int) -> int:
        """Generation of a slot."""
        return self._words[self._at(slot) + SLOT_GENERATION]

    def deaths(self) -> int:
        """How many processes have gone so far. Takes no lock."""
        return self._words[DEATHS]

    def owner_alive(self, word: int) -> bool:
        """Whether an owner word's process is still in its slot. Takes no lock."""
        slot = word & SLOT_MASK
        if slot >= SLOTS:
            return False
        generation = self._words[self._slots + slot * SLOT_WORDS + SLOT_GENERATION]
        return generation == word >> OWNER_GENERATION_SHIFT

    def bell_alive(self, word: int) -> bool:
        """Whether a bell word's process is still in its slot. Takes no lock."""
        slot = word & SLOT_MASK
        return slot < SLOTS and self.generation(slot) == word >> BELL_GENERATION_SHIFT

    def owner_word(self, identity: bytes) -> int:
        """The owner word of a process, or 0 if it is not (or no longer) here. Takes no lock."""
        word = self._known.get(identity, 0)
        if word and self.owner_alive(word):
            return word
        start = self._slots * WORD
        size = SLOT_WORDS * WORD
        slots = self._heap.bytes[start : start + SLOTS * size].tobytes()
        place = slots.find(identity) if any(identity) else -1
        slot, rest = divmod(place, size)
        if place < 0 or rest != SLOT_IDENTITY * WORD:
            return 0
        if len(self._known) > 4 * SLOTS:
            self._known.clear()
        self._known[identity] = word = self.generation(slot) << OWNER_GENERATION_SHIFT | slot
        return word

    def join(self, identity: bytes) -> int:
        """Take a free slot; its number. Needs the lock."""
        for slot in range(SLOTS):
            if not any(self.identity(slot)) and self._sidecar.hold(FIRST_SLOT + slot):
                low, high = memoryview(identity.ljust(16, b"\0")).cast("Q")
                at = self._at(slot)
                # A generation must stay within the 32 bits of a bell word.
                generation = (self._words[at + SLOT_GENERATION] + 1) & 0x7FFFFFFF or 1
                self._heap.commit(
                    {
                        at + SLOT_GENERATION: generation,
                        at + SLOT_IDENTITY: low,
                        at + SLOT_IDENTITY + 1: high,
                    }
                )
                return slot
        raise StoreUnavailable(
            f"the store at {os.path.dirname(self._sidecar.path)!r} already has {SLOTS} processes, "
            "the most it can have: end some that need it no more, or give some another prefix"
        )

    def leave(self, slot: int) -> None:
        """Give a slot up, one's own or that of the dead. Needs the lock."""
        at = self._at(slot)
        generation = (self._words[at + SLOT_GENERATION] + 1) & 0x7FFFFFFF or 1
        self._heap.commit(
            {
                at + SLOT_GENERATION: generation,
                at + SLOT_IDENTITY: 0,
                at + SLOT_IDENTITY + 1: 0,
                DEATHS: self._words[DEATHS] + 1,
            }
        )

    def used(self) -> list[int]:
        """The slots in use."""
        start = self._slots
        words = self._words[start : start + SLOTS * SLOT_WORDS].tolist()
        low = words[SLOT_IDENTITY::SLOT_WORDS]
        high = words[SLOT_IDENTITY + 1 :: SLOT_WORDS]
        return [slot for slot in range(SLOTS) if low[slot] or high[slot]]

    def reap(self) -> list[bytes]:
        """Free the slots of the dead; their identities. Needs the lock."""
        dead = []
        for slot in self.used():
            if not self._sidecar.is_held(FIRST_SLOT + slot):
                dead.append(self.identity(slot))
                self.leave(slot)
        return dead
