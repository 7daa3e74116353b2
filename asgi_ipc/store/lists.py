"""Lists: the messages of a queue as records in the heap, linked from oldest to newest.

Any queue has two, which may be empty. A queue that is used often has a lane besides (`lanes`).
The list that ends at TAIL is younger than the lane; the other one, of messages that were put
back, is older. The first bit in HEADS says which is meant: BEHIND_SHIFT or FRONT_SHIFT.

Everything needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from ..engines.base import Popped
from .counts import Counts
from .heap import Heap
from .journal import Change
from .lane_extents import WORN
from .lanes import Lanes
from .layout import (
    BEHIND_SHIFT,
    ENTRY_WORDS,
    FRONT_SHIFT,
    JOURNAL_PAIRS,
    LENGTH_MASK,
    LINK_MASK,
    M_DEADLINE,
    M_LINK,
    M_WORDS,
    MESSAGE,
    Q_GONE,
    Q_HEADS,
    Q_IN,
    Q_LANE_IN,
    Q_PUSHED,
    Q_TAIL,
    SPLIT,
)

#: Leave this much of the journal for the words at the end of a change.
_FULL_CHANGE = JOURNAL_PAIRS - 64
#: Messages moved from list to lane at a time, if the list has at most so many.
_REFILL, _SHORT = 2, 1024


def head(words: memoryview, queue: int, which: int) -> int:
    """The oldest message of a list, or 0."""
    return int(words[queue + Q_HEADS] >> which & LINK_MASK)


def set_head(words: memoryview, change: Change, queue: int, which: int, message: int) -> None:
    """Let a list begin with another message, or with none, with ``change``."""
    heads = words[queue + Q_HEADS]
    change[queue + Q_HEADS] = heads & ~(LINK_MASK << which) | message << which


class Lists:
    """The lists of a store."""

    def __init__(self, heap: Heap, lanes: Lanes, counts: Counts) -> None:
        self._heap = heap
        self._words = heap.words
        self._lanes = lanes
        self._counts = counts

    def append(
        self, change: Change, queue: int, payload: bytes, deadline: int, lifetime: int
    ) -> None:
        """Put a message at the end of all with ``change``. There must be room."""
        words = self._words
        message = self._heap.add(change, MESSAGE, (lifetime << 32, deadline), payload)
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
        fields = (lifetime << 32 | head(words, queue, FRONT_SHIFT), deadline)
        message = self._heap.add(change, MESSAGE, fields, payload)
        set_head(words, change, queue, FRONT_SHIFT, message)

    def pop(self, taken: list[Popped], queue: int, which: int, limit: int, now: int) -> None:
        """Take the oldest live messages off a list until there are ``limit`` in ``taken``."""
        words, heap = self._words, self._heap
        change: Change = {}
        gone = expired = 0
        message = head(words, queue, which)
        while message and len(taken) < limit:
            at = words[heap.end - message]
            deadline = words[at + M_DEADLINE]
            if deadline > now:
                taken.append(Popped(heap.payload(at, M_WORDS), deadline))
            else:
                expired += 1
            following = words[at + M_LINK] & LINK_MASK
            heap.free(change, message)
            gone += 1
            message = following
            if len(change) > _FULL_CHANGE:
                set_head(words, change, queue, which, message)
                self._counts.gone(change, queue, gone, expired)
                heap.commit(change)
                change, gone, expired = {}, 0, 0
        if gone:
            set_head(words, change, queue, which, message)
            self._counts.gone(change, queue, gone, expired)
            heap.commit(change)

    def refill(self, queue: int) -> None:
        """Move some messages from a short list to the lane of its queue.

        More than are pushed meanwhile: a list that always has something would keep all from
        the lane. A long one is not worth it.
        """
        words, heap, lanes = self._words, self._heap, self._lanes
        listed = words[queue + Q_PUSHED] - words[queue + Q_GONE]
        # Of one whose counts have grown large nothing more may come.
        if listed > _SHORT or not words[queue + Q_LANE_IN] or words[queue + Q_IN] >= WORN:
            return
        for _ in range(_REFILL):
            message = head(words, queue, BEHIND_SHIFT)
            if not message:
                return
            at = words[heap.end - message]
            if words[at] & SPLIT:
                return  # Not copied to find that it is too large: it lies in several extents.
            link, deadline = words[at + M_LINK], words[at + M_DEADLINE]
            place = lanes.place(queue, (words[at] & LENGTH_MASK) - M_WORDS + ENTRY_WORDS)
            if not place:
                return
            payload = heap.payload(at, M_WORDS)
            change: Change = {}
            lanes.append(change, queue, place, payload, deadline, link >> 32)
            set_head(words, change, queue, BEHIND_SHIFT, link & LINK_MASK)
            change[queue + Q_PUSHED] = words[queue + Q_PUSHED] - 1
            heap.free(change, message)
            heap.commit(change)
