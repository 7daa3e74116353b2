"""Listing what a store holds: its queues, tables and processes, some at each hold of a lock.

Buckets and slots never move, and each name has its bucket, so a listing that goes from one to the
next meets everything once that is there all the while. What of a bucket has been listed is
remembered by name until the listing leaves the bucket.
"""

from __future__ import annotations

from typing import NamedTuple

from .heap import layout
from .heap.heap import Heap
from .heap.layout import SLOT_GENERATION, SLOT_WORDS
from .processes import Processes


class Listing:
    """How far a listing by buckets has come. ``now`` is on the clock of deadlines."""

    def __init__(self, now: int) -> None:
        self.now = now
        #: The bucket where the next hold goes on.
        self.bucket = 0
        #: The names of that bucket that have been listed.
        self._listed: set[bytes] = set()

    def move(self, bucket: int) -> None:
        """Go on there."""
        if bucket != self.bucket:
            self.bucket = bucket
            self._listed.clear()

    def has(self, name: bytes) -> bool:
        """Whether a name has been listed already."""
        return name in self._listed

    def add(self, name: bytes) -> None:
        """Note that a name has been listed."""
        self._listed.add(name)


class Wait(NamedTuple):
    """What a queue said of its armed bells: the first, and the wait node of the next, or 0."""

    bell: int
    node: int


class Armed:
    """The wait nodes and slots of a store as they were in one hold, to be gone through after it."""

    def __init__(self, heap: Heap, processes: Processes) -> None:
        words, geometry = heap.words, heap.geometry
        used = min(words[layout.NODES_USED], layout.NODES)
        stop = geometry.nodes + used * layout.NODE_WORDS
        self._nodes: list[int] = words[geometry.nodes : stop].tolist()
        stop = geometry.slots + processes.count * SLOT_WORDS
        first = geometry.slots + SLOT_GENERATION
        self._generations: list[int] = words[first:stop:SLOT_WORDS].tolist()

    def owner_words(self, wait: Wait) -> set[int]:
        """Return the owner words of the living processes whose bells are armed, from a wait on."""
        found = set()
        bell, node = wait
        # A circle in damaged memory ends, too.
        for _ in range(layout.NODES + 1):
            slot = bell & layout.SLOT_MASK
            generation = bell >> layout.BELL_GENERATION_SHIFT
            if bell and slot < len(self._generations) and self._generations[slot] == generation:
                found.add(generation << layout.OWNER_GENERATION_SHIFT | slot)
            at = (node - 1) * layout.NODE_WORDS
            if not 0 <= at < len(self._nodes):
                break
            node, bell = self._nodes[at + layout.NODE_NEXT], self._nodes[at + layout.NODE_BELL]
        return found


__all__ = ["Armed", "Listing", "Wait"]
