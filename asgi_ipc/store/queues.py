"""Queues of messages in the heap of the channels segment.

A queue is a record that holds the first and last handle of its messages, which are
linked, and the ends of its list of `waiters`. Everything needs the segment's lock.
Each method is one or more whole changes: a kill leaves the queue as before or after.
"""

from __future__ import annotations

from zlib import crc32

from ..engines.base import Popped, Record
from ..exceptions import StoreCorrupt
from .heap import Heap, NoRoom
from .index import LONGEST_CHAIN, NEVER, SWEEP_AGAIN, Index
from .journal import Change
from .layout import (
    EXPIRED,
    GONE,
    HAND,
    HIGH_WATER,
    JOURNAL_PAIRS,
    KIND_SHIFT,
    LINK_MASK,
    M_DEADLINE,
    M_LINK,
    M_WORDS,
    MESSAGE,
    NAMED,
    ORPHANED,
    PAD_SHIFT,
    PUSHED,
    Q_CHAIN,
    Q_EXPIRED,
    Q_GONE,
    Q_HEAD,
    Q_HIGH_WATER,
    Q_IDLE,
    Q_OWNER,
    Q_PUSHED,
    Q_REFUSED,
    Q_SOONEST,
    Q_TAIL,
    Q_WAIT_FIRST,
    Q_WORDS,
    QUEUE,
    REFUSED,
    SHAPE_MASK,
    SOONEST,
    SWEPT,
    SWEPT_GONE,
    WORD,
)
from .processes import Processes
from .waiters import Waiters

#: Leave this much of the journal for the words at the end of a change.
_FULL_CHANGE = JOURNAL_PAIRS - 64
_MILLISECOND = 1_000_000


def _lifetime(deadline: int, now: int) -> int:
    """What a message's LINK holds beside the next handle."""
    lifetime = (deadline - now) // _MILLISECOND
    return lifetime << 32 if 0 < lifetime < LINK_MASK else 0 if lifetime <= 0 else LINK_MASK << 32


class AtCapacity(Exception):
    """The queue holds as many live messages as the pusher allows."""


