"""The counts of queues and messages: reading them, and noting them with each change.

Everything needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from ..heap import layout
from ..heap.heap import Heap
from ..heap.journal import Change
from ..heap.layout import (
    COUNT_SHIFT,
    EXPIRED,
    GONE,
    HIGH_WATER,
    PUSHED,
    Q_EXPIRED,
    Q_GONE,
    Q_HIGH_WATER,
    Q_IN,
    Q_OUT,
    Q_PUSHED,
    Q_SOONEST,
    SOONEST,
)
from .ring_extents import RingExtents

#: Nanoseconds; lifetimes are noted in milliseconds.
MILLISECOND = 1_000_000
#: Queues of which expired messages are noted apart.
_APART = 1000


def pending(words: memoryview, queue: int) -> int:
    """How many messages a queue has."""
    in_ring = (words[queue + Q_IN] >> COUNT_SHIFT) - (words[queue + Q_OUT] >> COUNT_SHIFT)
    return words[queue + Q_PUSHED] - words[queue + Q_GONE] + in_ring


def ever_pushed(words: memoryview, queue: int) -> int:
    """How many messages a queue has had."""
    return words[queue + Q_PUSHED] + (words[queue + Q_IN] >> COUNT_SHIFT)


def popped(words: memoryview, queue: int) -> int:
    """How many messages were taken from a queue."""
    gone = words[queue + Q_GONE] + (words[queue + Q_OUT] >> COUNT_SHIFT)
    return int(gone - words[queue + Q_EXPIRED])


class Expirations:
    """What calls of this process found expired and dropped, for this process's log."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        #: Numbers of messages by queue; those of more queues than `_APART` by an empty name.
        self.noted: dict[bytes, int] = {}

    def note(self, address: int, count: int) -> None:
        """Note that messages of a queue are dropped as expired."""
        noted, name = self.noted, self._heap.name(address, layout.Q_WORDS)
        # In this order: what runs up to the next store must not depend on what was noted before.
        if len(noted) >= _APART and name not in noted:
            name = b""
        noted[name] = noted.get(name, 0) + count

    def take(self) -> dict[bytes, int]:
        """Return what was noted since the last call."""
        taken, self.noted = self.noted, {}
        return taken


class Counts:
    """What a change to a queue changes in the counts of the queue and of the store."""

    def __init__(self, heap: Heap, extents: RingExtents, expirations: Expirations) -> None:
        self._heap = heap
        self._words = heap.words
        self._extents = extents
        self._expirations = expirations

    def arrival(self, change: Change, address: int, deadline: int, here: int) -> None:
        """Note with a change that puts a message on a queue of ``here`` what may be new with it."""
        words = self._words
        total = words[PUSHED] - words[GONE] + 1
        if here >= words[address + Q_HIGH_WATER]:
            change[address + Q_HIGH_WATER] = here + 1
        if total > words[HIGH_WATER]:
            change[HIGH_WATER] = total
        if deadline < words[address + Q_SOONEST]:
            change[address + Q_SOONEST] = deadline
            if deadline < words[SOONEST]:
                change[SOONEST] = deadline

    def gone(self, change: Change, address: int, gone: int, expired: int) -> None:
        """Note with a change that messages of a list are gone."""
        words = self._words
        change[address + Q_GONE] = words[address + Q_GONE] + gone
        change[GONE] = words[GONE] + gone
        if expired:
            change[address + Q_EXPIRED] = words[address + Q_EXPIRED] + expired
            change[EXPIRED] = words[EXPIRED] + expired
            self._expirations.note(address, expired)

    def refusal(self, address: int, is_for_room: bool) -> None:
        """Count a refused push to a queue; 0 is a queue that there is not."""
        words = self._words
        counted = [layout.REFUSED]
        if is_for_room:
            counted.append(layout.NO_ROOM)
        if address:
            counted.append(address + layout.Q_REFUSED)
            if is_for_room:
                counted.append(address + layout.Q_NO_ROOM)
        self._heap.commit({word: words[word] + 1 for word in counted})

    def back(self, change: Change) -> None:
        """Note with a change that a message which had been taken is there again.

        If none was taken here, as the store was emptied or made anew meanwhile, it is new.
        """
        words = self._words
        if words[GONE] > words[EXPIRED] + words[layout.ORPHANED] + words[layout.FLUSHED]:
            change[GONE] = words[GONE] - 1
            change[layout.RESTORED] = words[layout.RESTORED] + 1
        else:
            change[PUSHED] = words[PUSHED] + 1

    def back_in_list(self, change: Change, address: int) -> None:
        """The same for the queue, if it is put into a list."""
        words = self._words
        pushed = address + Q_PUSHED
        if not popped(words, address):
            change[pushed] = words[pushed] + 1
        elif words[address + Q_GONE]:
            change[address + Q_GONE] = words[address + Q_GONE] - 1
        else:
            # It came and went through the ring. Now it came through the list.
            change[pushed] = words[pushed] + 1
            for end in (address + Q_IN, address + Q_OUT):
                change[end] = words[end] - (1 << COUNT_SHIFT)
            self._extents.forget_offsets(change, address)
