"""What is counted of queues and messages: noting it with the changes, and telling it.

Everything needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .heap import Heap
from .index import Index
from .journal import Change
from .layout import (
    COUNT_SHIFT,
    ENTRY_DEAD,
    EXPIRED,
    FLUSHED,
    GONE,
    HIGH_WATER,
    M_DEADLINE,
    M_LINK,
    ORPHANED,
    PUSHED,
    Q_EXPIRED,
    Q_GONE,
    Q_HEAD,
    Q_HIGH_WATER,
    Q_IN,
    Q_OUT,
    Q_PUSHED,
    Q_REFUSED,
    Q_SOONEST,
    SOONEST,
)

if TYPE_CHECKING:
    from .lanes import Lanes

#: Nanoseconds; lifetimes are noted in milliseconds.
MILLISECOND = 1_000_000


def pending(words: memoryview, queue: int) -> int:
    """How many messages a queue has."""
    in_lane = (words[queue + Q_IN] >> COUNT_SHIFT) - (words[queue + Q_OUT] >> COUNT_SHIFT)
    return words[queue + Q_PUSHED] - words[queue + Q_GONE] + in_lane


def ever_pushed(words: memoryview, queue: int) -> int:
    """How many messages a queue has had."""
    return words[queue + Q_PUSHED] + (words[queue + Q_IN] >> COUNT_SHIFT)


class Counts:
    """The counts of a store."""

    def __init__(self, heap: Heap, index: Index, lanes: Lanes) -> None:
        self._heap = heap
        self._words = heap.words
        self._index = index
        self._lanes = lanes

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

    def back(self, change: Change) -> None:
        """Note with a change that a message which had been taken is there again.

        If none was taken here, as the store was emptied or made anew meanwhile, it is new.
        """
        words = self._words
        if words[GONE] > words[EXPIRED] + words[ORPHANED] + words[FLUSHED]:
            change[GONE] = words[GONE] - 1
        else:
            change[PUSHED] = words[PUSHED] + 1

    # ---- telling

    def of_queue(self, address: int, now: int) -> dict[str, int]:
        """Counts of one queue; 0 is a queue that there is not."""
        words = self._words
        if not address:
            return dict.fromkeys(
                ("pushed", "popped", "expired", "refused", "orphaned", "pending", "high_water",
                 "oldest_age"), 0,
            )  # fmt: skip
        pushed, left = ever_pushed(words, address), pending(words, address)
        expired = words[address + Q_EXPIRED]
        return {
            "pushed": pushed,
            "popped": pushed - left - expired,
            "expired": expired,
            "refused": words[address + Q_REFUSED],
            "orphaned": 0,
            "pending": left,
            "high_water": words[address + Q_HIGH_WATER],
            "oldest_age": self._age(address, now),
        }

    def oldest_age(self, now: int) -> int:
        """Nanoseconds since the oldest message of all was pushed."""
        words, heap = self._words, self._heap
        buckets, _ = self._index.turn(self._index.buckets)
        return max(
            (
                self._age(words[heap.end - handle], now)
                for bucket in buckets
                for handle in self._index.chain(bucket)
            ),
            default=0,
        )

    def _age(self, address: int, now: int) -> int:
        words = self._words
        for at, _ in self._lanes.entries(address):
            if not words[at] & ENTRY_DEAD:
                _, deadline, lifetime = self._lanes.read(at)
                return max(0, now - (deadline - lifetime * MILLISECOND))
        head = words[address + Q_HEAD]
        if not head:
            return 0
        at = words[self._heap.end - head]
        lifetime = (words[at + M_LINK] >> 32) * MILLISECOND
        return max(0, now - (words[at + M_DEADLINE] - lifetime))
