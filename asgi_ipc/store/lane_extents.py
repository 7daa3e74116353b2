"""The extents of lanes: given to a queue, gone through, given back.

An entry goes behind the newest one; at the end of an extent to its beginning, if most of it
has been read, or else to a fresh one. Readers free each that they leave.
"""

from __future__ import annotations

from ..exceptions import StoreCorrupt
from .heap import Heap
from .journal import Change
from .layout import (
    COUNT_SHIFT,
    ENTRY_WRAP,
    ID_SHIFT,
    L_NEXT,
    L_QUEUE,
    L_STOP,
    L_WORDS,
    LANE,
    LANES,
    PLACE_MASK,
    Q_GONE,
    Q_IN,
    Q_LANE_IN,
    Q_LANE_OUT,
    Q_OUT,
    Q_PUSHED,
)

#: Messages that a queue has had before it gets a lane.
HOT = 16
#: At most one extent in so many belongs to a lane.
_SHARE = 16
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

    def renew(self, queue: int) -> None:
        """Give a queue a lane, if it deserves one and has none that works.

        And if one can be had without taking room from anybody.
        """
        words, heap = self._words, self._heap
        if words[queue + Q_LANE_IN]:
            into, out = words[queue + Q_IN], words[queue + Q_OUT]
            if into < WORN or into >> COUNT_SHIFT != out >> COUNT_SHIFT:
                return
            self.drop(queue)
        if words[queue + Q_PUSHED] < HOT or words[LANES] >= self._most:
            return
        change: Change = {}
        lane = self._add(change, queue)
        if lane:
            change |= {queue + Q_LANE_OUT: lane, queue + Q_OUT: lane + L_WORDS}
            heap.commit(change)

    def _add(self, change: Change, queue: int) -> int:
        """One more extent, for what comes into a lane from ``change`` on; 0: none to be had."""
        words = self._words
        lane = self._heap.add_extent(change, LANE, words[queue] >> ID_SHIFT)
        # Beyond that, in a store of more than 32 GiB, IN and OUT can't say where they are.
        if not 0 < lane <= PLACE_MASK - self._extent:
            return 0
        change[LANES] = words[LANES] + 1
        change[queue + Q_LANE_IN] = lane
        change[queue + Q_IN] = words[queue + Q_IN] & ~PLACE_MASK | lane + L_WORDS
        return lane

    def drop(self, queue: int) -> None:
        """Take the lane of a queue back. There must be nothing live in it."""
        words, heap = self._words, self._heap
        while words[queue + Q_LANE_OUT] != words[queue + Q_LANE_IN]:
            change: Change = {}
            self._leave(change, queue, words[queue + Q_OUT])
            heap.commit(change)
        change = {
            queue + Q_PUSHED: words[queue + Q_PUSHED] + (words[queue + Q_IN] >> COUNT_SHIFT),
            queue + Q_GONE: words[queue + Q_GONE] + (words[queue + Q_OUT] >> COUNT_SHIFT),
            LANES: words[LANES] - 1,
        }
        heap.free(change, words[words[queue + Q_LANE_IN]] >> ID_SHIFT)
        change |= dict.fromkeys(
            (queue + Q_LANE_IN, queue + Q_LANE_OUT, queue + Q_IN, queue + Q_OUT), 0
        )
        heap.commit(change)

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
        if room < extent // 2 and at != oldest and 2 * words[LANES] < self._most:
            change: Change = {}
            following = self._add(change, queue)
            if following:
                # These have no meaning until the change gives the lane a next extent.
                words[lane + L_NEXT], words[lane + L_STOP] = following, at
                self._heap.commit(change)
                return following + L_WORDS
        if length >= room:
            return 0
        words[at] = ENTRY_WRAP
        return start

    def _leave(self, change: Change, queue: int, out: int) -> None:
        """Go from the extent that OUT is in to the next one with ``change``, and free it."""
        words = self._words
        lane = words[queue + Q_LANE_OUT]
        following = words[lane + L_NEXT]
        if words[following + L_QUEUE] != words[queue] >> ID_SHIFT:
            raise strayed()
        change[queue + Q_LANE_OUT] = following
        change[queue + Q_OUT] = out & ~PLACE_MASK | following + L_WORDS
        change[LANES] = words[LANES] - 1
        self._heap.free(change, words[lane] >> ID_SHIFT)

    def move_out(self, change: Change, queue: int, count: int, place: int) -> None:
        """Set OUT with ``change``, to the oldest entry's end or behind entries that are dead."""
        words = self._words
        lane = words[queue + Q_LANE_OUT]
        change[queue + Q_OUT] = out = count << COUNT_SHIFT | place
        if lane != words[queue + Q_LANE_IN] and place == words[lane + L_STOP]:
            self._leave(change, queue, out)

    def move_in(self, change: Change, queue: int, count: int, place: int) -> None:
        """Set IN back to the beginning of the newest entry with ``change``."""
        words = self._words
        lane = words[queue + Q_LANE_IN]
        change[queue + Q_IN] = count << COUNT_SHIFT | place
        if not lane < place < lane + self._extent:
            change[queue + Q_LANE_IN] = self._heap.extent_of(place)
            change[LANES] = words[LANES] - 1
            self._heap.free(change, words[lane] >> ID_SHIFT)
