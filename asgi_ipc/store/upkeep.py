"""Looking after queues: what has expired, what belonged to the dead, what is long empty.

Each method is one or more whole changes, and needs the segment's lock. Queues are given by
their address.
"""

from __future__ import annotations

from zlib import crc32

from ..exceptions import StoreCorrupt
from .counts import Counts, ever_pushed, pending
from .heap import Heap
from .index import NEVER, Index
from .journal import Change
from .lanes import Lanes
from .layout import (
    BEHIND_SHIFT,
    COUNT_SHIFT,
    ENTRY_DEAD,
    ENTRY_DEADLINE,
    ENTRY_WORDS,
    EXPIRED,
    FRONT_SHIFT,
    GONE,
    HAND,
    ID_SHIFT,
    LINK_MASK,
    M_DEADLINE,
    M_LINK,
    M_WORDS,
    NAMED,
    NODES,
    ORPHANED,
    Q_EXPIRED,
    Q_GONE,
    Q_IDLE,
    Q_IN,
    Q_LANE_IN,
    Q_OUT,
    Q_OWNER,
    Q_PUSHED,
    Q_SOONEST,
    Q_TAIL,
    Q_WORDS,
    SOONEST,
    SWEPT,
    SWEPT_GONE,
)
from .lists import head, set_head
from .processes import Processes
from .waiters import Waiters


