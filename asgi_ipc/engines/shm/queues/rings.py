"""Ring buffers of messages, for queues that are used often.

A message in the heap costs a handle, an address and the bookkeeping of its extent. In a ring it
costs one word that moves on: offset and count in one store, which no kill can split, so a ring
needs no journal. The counts of the whole store are written after it; meanwhile STATE says which
queue they belong to, and `recount` corrects them if the process is killed in between.

A ring takes a whole extent, so few queues have one. A queue gets a ring after some messages, and
loses it when it has not been used for a while. A backlog gets more extents as it grows, and gives
each back when it has been read. A message that the ring has no room for goes to the queue's list,
and so do all that follow, until the list is empty. Each push to a short list and each pop from it
moves a few messages from the list to the ring.

Everything needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from struct import Struct

from asgi_ipc.engines.base import Popped
from asgi_ipc.exceptions import StoreCorrupt

from ..heap import layout
from ..heap.heap import MOVE, PASS, Heap, Pause
from ..heap.journal import Change
from ..heap.layout import (
    COUNT_SHIFT,
    ENTRY_DEAD,
    ENTRY_LIFETIME_SHIFT,
    ENTRY_SIZE,
    ENTRY_WORDS,
    ENTRY_WRAP,
    GONE,
    HIGH_WATER,
    IDLE,
    L_STOP,
    L_WORDS,
    NOTED_MASK,
    NOTED_SHIFT,
    OFFSET_MASK,
    POPPING,
    PUSHED,
    PUSHING,
    Q_HIGH_WATER,
    Q_IN,
    Q_OUT,
    Q_SOONEST,
    SOONEST,
    STATE,
    WORD,
)
from .counters import MILLISECOND, Expirations, pending
from .ring_extents import WORN, RingExtents, strayed

_LONGEST_LIFE = (1 << 32) * MILLISECOND
#: Entries that one change takes out of a ring, at most: of those that are live, and others.
_MOST = 100

#: Half the price of the constructor of a named tuple, which others wait for.
_made = tuple.__new__
_pack = Struct("QQ").pack_into
_Unpack = Callable[[memoryview, int], tuple[int, ...]]
#: OUT, HEADS, RING_IN, IN, BELL, OWNER, HIGH_WATER and SOONEST of a queue.
_busy: _Unpack = Struct("Q8x4Q8x3Q").unpack_from
#: OUT, RING_OUT, RING_IN and IN.
_ends: _Unpack = Struct("2Q8x2Q").unpack_from
#: The words that an entry begins with.
_entry: _Unpack = Struct("2Q").unpack_from


class Rings:
    """The rings of a store, which lie in the ``extents`` that queues have for them."""

    def __init__(self, heap: Heap, expirations: Expirations) -> None:
        self.extents = RingExtents(heap)
        self._expirations = expirations
        self._heap = heap
        self._words = heap.words
        self._bytes = heap.bytes
        self._extent = heap.geometry.extent_words

    # ---- pushing and popping

    def push(
        self,
        queue: int,
        payload: bytes,
        deadline: int,
        capacity: int,
        owner: bytes,
        now: int,
    ) -> int:
        """Push through the ring of a queue with nothing in its lists, if all is as usual.

        Returns the bell that is armed on the queue, or 0, and -1 if nothing was done.
        """
        words, view = self._words, self._bytes
        out, heads, ring, into, bell, owned, high, soonest = _busy(view, (queue + Q_OUT) * WORD)
        if not ring or heads or (owner and not owned) or into >= WORN:
            return -1
        lifetime = deadline - now
        if not 0 < lifetime < _LONGEST_LIFE:
            return -1
        came = into >> COUNT_SHIFT
        count = came - (out >> COUNT_SHIFT)
        at, oldest, end = into & OFFSET_MASK, out & OFFSET_MASK, ring + self._extent
        if count >= capacity or not ring < at < end:
            return -1
        size = len(payload)
        stop = at + ENTRY_WORDS + (size + 7 >> 3)
        if stop >= (oldest if at < oldest < end else end):
            length = stop - at
            at = self.extents.offset(queue, length)
            if not at:
                return -1
            stop = at + length
        _pack(view, at * WORD, lifetime // MILLISECOND << ENTRY_LIFETIME_SHIFT | size, deadline)
        start = (at + ENTRY_WORDS) * WORD
        view[start : start + size] = payload
        if deadline < soonest:
            # First, as the messages must not expire before these say so.
            if deadline < words[SOONEST]:
                # One change: that of the queue tells the next push that both are as low.
                self._heap.commit({SOONEST: deadline, queue + Q_SOONEST: deadline})
            else:
                words[queue + Q_SOONEST] = deadline
        total = words[PUSHED]
        words[STATE] = PUSHING | (came - total & NOTED_MASK) << NOTED_SHIFT | queue
        words[queue + Q_IN] = came + 1 << COUNT_SHIFT | stop
        words[PUSHED] = total = total + 1
        if count >= high:
            words[queue + Q_HIGH_WATER] = count + 1
        if total - words[GONE] > words[HIGH_WATER]:
            words[HIGH_WATER] = total - words[GONE]
        words[STATE] = IDLE
        return bell

    def append(
        self, change: Change, queue: int, at: int, payload: bytes, deadline: int, lifetime: int
    ) -> None:
        """Put a message at the end of a ring with ``change``, where `RingExtents.offset` says."""
        self._write(at, payload, deadline, lifetime)
        count = (self._words[queue + Q_IN] >> COUNT_SHIFT) + 1
        stop = at + ENTRY_WORDS + (len(payload) + 7 >> 3)
        change[queue + Q_IN] = count << COUNT_SHIFT | stop

    def pop(self, taken: list[Popped], queue: int, room: int, now: int) -> bool:
        """Take the oldest messages out of a ring, at most ``room``; False if it is empty.

        Up to one that has expired, which `drop_front` drops, and if a ring has several extents,
        out of the first: call both until there is no room left, or False.
        """
        words, view = self._words, self._bytes
        out, ring, last, into = _ends(view, (queue + Q_OUT) * WORD)
        if into == out:
            return False
        at, stop = out & OFFSET_MASK, into & OFFSET_MASK
        end = ring + self._extent
        if ring != last:
            stop = words[ring + L_STOP]
        if not ring < at < end:
            raise strayed()
        if room > _MOST:
            room = _MOST
        gone = 0
        wrapped = False
        while gone < room and at != stop:
            first, deadline = _entry(view, at * WORD)
            if first == ENTRY_WRAP:
                if wrapped:
                    raise strayed()
                wrapped = True
                at = ring + L_WORDS
                continue
            if deadline <= now or first & ENTRY_DEAD:
                break
            size = first & ENTRY_SIZE
            start = at + ENTRY_WORDS
            at = start + (size + 7 >> 3)
            if at >= end:
                raise strayed()
            start *= WORD
            taken.append(_made(Popped, (view[start : start + size].tobytes(), deadline)))
            gone += 1
        went = out >> COUNT_SHIFT
        goes = went + gone
        if at == stop:
            if ring != last:
                change: Change = {GONE: words[GONE] + gone}
                self.extents.move_out(change, queue, goes, at)
                self._heap.commit(change)
                return True
            if goes != into >> COUNT_SHIFT:
                raise strayed()
        total = words[GONE]
        words[STATE] = POPPING | (went - total & NOTED_MASK) << NOTED_SHIFT | queue
        words[queue + Q_OUT] = goes << COUNT_SHIFT | at
        words[GONE] = total + gone
        words[STATE] = IDLE
        return True

    def drop_front(self, queue: int, now: int, are_orphans: bool = False) -> bool:
        """Drop entries in front of a ring whose deadline has passed, or all as orphans.

        One change, out of the first extent; True if there may be more.
        """
        words = self._words
        ring, last = words[queue + layout.Q_RING_OUT], words[queue + layout.Q_RING_IN]
        out, into = words[queue + Q_OUT], words[queue + Q_IN]
        at = out & OFFSET_MASK
        if out == into or not ring:
            return False
        stop = words[ring + L_STOP] if ring != last else into & OFFSET_MASK
        live = 0
        is_more, is_changed = True, False
        for entry, following in islice(self.extents.entries_of(ring, at, stop), _MOST):
            if not words[entry] & ENTRY_DEAD:
                if words[entry + layout.ENTRY_DEADLINE] > now and not are_orphans:
                    is_more = False
                    break
                live += 1
            at, is_changed = following, True
        if not is_changed:
            return False
        counted = (layout.ORPHANED,) if are_orphans else (layout.EXPIRED, queue + layout.Q_EXPIRED)
        change: Change = {word: words[word] + live for word in (GONE, *counted)}
        if live and not are_orphans:
            self._expirations.note(queue, live)
        self.extents.move_out(change, queue, (out >> COUNT_SHIFT) + live, at)
        self._heap.commit(change)
        return is_more

    def expire(self, queue: int, now: int, then: Change) -> None:
        """Look for what has expired in a ring, from where WALK is on, and drop it.

        Makes the change ``then`` at the end. May `Pause`.
        """
        words, heap = self._words, self._heap
        before = words[queue + Q_OUT]
        while self.drop_front(queue, now):
            heap.spend(_MOST * PASS)
        if words[queue + Q_OUT] != before:
            heap.spend(_MOST * PASS)  # The last call may have dropped as many.
        at = words[queue + layout.Q_WALK] & OFFSET_MASK
        passed = words[queue + layout.Q_REACH] - (words[queue + Q_OUT] >> COUNT_SHIFT)
        if not at or passed <= 0:
            # OUT has come by, and all that was looked at has gone.
            at = passed = 0
        soonest = words[queue + Q_SOONEST]
        try:
            for entry, _ in self.extents.entries(queue, at):
                at = entry
                heap.spend(PASS)
                first, deadline = words[entry], words[entry + layout.ENTRY_DEADLINE]
                if first & ENTRY_DEAD:
                    continue
                if deadline > now:
                    passed += 1
                    soonest = min(soonest, deadline)
                    continue
                heap.spend(MOVE)
                self._expirations.note(queue, 1)
                change: Change = {
                    word: words[word] + 1
                    for word in (GONE, layout.EXPIRED, queue + layout.Q_EXPIRED)
                }
                change[entry] = first | ENTRY_DEAD
                change[queue + Q_OUT] = words[queue + Q_OUT] + (1 << COUNT_SHIFT)
                heap.commit(change)
        except Pause:
            # One change: what was passed must have been seen.
            heap.commit(
                {
                    queue + Q_SOONEST: soonest,
                    queue + layout.Q_WALK: layout.WALK_RING << layout.WALK_SHIFT | at,
                    queue + layout.Q_REACH: (words[queue + Q_OUT] >> COUNT_SHIFT) + passed,
                }
            )
            raise
        heap.commit({**then, queue + Q_SOONEST: soonest})

    def put_first(
        self, change: Change, queue: int, payload: bytes, deadline: int, lifetime: int
    ) -> bool:
        """Put a message that was taken back with ``change``; False if there is no room for it.

        There is room where it was taken from, unless the ring has filled up meanwhile.
        """
        words = self._words
        ring, into, out = (
            words[queue + layout.Q_RING_OUT],
            words[queue + Q_IN],
            words[queue + Q_OUT],
        )
        at, oldest = into & OFFSET_MASK, out & OFFSET_MASK
        if ring != words[queue + layout.Q_RING_IN]:
            at = words[ring + L_STOP]
        size = len(payload)
        start = oldest - ENTRY_WORDS - (size + 7 >> 3)
        if not out >> COUNT_SHIFT or start < ring + L_WORDS or start <= at < oldest:
            return False
        self._write(start, payload, deadline, lifetime)
        change[queue + Q_OUT] = (out >> COUNT_SHIFT) - 1 << COUNT_SHIFT | start
        self.extents.forget_offsets(change, queue)
        return True

    def _write(self, at: int, payload: bytes, deadline: int, lifetime: int) -> None:
        size, start = len(payload), (at + ENTRY_WORDS) * WORD
        _pack(self._bytes, at * WORD, lifetime << ENTRY_LIFETIME_SHIFT | size, deadline)
        self._bytes[start : start + size] = payload


def recount(heap: Heap) -> None:
    """Count the move of an IN or OUT that STATE tells of, whose process was killed at it."""
    words = heap.words
    state = words[STATE]
    queue = state & OFFSET_MASK
    if words[queue] >> layout.KIND_SHIFT & layout.KIND_MASK != layout.QUEUE:
        raise StoreCorrupt(f"the state says that a queue is at {queue}, where none is")
    end, total = (queue + Q_IN, PUSHED) if state & PUSHING else (queue + Q_OUT, GONE)
    # The end moves, and the total by as much: what is between them now is what the total lacks,
    # or has too much if only its store was seen.
    difference = (words[end] >> COUNT_SHIFT) - words[total]
    lacking = difference - (state >> NOTED_SHIFT) & NOTED_MASK
    if lacking > NOTED_MASK // 2:
        lacking -= NOTED_MASK + 1
    if abs(lacking) > _MOST:
        raise StoreCorrupt(f"{lacking} messages of a ring came or went at once")
    words[total] += lacking
    words[queue + Q_HIGH_WATER] = max(words[queue + Q_HIGH_WATER], pending(words, queue))
    words[HIGH_WATER] = max(words[HIGH_WATER], words[PUSHED] - words[GONE])
    words[layout.RECOVERIES] += 1
    words[STATE] = IDLE