class Queues:
    """All queues of a store."""

    def __init__(self, heap: Heap, processes: Processes) -> None:
        self._heap = heap
        self._words = heap.words
        self._index = Index(heap, Q_CHAIN)
        self._table = heap.geometry.hash_table
        self._buckets = heap.geometry.buckets
        self._processes = processes
        self._waiters = Waiters(heap, processes.bell_alive)

    # ---- finding

    def find(self, name: bytes) -> int:
        """Handle of the queue of that name, or 0."""
        words, end, view = self._words, self._heap.end, self._heap.bytes
        size = len(name)
        # The lower half of META, without the handle: kind, length and padding.
        shape = Q_WORDS + (size + 7 >> 3) | QUEUE << KIND_SHIFT | (-size & 7) << PAD_SHIFT
        handle = words[self._table + crc32(name) % self._buckets]
        for _ in LONGEST_CHAIN:
            if not handle:
                return 0
            address = words[end - handle]
            if words[address] & SHAPE_MASK == shape:
                start = (address + Q_WORDS) * WORD
                if view[start : start + size].tobytes() == name:
                    return handle
            handle = words[address + Q_CHAIN]
        raise self._index.circle()

    def _create(self, name: bytes, owner: bytes, now: int) -> int:
        bucket = self._index.bucket(crc32(name))
        self._make_room(Q_WORDS + (len(name) + 7 >> 3), now)
        words = self._words
        word = self._processes.owner_word(owner) if owner else 0
        fields = (words[bucket], 0, 0, 0, 0, word, NEVER, 0, 0, 0, 0, 0, NEVER)
        change: Change = {}
        handle = self._heap.add(change, QUEUE, fields, name)
        change[bucket] = handle
        change[NAMED] = words[NAMED] + 1
        self._heap.commit(change)
        return handle

    def _remove(self, handle: int) -> None:
        """Take out a queue that holds nothing; bells armed on it are forgotten."""
        words, heap = self._words, self._heap
        address = words[heap.end - handle]
        self._waiters.drop_dead(address, everybody=True)
        change: Change = {NAMED: words[NAMED] - 1}
        bucket = self._index.bucket(crc32(heap.payload(address, Q_WORDS)))
        self._index.unlink(change, bucket, handle)
        heap.free(change, handle)
        heap.commit(change)

    # ---- pushing and popping

    def push(self, record: Record, now: int) -> int:
        """Append a message; the bell to ring for it, or 0. Raises `AtCapacity`, `NoRoom`."""
        words, heap = self._words, self._heap
        name, payload, deadline, capacity, owner = record
        handle = self.find(name)
        if handle:
            address = words[heap.end - handle]
            if (
                words[address + Q_PUSHED] - words[address + Q_GONE] >= capacity
                and self._expire(handle, now) >= capacity
            ):
                address = words[heap.end - handle]
                heap.commit(
                    {
                        address + Q_REFUSED: words[address + Q_REFUSED] + 1,
                        REFUSED: words[REFUSED] + 1,
                    }
                )
                raise AtCapacity
        elif capacity < 1:
            heap.commit({REFUSED: words[REFUSED] + 1})
            raise AtCapacity
        length = M_WORDS + (len(payload) + 7 >> 3)
        if not handle or not heap.fits(length):
            try:
                # Making room may remove the queue while it is empty.
                while self._make_room(length, now) or not handle:
                    handle = self.find(name) or self._create(name, owner, now)
            except NoRoom:
                heap.commit({REFUSED: words[REFUSED] + 1})
                raise
        change: Change = {}
        message = heap.add(change, MESSAGE, (_lifetime(deadline, now), deadline), payload)
        # Looked up only now: making room may have moved the queue.
        address = words[heap.end - handle]
        if words[address + Q_HEAD]:
            tail = words[heap.end - words[address + Q_TAIL]] + M_LINK
            change[tail] = words[tail] | message
        else:
            change[address + Q_HEAD] = message
        change[address + Q_TAIL] = message
        if owner and not words[address + Q_OWNER]:
            # Made by a reader that waited, who did not say whose it is.
            change[address + Q_OWNER] = self._processes.owner_word(owner)
        self._count_push(change, address, deadline)
        bell = self._waiters.take(change, address) if words[address + Q_WAIT_FIRST] else 0
        heap.commit(change)
        return bell

    def _count_push(self, change: Change, address: int, deadline: int) -> None:
        words = self._words
        pushed = words[address + Q_PUSHED] + 1
        total = words[PUSHED] + 1
        change[address + Q_PUSHED] = pushed
        change[PUSHED] = total
        if pushed - words[address + Q_GONE] > words[address + Q_HIGH_WATER]:
            change[address + Q_HIGH_WATER] = pushed - words[address + Q_GONE]
        if total - words[GONE] > words[HIGH_WATER]:
            change[HIGH_WATER] = total - words[GONE]
        if deadline < words[address + Q_SOONEST]:
            change[address + Q_SOONEST] = deadline
            if deadline < words[SOONEST]:
                change[SOONEST] = deadline

    def pop(self, name: bytes, limit: int, bell: int, now: int) -> list[Popped]:
        """Take up to ``limit`` live messages; if fewer are left, arm ``bell`` unless it is 0."""
        words, heap = self._words, self._heap
        handle = self.find(name)
        if not handle:
            if not bell:
                return []
            handle = self._create(name, b"", now)
        address = words[heap.end - handle]
        taken: list[Popped] = []
        change: Change = {}
        gone = expired = 0
        message = words[address + Q_HEAD]
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
                self._take(change, address, message, gone, expired)
                heap.commit(change)
                change, gone, expired = {}, 0, 0
        if gone:
            self._take(change, address, message, gone, expired)
        if bell and len(taken) < limit:
            self._waiters.arm(change, address, bell)
        if change:
            heap.commit(change)
        return taken

    def _take(self, change: Change, address: int, head: int, gone: int, expired: int) -> None:
        """Note with a change that messages at the head of a queue are gone."""
        words = self._words
        change[address + Q_HEAD] = head
        change[address + Q_GONE] = words[address + Q_GONE] + gone
        change[GONE] = words[GONE] + gone
        if expired:
            change[address + Q_EXPIRED] = words[address + Q_EXPIRED] + expired
            change[EXPIRED] = words[EXPIRED] + expired

    def restore(self, name: bytes, record: Popped, now: int) -> int:
        """Put a message back in front; the bell to ring, or 0. Raises `NoRoom`."""
        words, heap = self._words, self._heap
        length = M_WORDS + (len(record.payload) + 7 >> 3)
        handle = 0
        while self._make_room(length, now) or not handle:
            handle = self.find(name) or self._create(name, b"", now)
        address = words[heap.end - handle]
        change: Change = {}
        head = words[address + Q_HEAD]
        message = heap.add(
            change,
            MESSAGE,
            (_lifetime(record.deadline, now) | head, record.deadline),
            record.payload,
        )
        change[address + Q_HEAD] = message
        if not head:
            change[address + Q_TAIL] = message
        self._count_push(change, address, record.deadline)
        # Not pushed again, but not gone after all. A queue made anew never had it.
        if words[address + Q_GONE]:
            change[address + Q_PUSHED] = words[address + Q_PUSHED]
            change[address + Q_GONE] = words[address + Q_GONE] - 1
        change[PUSHED] = words[PUSHED]
        change[GONE] = words[GONE] - 1
        bell = self._waiters.take(change, address) if words[address + Q_WAIT_FIRST] else 0
        heap.commit(change)
        return bell

    # ---- bells

    def next_bell(self, name: bytes) -> int:
        """The next bell to ring for a queue whose last one wasn't heard; 0 if none is owed."""
        words, heap = self._words, self._heap
        handle = self.find(name)
        if not handle:
            return 0
        address = words[heap.end - handle]
        if not words[address + Q_HEAD] or not words[address + Q_WAIT_FIRST]:
            return 0
        change: Change = {}
        bell = self._waiters.take(change, address)
        heap.commit(change)
        return bell

    def disarm(self, name: bytes, bell: int) -> int:
        """Take a bell off a queue; the bell to ring instead if it had been rung, or 0."""
        handle = self.find(name)
        if not handle:
            return 0
        change: Change = {}
        if not self._waiters.remove(change, self._words[self._heap.end - handle], bell):
            return self.next_bell(name)
        self._heap.commit(change)
        return 0

    # ---- upkeep

    def _make_room(self, length: int, now: int) -> bool:
        """Room for a record, at the expense of whatever is dead if need be.

        True if queues may have been removed for it. Raises `NoRoom`.
        """
        words = self._words
        try:
            self._heap.room_for(length)
            return False
        except NoRoom:
            # A full store refuses fast: look again only if something has expired, enough
            # has gone for queues to be empty, or a while has passed (orphans).
            gone = words[GONE] - words[SWEPT_GONE]
            if (
                now < words[SOONEST]
                and gone <= words[NAMED] // 64
                and now < words[SWEPT] + SWEEP_AGAIN
            ):
                raise
        self.sweep(now, everything=True)
        self._heap.room_for(length)
        return True

    def _expire(self, handle: int, now: int) -> int:
        """Drop what has expired in a queue, wherever it stands; how many messages are left."""
        words, heap = self._words, self._heap
        address = words[heap.end - handle]
        if words[address + Q_SOONEST] <= now:
            soonest = NEVER
            before = 0
            message = words[address + Q_HEAD]
            pending = words[address + Q_PUSHED] - words[address + Q_GONE]
            if pending > heap.end // M_WORDS:
                raise StoreCorrupt("a queue counts more messages than there can be")
            for _ in range(pending):
                at = words[heap.end - message]
                deadline = words[at + M_DEADLINE]
                following = words[at + M_LINK] & LINK_MASK
                if deadline > now:
                    soonest = min(soonest, deadline)
                    before = message
                else:
                    change: Change = {}
                    heap.free(change, message)
                    self._take(change, address, words[address + Q_HEAD], 1, 1)
                    if before:
                        link = words[heap.end - before] + M_LINK
                        change[link] = words[link] & ~LINK_MASK | following
                    else:
                        change[address + Q_HEAD] = following
                    if not following:
                        change[address + Q_TAIL] = before
                    heap.commit(change)
                message = following
            heap.commit({address + Q_SOONEST: soonest})
        return words[address + Q_PUSHED] - words[address + Q_GONE]

    def _orphan(self, handle: int) -> None:
        """Drop a queue whose owner has gone, with all it holds."""
        words, heap = self._words, self._heap
        address = words[heap.end - handle]
        message = words[address + Q_HEAD]
        while message:
            following = words[words[heap.end - message] + M_LINK] & LINK_MASK
            change: Change = {}
            heap.free(change, message)
            self._take(change, address, following, 1, 0)
            change[ORPHANED] = words[ORPHANED] + 1
            heap.commit(change)
            message = following
        self._remove(handle)

    def sweep(self, now: int, shares: int = 1, everything: bool = False) -> None:
        """Look after one of ``shares`` parts: drop what is dead, and queues long empty.

        With ``everything`` a queue that is empty goes at once.
        """
        buckets, hand = self._index.turn(self._index.buckets // shares)
        soonest = NEVER
        for bucket in buckets:
            for handle in list(self._index.chain(bucket)):
                soonest = min(soonest, self._look_after(handle, now, everything))
        change = {HAND: hand}
        if shares == 1:
            change |= {SOONEST: soonest, SWEPT: now, SWEPT_GONE: self._words[GONE]}
        self._heap.commit(change)

    def _look_after(self, handle: int, now: int, at_once: bool) -> int:
        """Drop what is dead of one queue; the soonest deadline left."""
        words, heap = self._words, self._heap
        address = words[heap.end - handle]
        owner = words[address + Q_OWNER]
        if owner and not self._processes.owner_alive(owner):
            self._orphan(handle)
            return NEVER
        if words[address + Q_HEAD]:
            self._expire(handle, now)
        if words[address + Q_HEAD]:
            return words[address + Q_SOONEST]
        if self._waiters.drop_dead(address):
            return NEVER
        pushed = words[address + Q_PUSHED]
        if at_once or words[address + Q_IDLE] == pushed:
            self._remove(handle)
        else:
            # Nothing came or went since the last look if this still holds at the next.
            heap.commit({address + Q_IDLE: pushed})
        return NEVER

    # ---- counts

    def statistics(self, name: bytes, now: int) -> dict[str, int]:
        """Counts of one queue."""
        words, heap = self._words, self._heap
        handle = self.find(name)
        if not handle:
            return dict.fromkeys(
                ("pushed", "popped", "expired", "refused", "orphaned", "pending", "high_water",
                 "oldest_age"), 0,
            )  # fmt: skip
        address = words[heap.end - handle]
        self._expire(handle, now)
        pushed, gone = words[address + Q_PUSHED], words[address + Q_GONE]
        expired = words[address + Q_EXPIRED]
        return {
            "pushed": pushed,
            "popped": gone - expired,
            "expired": expired,
            "refused": words[address + Q_REFUSED],
            "orphaned": 0,
            "pending": pushed - gone,
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
        head = words[address + Q_HEAD]
        if not head:
            return 0
        at = words[self._heap.end - head]
        lifetime = (words[at + M_LINK] >> 32) * _MILLISECOND
        return max(0, now - (words[at + M_DEADLINE] - lifetime))