class Upkeep:
    """The upkeep of all queues of a store."""

    def __init__(
        self,
        heap: Heap,
        index: Index,
        processes: Processes,
        waiters: Waiters,
        lanes: Lanes,
        counts: Counts,
    ) -> None:
        self._heap = heap
        self._words = heap.words
        self._index = index
        self._processes = processes
        self._waiters = waiters
        self._lanes = lanes
        self._counts = counts

    def sweep(self, now: int, shares: int = 1, everything: bool = False) -> None:
        """Look after one of ``shares`` parts: drop what is dead, and queues long empty.

        With ``everything`` a queue that is empty goes at once.
        """
        buckets, hand = self._index.turn(self._index.buckets // shares)
        soonest = NEVER
        left = self._heap.end // ENTRY_WORDS
        self._waiters.left = NODES
        for handle in self._index.records(buckets):
            address = self._words[self._heap.end - handle]
            # Queues that are said to have the same messages are not gone through one by one.
            left -= max(0, pending(self._words, address))
            if left < 0:
                raise StoreCorrupt("the queues count more messages than there can be")
            soonest = min(soonest, self._look_after(address, now, everything))
        change = {HAND: hand}
        if shares == 1:
            change |= {SOONEST: soonest, SWEPT: now, SWEPT_GONE: self._words[GONE]}
        self._heap.commit(change)

    def _look_after(self, address: int, now: int, at_once: bool) -> int:
        """Drop what is dead of one queue; before when nothing expires of what it has or gets."""
        words, heap = self._words, self._heap
        owner = words[address + Q_OWNER]
        if owner and not self._processes.owner_alive(owner):
            self._orphan(address)
            return NEVER
        if self.expire(address, now):
            return words[address + Q_SOONEST]
        pushed = ever_pushed(words, address)
        idle = at_once or words[address + Q_IDLE] == pushed
        if idle and words[address + Q_LANE_IN]:
            self._lanes.drop(address)
        if self._waiters.drop_dead(address):
            if not idle:
                heap.commit({address + Q_IDLE: pushed})
        elif idle:
            self._remove(address)
            return NEVER
        else:
            # Nothing came or went since the last look if this still holds at the next.
            heap.commit({address + Q_IDLE: pushed})
        # That of a message that is gone, maybe; then a later one will not say so anew.
        return words[address + Q_SOONEST]

    def expire(self, address: int, now: int) -> int:
        """Drop what has expired in a queue, wherever it stands; how many messages are left."""
        words = self._words
        if words[address + Q_SOONEST] <= now:
            soonest = NEVER
            if words[address + Q_IN] != words[address + Q_OUT]:
                soonest = self._expire_lane(address, now)
            for which in (FRONT_SHIFT, BEHIND_SHIFT):
                soonest = min(soonest, self._expire_list(address, which, now))
            self._heap.commit({address + Q_SOONEST: soonest})
        return pending(words, address)

    def _expire_lane(self, address: int, now: int) -> int:
        words = self._words
        soonest = NEVER
        in_front = True
        for at, following in self._lanes.entries(address):
            change: Change = {}
            first, deadline = words[at], words[at + ENTRY_DEADLINE]
            if not first & ENTRY_DEAD:
                if deadline > now:
                    soonest = min(soonest, deadline)
                    in_front = False
                    continue
                change[at] = first | ENTRY_DEAD
                change[GONE] = words[GONE] + 1
                change[EXPIRED] = words[EXPIRED] + 1
                change[address + Q_EXPIRED] = words[address + Q_EXPIRED] + 1
                change[address + Q_OUT] = words[address + Q_OUT] + (1 << COUNT_SHIFT)
            if in_front:
                out = change.get(address + Q_OUT, words[address + Q_OUT])
                self._lanes.move_out(change, address, out >> COUNT_SHIFT, following)
            if change:
                self._heap.commit(change)
        return soonest

    def _expire_list(self, address: int, which: int, now: int) -> int:
        words, heap = self._words, self._heap
        soonest = NEVER
        before = 0
        message = head(words, address, which)
        count = words[address + Q_PUSHED] - words[address + Q_GONE]
        if count > heap.end // M_WORDS:
            raise StoreCorrupt("a queue counts more messages than there can be")
        for _ in range(count):
            if not message:
                break
            at = words[heap.end - message]
            deadline = words[at + M_DEADLINE]
            following = words[at + M_LINK] & LINK_MASK
            if deadline > now:
                soonest = min(soonest, deadline)
                before = message
            else:
                change: Change = {}
                heap.free(change, message)
                self._counts.gone(change, address, 1, 1)
                if before:
                    link = words[heap.end - before] + M_LINK
                    change[link] = words[link] & ~LINK_MASK | following
                else:
                    set_head(words, change, address, which, following)
                if not following and which == BEHIND_SHIFT:
                    change[address + Q_TAIL] = before
                heap.commit(change)
            message = following
        return soonest

    def _orphan(self, address: int) -> None:
        """Drop a queue whose owner has gone, with all it holds."""
        words, heap = self._words, self._heap
        for which in (FRONT_SHIFT, BEHIND_SHIFT):
            while message := head(words, address, which):
                change: Change = {}
                following = words[words[heap.end - message] + M_LINK] & LINK_MASK
                set_head(words, change, address, which, following)
                heap.free(change, message)
                self._counts.gone(change, address, 1, 0)
                change[ORPHANED] = words[ORPHANED] + 1
                heap.commit(change)
        for at, following in self._lanes.entries(address):
            live = 0 if words[at] & ENTRY_DEAD else 1
            change = {GONE: words[GONE] + live, ORPHANED: words[ORPHANED] + live}
            count = (words[address + Q_OUT] >> COUNT_SHIFT) + live
            self._lanes.move_out(change, address, count, following)
            heap.commit(change)
        self._remove(address)

    def _remove(self, address: int) -> None:
        """Take out a queue that holds nothing; bells armed on it are forgotten."""
        words, heap = self._words, self._heap
        handle = words[address] >> ID_SHIFT
        self._waiters.drop_dead(address, everybody=True)
        if words[address + Q_LANE_IN]:
            self._lanes.drop(address)
        change: Change = {NAMED: words[NAMED] - 1}
        bucket = self._index.bucket(crc32(heap.name(address, Q_WORDS)))
        self._index.unlink(change, bucket, handle)
        heap.free(change, handle)
        heap.commit(change)
