"""The extents of rings: given to a queue, gone through, given back.

An entry goes behind the newest one; at the end of an extent to its beginning, if most of it
has been read, or else to a fresh one. Readers free each that they leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from asgi_ipc.exceptions import StoreCorrupt

from ..heap import layout
from ..heap.hash_table import NEVER
from ..heap.heap import MOVE, Heap
from ..heap.journal import Change
from ..heap.layout import OFFSET_MASK, WORD

#: Messages that a queue has had before it gets a ring.
HOT = 16
#: At most one extent in so many is the one of a ring, which may be nearly empty. Half of
#: these are kept for queues that are read.
_SHARE = 16
#: An entry is small if so many fit into an extent. A larger one may leave much of it empty, so
#: of the extents that lengthen a ring for such there is at most one in so many.
_SMALL_SHARE, _LARGE_SHARE = 64, 32
#: Nanoseconds that an entry may expire before an older one. It keeps its room until that goes.
_SLACK = 1_000_000_000
#: Entries that are looked at before a ring is lengthened; if there are more, some with each
#: message, which goes to the list meanwhile.
_LOOK = 128
#: Above this a ring is exchanged, before its counts overflow.
WORN = 1 << 63


def strayed() -> StoreCorrupt:
    """The error of entries that are none."""
    return StoreCorrupt("an entry of a ring goes beyond it")


class RingExtents:
    """Which extents the rings of a store have."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self._words = heap.words
        self._extent = heap.geometry.extent_words
        self._most = heap.geometry.extents // _SHARE
        self._most_unread = self._most // 2
        self._most_large = heap.geometry.extents // _LARGE_SHARE
        #: Words of the largest small entry.
        self.small = self._extent // _SMALL_SHARE

    def renew(self, queue: int, is_read: bool) -> None:
        """Give a queue a ring, if it deserves one and has none that works.

        Only if one can be had without taking room from other records.
        """
        words, heap = self._words, self._heap
        if words[queue + layout.Q_RING_IN]:
            into, out = words[queue + layout.Q_IN], words[queue + layout.Q_OUT]
            if into == out:
                ring = words[queue + layout.Q_RING_IN]
                words[ring + layout.L_LATEST], words[ring + layout.L_SEEN] = 0, into
            if into < WORN or into >> layout.COUNT_SHIFT != out >> layout.COUNT_SHIFT:
                return
            # With each message one extent: this comes after what the caller came for.
            if not self.drop_one(queue):
                return
        most = self._most if is_read else self._most_unread
        if words[queue + layout.Q_PUSHED] < HOT or words[layout.RINGS] >= most:
            return
        change: Change = {layout.RINGS: words[layout.RINGS] + 1}
        change[queue + layout.Q_BYTES] = words[queue + layout.Q_BYTES] + self._extent * WORD
        ring = self._fresh(change, queue)
        if ring:
            offset = ring + layout.L_WORDS
            change |= dict.fromkeys((queue + layout.Q_RING_IN, queue + layout.Q_RING_OUT), ring)
            change |= dict.fromkeys((queue + layout.Q_IN, queue + layout.Q_OUT), offset)
            heap.commit(change)

    def _fresh(self, change: Change, queue: int) -> int:
        """An extent that is a queue's with ``change``, or 0: none is to be had."""
        ring = self._heap.add_extent(change, layout.RING, self._words[queue] >> layout.ID_SHIFT)
        # Beyond that, in a store of more than 32 GiB, IN and OUT can't say where they are.
        if not 0 < ring <= OFFSET_MASK - self._extent:
            return 0
        words = self._words
        words[ring + layout.L_LATEST] = 0
        words[ring + layout.L_SEEN] = (
            words[queue + layout.Q_IN] & ~OFFSET_MASK | ring + layout.L_WORDS
        )
        return ring

    def entries(self, queue: int, at: int = 0) -> Iterator[tuple[int, int]]:
        """Where each entry is, oldest first, and where the one after it would be.

        ``at`` is the offset to begin at, which must not have been left behind.
        """
        words = self._words
        ring, last = words[queue + layout.Q_RING_OUT], words[queue + layout.Q_RING_IN]
        if at:
            ring = self._heap.log.extent_of(at)
        else:
            at = words[queue + layout.Q_OUT] & OFFSET_MASK
        for _ in range(self._heap.geometry.extents):
            if ring == last:
                break
            if words[ring + layout.L_QUEUE] != words[queue] >> layout.ID_SHIFT:
                raise strayed()
            # Read before, as it may be left and freed meanwhile.
            following = words[ring + layout.L_NEXT]
            yield from self.entries_of(ring, at, words[ring + layout.L_STOP])
            ring, at = following, following + layout.L_WORDS
        if ring:
            if words[last + layout.L_QUEUE] != words[queue] >> layout.ID_SHIFT:
                raise strayed()
            yield from self.entries_of(last, at, words[queue + layout.Q_IN] & OFFSET_MASK)

    def entries_of(self, ring: int, at: int, stop: int) -> Iterator[tuple[int, int]]:
        """The entries of one extent, from one offset to another."""
        words, end = self._words, ring + self._extent
        if not ring < at < end:
            raise strayed()
        wrapped = False
        while at != stop:
            first = words[at]
            if first == layout.ENTRY_WRAP and not wrapped:
                wrapped = True
                at = ring + layout.L_WORDS
                continue
            following = at + layout.ENTRY_WORDS + ((first & layout.ENTRY_SIZE) + 7 >> 3)
            if following >= end:
                raise strayed()
            yield at, following
            at = following

    def drop(self, queue: int) -> None:
        """Take the ring of a queue back. There must be nothing live in it. May `Pause`."""
        while not self.drop_one(queue):
            self._heap.spend(MOVE)

    def drop_one(self, queue: int) -> bool:
        """Take back the first extent of a ring with nothing live; True: it was the only one."""
        words, heap = self._words, self._heap
        if words[queue + layout.Q_RING_OUT] != words[queue + layout.Q_RING_IN]:
            left: Change = {}
            self._leave(left, queue, words[queue + layout.Q_OUT])
            heap.commit(left)
            return False
        change: Change = {
            queue + layout.Q_PUSHED: words[queue + layout.Q_PUSHED]
            + (words[queue + layout.Q_IN] >> layout.COUNT_SHIFT),
            queue + layout.Q_GONE: words[queue + layout.Q_GONE]
            + (words[queue + layout.Q_OUT] >> layout.COUNT_SHIFT),
            queue + layout.Q_BYTES: words[queue + layout.Q_BYTES] - self._extent * WORD,
            queue + layout.Q_REACH: 0,
            layout.RINGS: words[layout.RINGS] - 1,
        }
        heap.free(change, words[words[queue + layout.Q_RING_IN]] >> layout.ID_SHIFT)
        change |= dict.fromkeys(
            (
                queue + layout.Q_RING_IN,
                queue + layout.Q_RING_OUT,
                queue + layout.Q_IN,
                queue + layout.Q_OUT,
            ),
            0,
        )
        heap.commit(change)
        return True

    def offset(self, queue: int, length: int) -> int:
        """Where the next entry goes if it has that many words; 0 if nowhere."""
        words, extent = self._words, self._extent
        ring, at = words[queue + layout.Q_RING_IN], words[queue + layout.Q_IN] & OFFSET_MASK
        start, oldest = ring + layout.L_WORDS, words[queue + layout.Q_OUT] & OFFSET_MASK
        if at + length < (oldest if at < oldest < ring + extent else ring + extent):
            return at
        if length >= extent - layout.L_WORDS:
            return 0
        room = oldest - start if start <= oldest <= at else 0
        # A queue that is read as fast as it is filled goes round in warm memory.
        if room < extent // 2 and at != oldest:
            offset = self._lengthen(queue, length)
            if offset:
                return offset
        if length >= room:
            return 0
        words[at] = layout.ENTRY_WRAP
        return start

    def _lengthen(self, queue: int, length: int) -> int:
        """Go on in a fresh extent; where the entry of so many words goes there, or 0."""
        words = self._words
        if length > self.small and words[layout.BACKLOG] >= self._most_large:
            return 0
        held = words[queue + layout.Q_BYTES] + self._extent * WORD
        if self._heap.is_over_share(held, self._extent):
            return 0
        latest = self._latest(queue)
        if latest == NEVER:
            return 0
        change: Change = {layout.BACKLOG: words[layout.BACKLOG] + 1, queue + layout.Q_BYTES: held}
        following = self._fresh(change, queue)
        if not following:
            return 0
        ring, into, offset = (
            words[queue + layout.Q_RING_IN],
            words[queue + layout.Q_IN],
            following + layout.L_WORDS,
        )
        # These have no meaning until the change gives the ring a next extent.
        words[ring + layout.L_NEXT], words[ring + layout.L_STOP] = (
            following,
            into & OFFSET_MASK,
        )
        words[following + layout.L_LATEST] = latest
        change[queue + layout.Q_RING_IN] = following
        change[queue + layout.Q_IN] = into & ~OFFSET_MASK | offset
        self._heap.commit(change)
        return offset

    def _latest(self, queue: int) -> int:
        """When the last of a ring expires, or NEVER if some expire long before older ones.

        Those would keep room that they need no more. In a list they do not. NEVER also if there
        is more to look at than is done at a time.
        """
        words = self._words
        ring, stop = (
            words[queue + layout.Q_RING_IN],
            words[queue + layout.Q_IN] & OFFSET_MASK,
        )
        latest = words[ring + layout.L_LATEST]
        if latest == NEVER:
            return NEVER
        out, seen = words[queue + layout.Q_OUT], words[ring + layout.L_SEEN]
        if ring == words[queue + layout.Q_RING_OUT]:
            if out >> layout.COUNT_SHIFT >= seen >> layout.COUNT_SHIFT:
                seen = out  # What was seen has been read, and maybe written over.
        elif not seen:
            seen = out & ~OFFSET_MASK | ring + layout.L_WORDS
        count, seen = seen >> layout.COUNT_SHIFT, seen & OFFSET_MASK
        for at, following in islice(self.entries_of(ring, seen, stop), _LOOK):
            deadline = words[at + layout.ENTRY_DEADLINE]
            count += not words[at] & layout.ENTRY_DEAD
            if deadline + _SLACK < latest:
                # Not looked for again with each message, until the ring is empty.
                words[ring + layout.L_LATEST] = NEVER
                return NEVER
            latest = max(latest, deadline)
            seen = following
        # One change: what was passed must have been seen.
        self._heap.commit(
            {
                ring + layout.L_LATEST: latest,
                ring + layout.L_SEEN: count << layout.COUNT_SHIFT | seen,
            }
        )
        return latest if seen == stop else NEVER

    def forget_offsets(self, change: Change, queue: int) -> None:
        """Have the searches in a ring begin anew: with ``change`` the counts of OUT are others."""
        change[queue + layout.Q_REACH] = 0
        ring = self._words[queue + layout.Q_RING_IN]
        if ring:
            change[ring + layout.L_SEEN] = 0

    def _leave(self, change: Change, queue: int, out: int) -> None:
        """Go from the extent that OUT is in to the next one with ``change``, and free it."""
        words = self._words
        ring = words[queue + layout.Q_RING_OUT]
        following = words[ring + layout.L_NEXT]
        if words[following + layout.L_QUEUE] != words[queue] >> layout.ID_SHIFT:
            raise strayed()
        change[queue + layout.Q_RING_OUT] = following
        change[queue + layout.Q_OUT] = out & ~OFFSET_MASK | following + layout.L_WORDS
        change[layout.BACKLOG] = words[layout.BACKLOG] - 1
        change[queue + layout.Q_BYTES] = words[queue + layout.Q_BYTES] - self._extent * WORD
        self._heap.free(change, words[ring] >> layout.ID_SHIFT)

    def move_out(self, change: Change, queue: int, count: int, offset: int) -> None:
        """Set OUT with ``change``, to the oldest entry's end or behind entries that are dead."""
        words = self._words
        ring = words[queue + layout.Q_RING_OUT]
        change[queue + layout.Q_OUT] = out = count << layout.COUNT_SHIFT | offset
        if ring != words[queue + layout.Q_RING_IN] and offset == words[ring + layout.L_STOP]:
            self._leave(change, queue, out)
