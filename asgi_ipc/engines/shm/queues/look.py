"""Look at the oldest messages of a queue without taking them.

Needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from asgi_ipc.engines.base import LOOK_BYTES, LOOK_RECORDS, Popped

from ..heap import layout
from ..heap.heap import HOLD, PASS, Heap
from ..heap.layout import BEHIND_SHIFT, ENTRY_DEAD, ENTRY_SIZE, ENTRY_WORDS, FRONT_SHIFT, WORD
from .linked_list import head
from .rings import Rings

#: Messages that one look passes, dead or alive.
_PASSED = LOOK_RECORDS + LOOK_RECORDS // 2
_LOOK = HOLD - 4 * PASS


def oldest(heap: Heap, rings: Rings, queue: int, limit: int, now: int) -> list[Popped]:
    """Return up to ``limit`` of the oldest live messages. Call once the queue has been expired.

    Fewer for many bytes, or if many dead messages lie between. May `Pause`, and then has found
    none.
    """
    while rings.drop_front(queue, now):
        heap.spend(LOOK_RECORDS * PASS)
    # All of it, before the first: nearly what one hold may.
    heap.spend(_LOOK)
    look = _Look(heap, limit)
    look.at_list(queue, FRONT_SHIFT, now)
    look.at_ring(rings, queue, now)
    look.at_list(queue, BEHIND_SHIFT, now)
    return look.found


class _Look:
    """What has been seen so far, and how much more may be."""

    def __init__(self, heap: Heap, limit: int) -> None:
        self._heap = heap
        self._words = heap.words
        self._limit = min(limit, LOOK_RECORDS)
        self._room, self._left = LOOK_BYTES, _PASSED
        self.found: list[Popped] = []

    def at_list(self, queue: int, which: int, now: int) -> None:
        """See what is in a list."""
        words, end, found = self._words, self._heap.end, self.found
        message = head(words, queue, which)
        while message and self._left > 0 and len(found) < self._limit:
            self._left -= 1
            at = words[end - message]
            deadline = words[at + layout.M_DEADLINE]
            if deadline > now:
                if not self._has_room(words[at + layout.M_SIZE]):
                    return
                found.append(Popped(self._heap.payload(at, layout.M_WORDS), deadline))
            message = words[at + layout.M_LINK] & layout.LINK_MASK

    def at_ring(self, rings: Rings, queue: int, now: int) -> None:
        """See what is in the ring."""
        words, view, found = self._words, self._heap.bytes, self.found
        for at, _ in rings.extents.entries(queue):
            if self._left <= 0 or len(found) >= self._limit:
                return
            self._left -= 1
            first, deadline = words[at], words[at + layout.ENTRY_DEADLINE]
            if deadline > now and not first & ENTRY_DEAD:
                size, start = first & ENTRY_SIZE, (at + ENTRY_WORDS) * WORD
                if not self._has_room(size):
                    return
                found.append(Popped(view[start : start + size].tobytes(), deadline))

    def _has_room(self, size: int) -> bool:
        """Whether a message may be seen; if not, none behind it may."""
        if self.found and size > self._room:
            self._left = 0
            return False
        self._room -= size
        return True


__all__ = ["oldest"]
