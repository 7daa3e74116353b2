"""The extents of lanes: given to a queue, gone through, given back.

An entry goes behind the newest one; at the end of an extent to its beginning, if most of it
has been read, or else to a fresh one. Readers free each that they leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ..exceptions import StoreCorrupt
from .heap import MOVE, Heap
from .index import NEVER
from .journal import Change
from .layout import (
    BACKLOG,
    COUNT_SHIFT,
    ENTRY_DEAD,
    ENTRY_DEADLINE,
    ENTRY_SIZE,
    ENTRY_WORDS,
    ENTRY_WRAP,
    ID_SHIFT,
    L_LATEST,
    L_NEXT,
    L_QUEUE,
    L_SEEN,
    L_STOP,
    L_WORDS,
    LANE,
    LANES,
    PLACE_MASK,
    Q_BYTES,
    Q_GONE,
    Q_IN,
    Q_LANE_IN,
    Q_LANE_OUT,
    Q_OUT,
    Q_PUSHED,
    Q_REACH,
    WORD,
)

#: Messages that a queue has had before it gets a lane.
HOT = 16
#: At most one extent in so many is the one of a lane, which may be nearly empty. Half of
#: these are kept for queues that are read.
_SHARE = 16
#: An entry is small if so many fit into an extent. A larger one may leave much of it empty, so
#: of the extents that lengthen a lane for such there is at most one in so many.
_SMALL_SHARE, _LARGE_SHARE = 64, 32
#: Nanoseconds that an entry may expire before an older one. It keeps its room until that goes.
_SLACK = 1_000_000_000
#: Entries that are looked at before a lane is lengthened; if there are more, some with each
#: message, which goes to the list meanwhile.
_LOOK = 128
#: Above this a lane is exchanged, before its counts overflow.
WORN = 1 << 63


def strayed() -> StoreCorrupt:
    """The error of entries that are none."""
    return StoreCorrupt("an entry of a lane goes beyond it")


class LaneExtents:
    """Which extents the lanes of a store have."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self._words = heap.words
        self._bytes = heap.bytes
        self._extent = heap.geometry.extent_words
        self._most = heap.geometry.extents // _SHARE
        self._most_unread = self._most // 2
        self._most_large = heap.geometry.extents // _LARGE_SHARE
        #: Words of the largest small entry.
        self.small = self._extent // _SMALL_SHARE

    def renew(self, queue: int, is_read: bool) -> None:
        """Give a queue a lane, if it deserves one and has none that works.

        And if one can be had without taking room from anybody.
        """
        words, heap = self._words, self._heap
        if words[queue + Q_LANE_IN]:
            into, out = words[queue + Q_IN], words[queue + Q_OUT]
            if into == out:
                lane = words[queue + Q_LANE_IN]
                words[lane + L_LATEST], words[lane + L_SEEN] = 0, into
            if into < WORN or into >> COUNT_SHIFT != out >> COUNT_SHIFT:
                return
            # With each message one extent: this comes after what the caller came for.
            if not self.drop_one(queue):
                return
        most = self._most if is_read else self._most_unread
        if words[queue + Q_PUSHED] < HOT or words[LANES] >= most:
            return
        change: Change = {LANES: words[LANES] + 1}
        change[queue + Q_BYTES] = words[queue + Q_BYTES] + self._extent * WORD
        lane = self._fresh(change, queue)
        if lane:
            place = lane + L_WORDS
            change |= dict.fromkeys((queue + Q_LANE_IN, queue + Q_LANE_OUT), lane)
            change |= dict.fromkeys((queue + Q_IN, queue + Q_OUT), place)
            heap.commit(change)

    def _fresh(self, change: Change, queue: int) -> int:
        """An extent that is a queue's with ``change``, or 0: none is to be had."""
        lane = self._heap.add_extent(change, LANE, self._words[queue] >> ID_SHIFT)
        # Beyond that, in a store of more than 32 GiB, IN and OUT can't say where they are.
        if not 0 < lane <= PLACE_MASK - self._extent:
            return 0
        words = self._words
        words[lane + L_LATEST] = 0
        words[lane + L_SEEN] = words[queue + Q_IN] & ~PLACE_MASK | lane + L_WORDS
        return lane

    def entries(self, queue: int, at: int = 0) -> Iterator[tuple[int, int]]:
        """Where each entry is, oldest first, and where the one after it would be.

        ``at`` is the place to begin at, which must not have been left behind.
        """
        words = self._words
        lane, last = words[queue + Q_LANE_OUT], words[queue + Q_LANE_IN]
        if at:
            lane = self._heap.extent_of(at)
        else:
            at = words[queue + Q_OUT] & PLACE_MASK
        for _ in range(self._heap.geometry.extents):
            if lane == last:
                break
            if words[lane + L_QUEUE] != words[queue] >> ID_SHIFT:
                raise strayed()
            # Read before, as it may be left and freed meanwhile.
            following = words[lane + L_NEXT]
            yield from self._entries_of(lane, at, words[lane + L_STOP])
            lane, at = following, following + L_WORDS
        if lane:
            if words[last + L_QUEUE] != words[queue] >> ID_SHIFT:
                raise strayed()
            yield from self._entries_of(last, at, words[queue + Q_IN] & PLACE_MASK)

    def _entries_of(self, lane: int, at: int, stop: int) -> Iterator[tuple[int, int]]:
        """Those of one extent, from one place to another."""
        words, end = self._words, lane + self._extent
        if not lane < at < end:
            raise strayed()
        wrapped = False
        while at != stop:
            first = words[at]
            if first == ENTRY_WRAP and not wrapped:
                wrapped = True
                at = lane + L_WORDS
                continue
            following = at + ENTRY_WORDS + ((first & ENTRY_SIZE) + 7 >> 3)
            if following >= end:
                raise strayed()
            yield at, following
            at = following

    def drop(self, queue: int) -> None:
        """Take the lane of a queue back. There must be nothing live in it. May `Pause`."""
        while not self.drop_one(queue):
            self._heap.spend(MOVE)

    def drop_one(self, queue: int) -> bool:
        """Take back the first extent of a lane with nothing live; True: it was the only one."""
        words, heap = self._words, self._heap
        if words[queue + Q_LANE_OUT] != words[queue + Q_LANE_IN]:
            left: Change = {}
            self._leave(left, queue, words[queue + Q_OUT])
            heap.commit(left)
            return False
        change: Change = {
            queue + Q_PUSHED: words[queue + Q_PUSHED] + (words[queue + Q_IN] >> COUNT_SHIFT),
            queue + Q_GONE: words[queue + Q_GONE] + (words[queue + Q_OUT] >> COUNT_SHIFT),
            queue + Q_BYTES: words[queue + Q_BYTES] - self._extent * WORD,
            queue + Q_REACH: 0,
            LANES: words[LANES] - 1,
        }
        heap.free(change, words[words[queue + Q_LANE_IN]] >> ID_SHIFT)
        change |= dict.fromkeys(
            (queue + Q_LANE_IN, queue + Q_LANE_OUT, queue + Q_IN, queue + Q_OUT), 0
        )
        heap.commit(change)
        return True

    def place(self, queue: int, length: int) -> int:
        """Where the next entry goes if it has that many words; 0 if nowhere."""
        words, extent = self._words, self._extent
        lane, at = words[queue + Q_LANE_IN], words[queue + Q_IN] & PLACE_MASK
        start, oldest = lane + L_WORDS, words[queue + Q_OUT] & PLACE_MASK
        if at + length < (oldest if at < oldest < lane + extent else lane + extent):
            return at
        if length >= extent - L_WORDS:
            return 0
        room = oldest - start if start <= oldest <= at else 0
        # A queue that is read as fast as it is filled goes round in warm memory.
        if room < extent // 2 and at != oldest:
            place = self._lengthen(queue, length)
            if place:
                return place
        if length >= room:
            return 0
        words[at] = ENTRY_WRAP
        return start

    def _lengthen(self, queue: int, length: int) -> int:
        """Go on in a fresh extent; where the entry of so many words goes there, or 0."""
        words = self._words
        if length > self.small and words[BACKLOG] >= self._most_large:
            return 0
        held = words[queue + Q_BYTES] + self._extent * WORD
        if self._heap.is_over_share(held, self._extent):
            return 0
        latest = self._latest(queue)
        if latest == NEVER:
            return 0
        change: Change = {BACKLOG: words[BACKLOG] + 1, queue + Q_BYTES: held}
        following = self._fresh(change, queue)
        if not following:
            return 0
        lane, into, place = words[queue + Q_LANE_IN], words[queue + Q_IN], following + L_WORDS
        # These have no meaning until the change gives the lane a next extent.
        words[lane + L_NEXT], words[lane + L_STOP] = following, into & PLACE_MASK
        words[following + L_LATEST] = latest
        change[queue + Q_LANE_IN] = following
        change[queue + Q_IN] = into & ~PLACE_MASK | place
        self._heap.commit(change)
        return place

    def _latest(self, queue: int) -> int:
        """When the last of a lane expires, or NEVER if some expire long before older ones.

        Those would keep room that they need no more. In a list they do not. NEVER also if there
        is more to look at than is done at a time.
        """
        words = self._words
        lane, stop = words[queue + Q_LANE_IN], words[queue + Q_IN] & PLACE_MASK
        latest = words[lane + L_LATEST]
        if latest == NEVER:
            return NEVER
        out, seen = words[queue + Q_OUT], words[lane + L_SEEN]
        if lane == words[queue + Q_LANE_OUT]:
            if out >> COUNT_SHIFT >= seen >> COUNT_SHIFT:
                seen = out  # What was seen has been read, and maybe written over.
        elif not seen:
            seen = out & ~PLACE_MASK | lane + L_WORDS
        count, seen = seen >> COUNT_SHIFT, seen & PLACE_MASK
        for at, following in islice(self._entries_of(lane, seen, stop), _LOOK):
            deadline = words[at + ENTRY_DEADLINE]
            count += not words[at] & ENTRY_DEAD
            if deadline + _SLACK < latest:
                # Not looked for again with each message, until the lane is empty.
                words[lane + L_LATEST] = NEVER
                return NEVER
            latest = max(latest, deadline)
            seen = following
        # One change: what was passed must have been seen.
        self._heap.commit({lane + L_LATEST: latest, lane + L_SEEN: count << COUNT_SHIFT | seen})
        return latest if seen == stop else NEVER

    def forget_places(self, change: Change, queue: int) -> None:
        """Have the searches in a lane begin anew: with ``change`` the counts of OUT are others."""
        change[queue + Q_REACH] = 0
        lane = self._words[queue + Q_LANE_IN]
        if lane:
            change[lane + L_SEEN] = 0

    def _leave(self, change: Change, queue: int, out: int) -> None:
        """Go from the extent that OUT is in to the next one with ``change``, and free it."""
        words = self._words
        lane = words[queue + Q_LANE_OUT]
        following = words[lane + L_NEXT]
        if words[following + L_QUEUE] != words[queue] >> ID_SHIFT:
            raise strayed()
        change[queue + Q_LANE_OUT] = following
        change[queue + Q_OUT] = out & ~PLACE_MASK | following + L_WORDS
        change[BACKLOG] = words[BACKLOG] - 1
        change[queue + Q_BYTES] = words[queue + Q_BYTES] - self._extent * WORD
        self._heap.free(change, words[lane] >> ID_SHIFT)

    def move_out(self, change: Change, queue: int, count: int, place: int) -> None:
        """Set OUT with ``change``, to the oldest entry's end or behind entries that are dead."""
        words = self._words
        lane = words[queue + Q_LANE_OUT]
        change[queue + Q_OUT] = out = count << COUNT_SHIFT | place
        if lane != words[queue + Q_LANE_IN] and place == words[lane + L_STOP]:
            self._leave(change, queue, out)
