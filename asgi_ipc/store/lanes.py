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
    ENTRY_DEADLINE,
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
    Q_BUSY,
    Q_CHAIN,
    Q_EXPIRED,
    Q_GONE,
    Q_HIGH_WATER,
    Q_IN,
    Q_LANE_IN,
    Q_OUT,
    Q_PUSHED,
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
_busy_words: _Unpack = Struct(f"{Q_BUSY}Q").unpack_from
#: From LANE_IN to LANE_OUT, and the words that an entry begins with.
_ends: _Unpack = Struct("4Q").unpack_from
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
        """Push through the lane of a queue without a list, if all is as it usually is.

        Returns the bell that is armed on the queue, or 0, and -1 if nothing was done.
        """
        words, view = self._words, self._bytes
        lane, into, out, _, bell, _, owned, high, soonest = _busy_words(
            view, (queue + Q_LANE_IN) * WORD
        )
        lifetime = deadline - now
        if not lane or (owner and not owned) or into >= WORN or not 0 < lifetime < _LONGEST_LIFE:
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
        self, change: Change, queue: int, payload: bytes, deadline: int, lifetime: int
    ) -> bool:
        """Put a message at the end of a lane with ``change``; False if there is no room."""
        words = self._words
        size = len(payload)
        length = ENTRY_WORDS + (size + 7 >> 3)
        if words[queue + Q_IN] >= WORN:
            return False
        at = self.place(queue, length)
        if not at:
            return False
        self._write(at, payload, deadline, lifetime)
        count = (words[queue + Q_IN] >> COUNT_SHIFT) + 1
        change[queue + Q_IN] = count << COUNT_SHIFT | at + length
        return True

    def pop(self, taken: list[Popped], queue: int, room: int, now: int) -> bool:
        """Take the oldest live messages out of a lane, at most ``room``; False if it is empty.

        If a lane has several extents, out of the first.
        """
        words, view = self._words, self._bytes
        last, into, out, lane = _ends(view, (queue + Q_LANE_IN) * WORD)
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
        if at == stop and lane == last and count != into >> COUNT_SHIFT:
            raise strayed()
        if expired or (at == stop and lane != last):
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
        """Put a message that was taken back with ``change``; False if there is no room for it."""
        words = self._words
        place = self.place_in_front(change, queue, ENTRY_WORDS + (len(payload) + 7 >> 3))
        if not place:
            return False
        self._write(place, payload, deadline, lifetime)
        count = words[queue + Q_OUT] >> COUNT_SHIFT
        if not count:
            # It came through the list, or a queue of before: now it came through the lane.
            change[queue + Q_IN] = words[queue + Q_IN] + (1 << COUNT_SHIFT)
            count = 1
            if words[queue + Q_GONE]:
                change[queue + Q_GONE] = words[queue + Q_GONE] - 1
                change[queue + Q_PUSHED] = words[queue + Q_PUSHED] - 1
        change[queue + Q_OUT] = count - 1 << COUNT_SHIFT | place
        return True

    # ---- entries

    def _write(self, at: int, payload: bytes, deadline: int, lifetime: int) -> None:
        size, start = len(payload), (at + ENTRY_WORDS) * WORD
        _pack(self._bytes, at * WORD, lifetime << ENTRY_LIFETIME_SHIFT | size, deadline)
        self._bytes[start : start + size] = payload

    def read(self, at: int) -> tuple[bytes, int, int]:
        """Message, deadline and lifetime (milliseconds) of an entry."""
        words = self._words
        start = (at + ENTRY_WORDS) * WORD
        size = words[at] & ENTRY_SIZE
        payload = self._bytes[start : start + size].tobytes()
        return payload, words[at + ENTRY_DEADLINE], words[at] >> ENTRY_LIFETIME_SHIFT


def recount(heap: Heap) -> None:
    """Count the move of an IN or OUT that STATE tells of, whose process was killed at it."""
    words = heap.words
    state = words[STATE]
    queue = state & ~(PUSHING | POPPING)
    if words[queue] >> KIND_SHIFT & KIND_MASK != QUEUE:
        raise StoreCorrupt(f"the state says that a queue is at {queue}, where none is")
    index = Index(heap, Q_CHAIN)
    buckets, _ = index.turn(index.buckets)
    there_are = sum(
        pending(words, words[heap.end - handle])
        for bucket in buckets
        for handle in index.chain(bucket)
    )
    if state & PUSHING:
        words[PUSHED] = words[GONE] + there_are
    else:
        words[GONE] = words[PUSHED] - there_are
    words[queue + Q_HIGH_WATER] = max(words[queue + Q_HIGH_WATER], pending(words, queue))
    words[HIGH_WATER] = max(words[HIGH_WATER], there_are)
    words[RECOVERIES] += 1
    words[STATE] = IDLE
