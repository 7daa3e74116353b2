"""What is counted of queues and messages: noting it with the changes, and telling it.

Everything needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..heap.heap import PASS, Heap
from ..heap.journal import Change
from ..heap.layout import (
    COUNT_SHIFT,
    ENTRY_DEADLINE,
    ENTRY_LIFETIME_SHIFT,
    EXPIRED,
    FLUSHED,
    FRONT_SHIFT,
    GONE,
    HIGH_WATER,
    LINK_MASK,
    M_DEADLINE,
    M_LINK,
    NO_ROOM,
    ORPHANED,
    PUSHED,
    Q_BYTES,
    Q_EXPIRED,
    Q_GONE,
    Q_HEADS,
    Q_HIGH_WATER,
    Q_IN,
    Q_NO_ROOM,
    Q_OUT,
    Q_PUSHED,
    Q_REFUSED,
    Q_SOONEST,
    REFUSED,
    SOONEST,
)

if TYPE_CHECKING:
    from .rings import Rings

#: Nanoseconds; lifetimes are noted in milliseconds.
MILLISECOND = 1_000_000


def pending(words: memoryview, queue: int) -> int:
    """How many messages a queue has."""
    in_ring = (words[queue + Q_IN] >> COUNT_SHIFT) - (words[queue + Q_OUT] >> COUNT_SHIFT)
    return words[queue + Q_PUSHED] - words[queue + Q_GONE] + in_ring


def ever_pushed(words: memoryview, queue: int) -> int:
    """How many messages a queue has had."""
    return words[queue + Q_PUSHED] + (words[queue + Q_IN] >> COUNT_SHIFT)


class Counts:
    """The counts of a store."""

    def __init__(self, heap: Heap, rings: Rings) -> None:
        self._heap = heap
        self._words = heap.words
        self._rings = rings

    # ---- noting

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

    def refusal(self, address: int, is_for_room: bool) -> None:
        """Count a refused push to a queue; 0 is a queue that there is not."""
        words = self._words
        counted = [REFUSED]
        if is_for_room:
            counted.append(NO_ROOM)
        if address:
            counted.append(address + Q_REFUSED)
            if is_for_room:
                counted.append(address + Q_NO_ROOM)
        self._heap.commit({word: words[word] + 1 for word in counted})

    def back(self, change: Change) -> None:
        """Note with a change that a message which had been taken is there again.

        If none was taken here, as the store was emptied or made anew meanwhile, it is new.
        """
        words = self._words
        if words[GONE] > words[EXPIRED] + words[ORPHANED] + words[FLUSHED]:
            change[GONE] = words[GONE] - 1
        else:
            change[PUSHED] = words[PUSHED] + 1

    def back_in_list(self, change: Change, address: int) -> None:
        """The same for the queue, if it is put into a list."""
        words = self._words
        pushed = address + Q_PUSHED
        if not self.popped(address):
            change[pushed] = words[pushed] + 1
        elif words[address + Q_GONE]:
            change[address + Q_GONE] = words[address + Q_GONE] - 1
        else:
            # It came and went through the ring. Now it came through the list.
            change[pushed] = words[pushed] + 1
            for end in (address + Q_IN, address + Q_OUT):
                change[end] = words[end] - (1 << COUNT_SHIFT)
            self._rings.forget_offsets(change, address)

    # ---- telling

    def popped(self, address: int) -> int:
        """How many messages were taken from a queue."""
        words = self._words
        gone = words[address + Q_GONE] + (words[address + Q_OUT] >> COUNT_SHIFT)
        return int(gone - words[address + Q_EXPIRED])

    def of_queue(self, address: int, now: int) -> dict[str, int]:
        """Counts of one queue; 0 is a queue that there is not."""
        words = self._words
        if not address:
            return dict.fromkeys(
                ("pushed", "popped", "expired", "refused", "store_full", "orphaned", "pending",
                 "high_water", "oldest_age", "bytes"), 0,
            )  # fmt: skip
        return {
            "pushed": ever_pushed(words, address),
            "popped": self.popped(address),
            "expired": words[address + Q_EXPIRED],
            "refused": words[address + Q_REFUSED],
            "store_full": words[address + Q_NO_ROOM],
            "orphaned": 0,
            "pending": pending(words, address),
            "high_water": words[address + Q_HIGH_WATER],
            "oldest_age": self.age(address, now),
            "bytes": words[address + Q_BYTES],
        }

    def age(self, address: int, now: int) -> int:
        """Nanoseconds since the oldest message of a queue was pushed. May `Pause`."""
        words = self._words
        heads = words[address + Q_HEADS]
        if heads >> FRONT_SHIFT:
            return self._age_of(heads >> FRONT_SHIFT, now)
        while self._rings.drop_front(address, 0):
            self._heap.spend(PASS)
        for at, _ in self._rings.entries(address):
            lifetime = (words[at] >> ENTRY_LIFETIME_SHIFT) * MILLISECOND
            return max(0, now - (words[at + ENTRY_DEADLINE] - lifetime))
        return self._age_of(heads & LINK_MASK, now)

    def _age_of(self, message: int, now: int) -> int:
        if not message:
            return 0
        at = self._words[self._heap.end - message]
        lifetime = (self._words[at + M_LINK] >> 32) * MILLISECOND
        return max(0, now - (self._words[at + M_DEADLINE] - lifetime))
