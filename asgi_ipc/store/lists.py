"""Lists: the messages of a queue as records in the heap, linked from oldest to newest.

Any queue has one, which may be empty. A queue that is used often has a lane besides, whose
messages are older than those of its list (`lanes`).

Everything needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from ..engines.base import Popped
from .counts import Counts
from .heap import Heap
from .journal import Change
from .lanes import Lanes
from .layout import (
    JOURNAL_PAIRS,
    LINK_MASK,
    M_DEADLINE,
    M_LINK,
    M_WORDS,
    MESSAGE,
    Q_GONE,
    Q_HEAD,
    Q_IN,
    Q_LANE_IN,
    Q_OUT,
    Q_PUSHED,
    Q_TAIL,
    SPLIT,
)

#: Leave this much of the journal for the words at the end of a change.
_FULL_CHANGE = JOURNAL_PAIRS - 64
#: Messages moved from list to lane at a time, if the list has at most so many.
_REFILL, _SHORT = 2, 1024


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
        """Put a message at the end of a list with ``change``. There must be room."""
        words = self._words
        message = self._heap.add(change, MESSAGE, (lifetime << 32, deadline), payload)
        if words[queue + Q_HEAD]:
            tail = words[self._heap.end - words[queue + Q_TAIL]] + M_LINK
            change[tail] = words[tail] | message
        else:
            change[queue + Q_HEAD] = message
        change[queue + Q_TAIL] = message

    def prepend(
        self, change: Change, queue: int, payload: bytes, deadline: int, lifetime: int
    ) -> None:
        """Put a message at the front of a list with ``change``. There must be room."""
        head = self._words[queue + Q_HEAD]
        fields = (lifetime << 32 | head, deadline)
        message = self._heap.add(change, MESSAGE, fields, payload)
        change[queue + Q_HEAD] = message
        if not head:
            change[queue + Q_TAIL] = message

    def pop(self, taken: list[Popped], queue: int, limit: int, now: int) -> None:
        """Take the oldest live messages off a list until there are ``limit`` in ``taken``."""
        words, heap = self._words, self._heap
        change: Change = {}
        gone = expired = 0
        message = words[queue + Q_HEAD]
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
                change[queue + Q_HEAD] = message
                self._counts.gone(change, queue, gone, expired)
                heap.commit(change)
                change, gone, expired = {}, 0, 0
        if gone:
            change[queue + Q_HEAD] = message
            self._counts.gone(change, queue, gone, expired)
            heap.commit(change)

    def refill(self, queue: int) -> None:
        """Move some messages from a short list to the lane of its queue.

        More than are pushed meanwhile: a list that always has something would keep all from
        the lane. A long one is not worth it.
        """
        words, heap = self._words, self._heap
        listed = words[queue + Q_PUSHED] - words[queue + Q_GONE]
        if listed > _SHORT or not words[queue + Q_LANE_IN]:
            return
        for _ in range(_REFILL):
            message = words[queue + Q_HEAD]
            if not message:
                return
            at = words[heap.end - message]
            if words[at] & SPLIT:
                return  # Not copied to find that it is too large: it lies in several extents.
            link, deadline = words[at + M_LINK], words[at + M_DEADLINE]
            # To `peek`, which looks at the lane first, the last one must never be in neither.
            if not link & LINK_MASK and words[queue + Q_IN] == words[queue + Q_OUT]:
                return
            payload = heap.payload(at, M_WORDS)
            change: Change = {}
            if not self._lanes.append(change, queue, payload, deadline, link >> 32):
                return
            change[queue + Q_HEAD] = link & LINK_MASK
            change[queue + Q_PUSHED] = words[queue + Q_PUSHED] - 1
            heap.free(change, message)
            heap.commit(change)
