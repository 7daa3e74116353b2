"""Lists: the messages of a queue as records in the heap, linked from oldest to newest.

Any queue has two, which may be empty. A queue that is used often has a ring besides (`rings`).
The list that ends at TAIL is younger than the ring; the other one, of messages that were put
back, is older. The first bit in HEADS says which is meant: BEHIND_SHIFT or FRONT_SHIFT.

Everything needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from asgi_ipc.engines.base import Popped

from ..heap.heap import FREEING, MOVE, PASS, Heap, Pause
from ..heap.journal import Change
from ..heap.layout import (
    BEHIND_SHIFT,
    ENTRY_WORDS,
    FRONT_SHIFT,
    LENGTH_MASK,
    LINK_MASK,
    M_DEADLINE,
    M_LINK,
    M_SIZE,
    M_WORDS,
    MESSAGE,
    ORPHANED,
    Q_BYTES,
    Q_GONE,
    Q_HEADS,
    Q_IN,
    Q_PUSHED,
    Q_RING_IN,
    Q_SOONEST,
    Q_TAIL,
    Q_WALK,
    SPLIT,
    WALK_BEHIND,
    WALK_FRONT,
    WALK_SHIFT,
    WORD,
)
from .counters import Counts
from .ring_extents import WORN
from .rings import Rings

#: Messages that one change takes off a list, at most. One in pieces goes alone.
_BATCH = 16
_TAKING = 150 * _BATCH
#: Messages moved from list to ring at a time, if the list has at most so many.
_REFILL, _SHORT = 2, 1024

#: Where a search for what has expired is, of which list.
WALKS = {FRONT_SHIFT: WALK_FRONT, BEHIND_SHIFT: WALK_BEHIND}


def takes(size: int) -> int:
    """The bytes of memory that a message of ``size`` bytes takes in a list, its handle included."""
    return (M_WORDS + 1 + (size + 7 >> 3)) * WORD


def head(words: memoryview, queue: int, which: int) -> int:
    """The oldest message of a list, or 0."""
    return int(words[queue + Q_HEADS] >> which & LINK_MASK)


def set_head(words: memoryview, change: Change, queue: int, which: int, message: int) -> None:
    """Let a list begin with another message, or with none, with ``change``."""
    heads = words[queue + Q_HEADS]
    change[queue + Q_HEADS] = heads & ~(LINK_MASK << which) | message << which


class Lists:
    """The lists of a store."""

    def __init__(self, heap: Heap, rings: Rings, counts: Counts) -> None:
        self._heap = heap
        self._words = heap.words
        self._rings = rings
        self._counts = counts

    def append(
        self, change: Change, queue: int, payload: bytes, deadline: int, lifetime: int
    ) -> None:
        """Put a message at the end of all with ``change``. There must be room."""
        words = self._words
        size = len(payload)
        message = self._heap.add(change, MESSAGE, (lifetime << 32, deadline, size), payload)
        change[queue + Q_BYTES] = words[queue + Q_BYTES] + takes(size)
        if head(words, queue, BEHIND_SHIFT):
            tail = words[self._heap.end - words[queue + Q_TAIL]] + M_LINK
            change[tail] = words[tail] | message
        else:
            set_head(words, change, queue, BEHIND_SHIFT, message)
        change[queue + Q_TAIL] = message

    def prepend(
        self, change: Change, queue: int, payload: bytes, deadline: int, lifetime: int
    ) -> None:
        """Put a message in front of all with ``change``. There must be room."""
        words = self._words
        size = len(payload)
        fields = (lifetime << 32 | head(words, queue, FRONT_SHIFT), deadline, size)
        change[queue + Q_BYTES] = words[queue + Q_BYTES] + takes(size)
        message = self._heap.add(change, MESSAGE, fields, payload)
        set_head(words, change, queue, FRONT_SHIFT, message)

    def pop(self, taken: list[Popped], queue: int, which: int, limit: int, now: int) -> None:
        """Take the oldest live messages off a list until there are ``limit`` in ``taken``.

        May `Pause`; what is in ``taken`` then has been taken.
        """
        while len(taken) < limit and head(self._words, queue, which):
            taken += self._take(queue, which, limit - len(taken), now)

    def clear(self, queue: int, which: int) -> None:
        """Drop all of a list, as the owner of its queue has gone. May `Pause`."""
        while head(self._words, queue, which):
            self._take(queue, which, 1, 0, are_orphans=True)

    def _take(
        self, queue: int, which: int, limit: int, now: int, are_orphans: bool = False
    ) -> list[Popped]:
        """Take some of the oldest messages off a list with one change; at most ``limit`` are live.

        Orphans are not looked at.
        """
        words, heap = self._words, self._heap
        message = head(words, queue, which)
        if heap.is_split(words[heap.end - message]):
            heap.settle()
            heap.spend(FREEING)
        else:
            heap.spend(_TAKING)
        walk = words[queue + Q_WALK]
        kept = walk & LINK_MASK if walk >> WALK_SHIFT == WALKS[which] else 0
        live: list[Popped] = []
        change: Change = {}
        gone = freed = 0
        while message and gone < _BATCH and len(live) < limit:
            at = words[heap.end - message]
            is_split = heap.is_split(at)
            if is_split and gone:
                break
            gone += 1
            deadline = words[at + M_DEADLINE]
            if deadline > now and not are_orphans:
                live.append(Popped(heap.payload(at, M_WORDS), deadline))
            freed += takes(words[at + M_SIZE])
            following = words[at + M_LINK] & LINK_MASK
            heap.free(change, message)
            if message == kept:
                change[queue + Q_WALK] = walk & ~LINK_MASK
            message = following
            if is_split:
                break
        set_head(words, change, queue, which, message)
        change[queue + Q_BYTES] = words[queue + Q_BYTES] - freed
        if are_orphans:
            change[ORPHANED] = words[ORPHANED] + gone
            self._counts.gone(change, queue, gone, 0)
        else:
            self._counts.gone(change, queue, gone, gone - len(live))
        heap.commit(change)
        return live

    def expire(self, queue: int, which: int, now: int, then: Change) -> None:
        """Look for what has expired in a list, from where WALK is on, and drop it.

        Makes the change ``then`` at the end. May `Pause`.
        """
        words, heap = self._words, self._heap
        before = words[queue + Q_WALK] & LINK_MASK
        if before:
            message = words[words[heap.end - before] + M_LINK] & LINK_MASK
        else:
            message = head(words, queue, which)
        soonest = words[queue + Q_SOONEST]
        try:
            while message:
                heap.spend(2 * PASS)
                at = words[heap.end - message]
                following = words[at + M_LINK] & LINK_MASK
                if words[at + M_DEADLINE] > now:
                    soonest = min(soonest, words[at + M_DEADLINE])
                    before = message
                else:
                    self._drop(queue, which, message, before, following)
                message = following
        except Pause:
            # One change: what was passed must have been seen.
            walk = WALKS[which] << WALK_SHIFT | before
            heap.commit({queue + Q_SOONEST: soonest, queue + Q_WALK: walk})
            raise
        heap.commit({**then, queue + Q_SOONEST: soonest})

    def _drop(self, queue: int, which: int, message: int, before: int, following: int) -> None:
        """Drop a message that has expired, wherever in a list it is. May `Pause`."""
        words, heap = self._words, self._heap
        at = words[heap.end - message]
        if heap.is_split(at):
            heap.settle()
            heap.spend(FREEING)
        heap.spend(MOVE)
        freed = takes(words[at + M_SIZE])
        change: Change = {queue + Q_BYTES: words[queue + Q_BYTES] - freed}
        heap.free(change, message)
        self._counts.gone(change, queue, 1, 1)
        if before:
            link = words[heap.end - before] + M_LINK
            change[link] = words[link] & ~LINK_MASK | following
        else:
            set_head(words, change, queue, which, following)
        if not following and which == BEHIND_SHIFT:
            change[queue + Q_TAIL] = before
        heap.commit(change)

    def refill(self, queue: int) -> None:
        """Move some messages from a short list to the ring of its queue.

        More than are pushed meanwhile: a list that always has something would keep all from
        the ring. A long one is not worth it.
        """
        words, heap, rings = self._words, self._heap, self._rings
        listed = words[queue + Q_PUSHED] - words[queue + Q_GONE]
        # Of one whose counts have grown large nothing more may come.
        if listed > _SHORT or not words[queue + Q_RING_IN] or words[queue + Q_IN] >= WORN:
            return
        for _ in range(_REFILL):
            message = head(words, queue, BEHIND_SHIFT)
            if not message:
                return
            at = words[heap.end - message]
            if words[at] & SPLIT:
                return  # Not copied to find that it is too large: it lies in several extents.
            link, deadline = words[at + M_LINK], words[at + M_DEADLINE]
            offset = rings.offset(queue, (words[at] & LENGTH_MASK) - M_WORDS + ENTRY_WORDS)
            if not offset:
                return
            payload = heap.payload(at, M_WORDS)
            change: Change = {}
            rings.append(change, queue, offset, payload, deadline, link >> 32)
            set_head(words, change, queue, BEHIND_SHIFT, link & LINK_MASK)
            change[queue + Q_PUSHED] = words[queue + Q_PUSHED] - 1
            change[queue + Q_BYTES] = words[queue + Q_BYTES] - takes(len(payload))
            if deadline < words[queue + Q_SOONEST]:
                # It may leave the part that a search for what has expired has still to see.
                change[queue + Q_SOONEST] = deadline
            walk = words[queue + Q_WALK]
            if walk == WALK_BEHIND << WALK_SHIFT | message:
                change[queue + Q_WALK] = WALK_BEHIND << WALK_SHIFT
            heap.free(change, message)
            heap.commit(change)
