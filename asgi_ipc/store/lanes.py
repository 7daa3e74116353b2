"""Lanes: rings of entries for queues that are used often.

A message in the heap costs a handle, an address and the bookkeeping of its extent. In a
lane it costs one word that moves on: place and count in one store, which no kill can split,
and so needs no journal. Only the counts of the whole store come after it; STATE says
meanwhile whose they are, and `recount` sets them right for who was killed in between.

A lane takes a whole extent, so few queues have one: it is given to a queue that has had
some messages, and taken back when it was not used for a while. A backlog gets more extents
as it grows, and gives each back when it has been read. What a lane has no room for goes to
the queue's list, and all that follows too, until the list is empty. Whoever pushes to a
short list or reads from it sees to that, and moves a few messages from it to the lane.

Everything needs the segment's lock. Queues are given by their address.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from ..engines.base import Popped
from ..exceptions import StoreCorrupt
from .counts import MILLISECOND, pending
from .heap import Heap
from .index import Index
from .journal import Change
from .lane_extents import WORN, LaneExtents, strayed
from .layout import (
    COUNT_SHIFT,
    ENTRY_DEAD,
    ENTRY_LIFETIME_SHIFT,
    ENTRY_SIZE,
    ENTRY_WORDS,
    ENTRY_WRAP,
    EXPIRED,
    GONE,
    HIGH_WATER,
    IDLE,
    KIND_MASK,
    KIND_SHIFT,
    L_STOP,
    L_WORDS,
    PLACE_MASK,
    POPPING,
    PUSHED,
    PUSHING,
    Q_CHAIN,
    Q_EXPIRED,
    Q_HIGH_WATER,
    Q_IN,
    Q_LANE_IN,
    Q_LANE_OUT,
    Q_OUT,
    Q_SOONEST,
    QUEUE,
    RECOVERIES,
    SOONEST,
    STATE,
    WORD,
)

_LONGEST_LIFE = (1 << 32) * MILLISECOND

#: Half the price of the constructor of a named tuple, which others wait for.
_made = tuple.__new__
_pack = Struct("QQ").pack_into
_Unpack = Callable[[memoryview, int], tuple[int, ...]]
#: OUT, HEADS, LANE_IN, IN, BELL, OWNER, HIGH_WATER and SOONEST of a queue.
_busy: _Unpack = Struct("Q8x4Q8x3Q").unpack_from
#: OUT, LANE_OUT, LANE_IN and IN.
_ends: _Unpack = Struct("2Q8x2Q").unpack_from
#: The words that an entry begins with.
_entry: _Unpack = Struct("2Q").unpack_from


class Lanes(LaneExtents):
    """The lanes of a store."""

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
        """Push through the lane of a queue with nothing in its lists, if all is as usual.

        Returns the bell that is armed on the queue, or 0, and -1 if nothing was done.
        """
        words, view = self._words, self._bytes
        out, heads, lane, into, bell, owned, high, soonest = _busy(view, (queue + Q_OUT) * WORD)
        if not lane or heads or (owner and not owned) or into >= WORN:
            return -1
        lifetime = deadline - now
        if not 0 < lifetime < _LONGEST_LIFE:
            return -1
        count = (into >> COUNT_SHIFT) - (out >> COUNT_SHIFT)
        at, oldest, end = into & PLACE_MASK, out & PLACE_MASK, lane + self._extent
        if count >= capacity or not lane < at < end:
            return -1
        size = len(payload)
        stop = at + ENTRY_WORDS + (size + 7 >> 3)
        if stop >= (oldest if at < oldest < end else end):
            length = stop - at
            at = self.place(queue, length)
            if not at:
                return -1
            stop = at + length
        _pack(view, at * WORD, lifetime // MILLISECOND << ENTRY_LIFETIME_SHIFT | size, deadline)
        start = (at + ENTRY_WORDS) * WORD
        view[start : start + size] = payload
        if deadline < soonest:
            # First, as the messages must not expire before these say so.
            words[queue + Q_SOONEST] = deadline
            if deadline < words[SOONEST]:
                words[SOONEST] = deadline
        words[STATE] = PUSHING | queue
        words[queue + Q_IN] = (into >> COUNT_SHIFT) + 1 << COUNT_SHIFT | stop
        words[PUSHED] = total = words[PUSHED] + 1
        if count >= high:
            words[queue + Q_HIGH_WATER] = count + 1
        if total - words[GONE] > words[HIGH_WATER]:
            words[HIGH_WATER] = total - words[GONE]
        words[STATE] = IDLE
        return bell

    def append(
        self, change: Change, queue: int, at: int, payload: bytes, deadline: int, lifetime: int
    ) -> None:
        """Put a message at the end of a lane with ``change``, where `place` says."""
        self._write(at, payload, deadline, lifetime)
        count = (self._words[queue + Q_IN] >> COUNT_SHIFT) + 1
        stop = at + ENTRY_WORDS + (len(payload) + 7 >> 3)
        change[queue + Q_IN] = count << COUNT_SHIFT | stop

    def pop(self, taken: list[Popped], queue: int, room: int, now: int) -> bool:
        """Take the oldest live messages out of a lane, at most ``room``; False if it is empty.

        If a lane has several extents, out of the first.
        """
        words, view = self._words, self._bytes
        out, lane, last, into = _ends(view, (queue + Q_OUT) * WORD)
        if into == out:
            return False
        at, stop = out & PLACE_MASK, into & PLACE_MASK
        end = lane + self._extent
        if lane != last:
            stop = words[lane + L_STOP]
        if not lane < at < end:
            raise strayed()
        gone = expired = 0
        wrapped = False
        while room and at != stop:
            first, deadline = _entry(view, at * WORD)
            if first == ENTRY_WRAP:
                if wrapped:
                    raise strayed()
                wrapped = True
                at = lane + L_WORDS
                continue
            size = first & ENTRY_SIZE
            start = at + ENTRY_WORDS
            following = start + (size + 7 >> 3)
            if following >= end:
                raise strayed()
            if not first & ENTRY_DEAD:
                gone += 1
                if deadline > now:
                    start *= WORD
                    message = view[start : start + size].tobytes()
                    taken.append(_made(Popped, (message, deadline)))
                    room -= 1
                else:
                    expired += 1
            at = following
        count = (out >> COUNT_SHIFT) + gone
        is_left = False
        if at == stop:
            if lane != last:
                is_left = True
            elif count != into >> COUNT_SHIFT:
                raise strayed()
        if expired or is_left:
            change: Change = {
                GONE: words[GONE] + gone,
                queue + Q_EXPIRED: words[queue + Q_EXPIRED] + expired,
                EXPIRED: words[EXPIRED] + expired,
            }
            self.move_out(change, queue, count, at)
            self._heap.commit(change)
        else:
            words[STATE] = POPPING | queue
            words[queue + Q_OUT] = count << COUNT_SHIFT | at
            words[GONE] += gone
            words[STATE] = IDLE
        return True

    def put_first(
        self, change: Change, queue: int, payload: bytes, deadline: int, lifetime: int
    ) -> bool:
        """Put a message that was taken back with ``change``; False if there is no room for it.

        There is where it was taken from, as long as nobody has pushed so much meanwhile.
        """
        words = self._words
        lane, into, out = words[queue + Q_LANE_OUT], words[queue + Q_IN], words[queue + Q_OUT]
        at, oldest = into & PLACE_MASK, out & PLACE_MASK
        if lane != words[queue + Q_LANE_IN]:
            at = words[lane + L_STOP]
        size = len(payload)
        start = oldest - ENTRY_WORDS - (size + 7 >> 3)
        if not out >> COUNT_SHIFT or start < lane + L_WORDS or start <= at < oldest:
            return False
        self._write(start, payload, deadline, lifetime)
        change[queue + Q_OUT] = (out >> COUNT_SHIFT) - 1 << COUNT_SHIFT | start
        return True

    def _write(self, at: int, payload: bytes, deadline: int, lifetime: int) -> None:
        size, start = len(payload), (at + ENTRY_WORDS) * WORD
        _pack(self._bytes, at * WORD, lifetime << ENTRY_LIFETIME_SHIFT | size, deadline)
        self._bytes[start : start + size] = payload


def recount(heap: Heap) -> None:
    """Count the move of an IN or OUT that STATE tells of, whose process was killed at it."""
    words = heap.words
    state = words[STATE]
    queue = state & ~(PUSHING | POPPING)
    if words[queue] >> KIND_SHIFT & KIND_MASK != QUEUE:
        raise StoreCorrupt(f"the state says that a queue is at {queue}, where none is")
    index = Index(heap, Q_CHAIN)
    buckets, _ = index.turn(index.buckets)
    there_are = sum(pending(words, words[heap.end - handle]) for handle in index.records(buckets))
    if state & PUSHING:
        words[PUSHED] = words[GONE] + there_are
    else:
        words[GONE] = words[PUSHED] - there_are
    words[queue + Q_HIGH_WATER] = max(words[queue + Q_HIGH_WATER], pending(words, queue))
    words[HIGH_WATER] = max(words[HIGH_WATER], there_are)
    words[RECOVERIES] += 1
    words[STATE] = IDLE
