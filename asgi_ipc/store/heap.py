"""Room for records: a `Log` that grows, and is cleaned where it can't.

When no extent is free and none can be reserved, the extent with the least live data is
*cleaned*: its live records move to the end of the log. Moving changes one word, the
handle, and makes every hole usable in the end: there is no fragmentation that could
refuse a record while there is room for it.

Everything here needs the segment's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..exceptions import StoreCorrupt
from .journal import Change
from .layout import (
    CURSOR,
    CURSOR_END,
    EXTENTS_USED,
    FILLER,
    FREE,
    FREE_EXTENT,
    FREE_EXTENTS,
    FREE_ID,
    HEADER_WORDS,
    ID_SHIFT,
    IDS_RESERVED,
    IDS_USED,
    KIND_MASK,
    KIND_SHIFT,
    LENGTH_MASK,
    PAD_MASK,
    PAD_SHIFT,
    SPLIT,
    WORD,
    Geometry,
)
from .log import WORTH_SPLITTING, Log

#: Handles are reserved this many at a time: a page.
_IDS_STEP = 512


class NoRoom(Exception):
    """The segment is full. The argument is the OSError of the last `reserve`, or None."""


class Heap(Log):
    """The records of one segment, and room for more.

    ``reserve(offset, length)`` makes bytes of the segment usable or raises OSError.
    """

    def __init__(
        self, view: memoryview, geometry: Geometry, reserve: Callable[[int, int], None]
    ) -> None:
        super().__init__(view, geometry)
        self._reserve = reserve
        self._refusal: OSError | None = None

    def room_for(self, length: int) -> None:
        """Make room for one record of ``length`` words, cleaning if need be, or raise `NoRoom`.

        Must come before the change that calls `add`.
        """
        if self.fits(length):
            return
        words = self.words
        self._refusal = None
        if length > self._cleanable():
            raise NoRoom(None)
        for _ in range(4 * self.geometry.extents + 4):
            extents = self._extents_for(length)
            if not self._has_ids(extents + 1):
                self._reserve_ids(extents + 1)
            # One extent stays free: cleaning needs somewhere to move things to.
            if not extents or words[FREE_EXTENTS] > extents:
                return
            if not self._grow() and not self._clean():
                break
        raise NoRoom(self._refusal)

    def _extents_for(self, length: int) -> int:
        """How many fresh extents a record may need besides the rest of the current one."""
        rest = self.words[CURSOR_END] - self.words[CURSOR]
        if length <= rest:
            return 0
        if rest < WORTH_SPLITTING:
            rest = 0
        # Each further extent carries a META and a link besides the data.
        return -(-(length - rest) // (self._extent - 2))

    def _has_ids(self, count: int) -> bool:
        """True if ``count`` handles can be taken as things are."""
        words = self.words
        left = words[IDS_RESERVED] - words[IDS_USED]
        if left < 0:
            raise StoreCorrupt(f"{-left} handles more are used than are reserved")
        count -= left
        handle = words[FREE_ID]
        while count > 0 and handle:
            handle = words[self.end - handle] & ~FREE
            count -= 1
        return count <= 0

    def add_extent(self, change: Change, kind: int, field: int) -> int:
        """A record that fills a free extent, to be live with ``change``; its address, or 0.

        It holds one field and what its owner writes behind it, and stays where it is: an
        extent without dead words is never cleaned. 0 if there is none to spare.
        """
        words = self.words
        # One stays free for cleaning.
        while words[FREE_EXTENTS] < 2:
            if not self._grow():
                return 0
        handle = words[FREE_ID]
        if not handle and words[IDS_USED] >= words[IDS_RESERVED]:
            return 0
        if handle:
            change[FREE_ID] = words[self.end - handle] & ~FREE
        else:
            handle = words[IDS_USED] + 1
            change[IDS_USED] = handle
        extent = words[FREE_EXTENT] - 1
        change[FREE_EXTENT] = words[self._next + extent]
        change[FREE_EXTENTS] = words[FREE_EXTENTS] - 1
        change[self._live + extent] = self._extent
        address = self._first + extent * self._extent
        words[address] = self._extent | kind << KIND_SHIFT | handle << ID_SHIFT
        words[address + 1] = field
        change[self.end - handle] = address
        return address

    # ---- growing

    def _grow(self) -> bool:
        """Reserve one more extent; False if there is none or the system refuses."""
        words = self.words
        extent = words[EXTENTS_USED]
        start = self._first + extent * self._extent
        if start + self._extent > self.end - max(words[IDS_RESERVED], self.end // 16):
            return False
        try:
            self._reserve(start * WORD, self._extent * WORD)
        except OSError as error:
            self._refusal = error
            return False
        change: Change = {EXTENTS_USED: extent + 1}
        self._set_free(change, extent)
        self.commit(change)
        return True

    def _reserve_ids(self, count: int) -> None:
        """Reserve at least ``count`` more handles."""
        words = self.words
        have = words[IDS_RESERVED]
        want = have + -(-count // _IDS_STEP) * _IDS_STEP
        start = self.end - want
        if start <= self._first + words[EXTENTS_USED] * self._extent:
            raise NoRoom(None)
        try:
            self._reserve(start * WORD, (want - have) * WORD)
        except OSError as error:
            raise NoRoom(error) from error
        self.commit({IDS_RESERVED: want})

    # ---- cleaning

    def _cleanable(self) -> int:
        """How many words free extents, growing and cleaning could give, at the very most."""
        words = self.words
        lives = self._lives()
        top = self.end - max(words[IDS_RESERVED], self.end // 16)
        extents = max(len(lives), (top - self._first) // self._extent)
        # One extent stays free for cleaning.
        return (extents - 1) * self._extent - sum(lives)

    def _clean(self) -> bool:
        """Move what is live out of the extent with the most dead words; False: not worth it."""
        words = self.words
        current = self._current()
        gains = [self._extent - live if live else 0 for live in self._lives()]
        if current >= 0:
            # What lies behind the cursor is not dead but still to be used.
            gains[current] -= words[CURSOR_END] - words[CURSOR]
        gain, extent = max(zip(gains, range(len(gains)), strict=True), default=(0, -1))
        if gain < self._extent // 16 or not words[FREE_EXTENTS]:
            return False
        if extent == current:
            self._turn_to_fresh_extent()
        for address in self._walk(extent):
            change: Change = {}
            self._move(change, address)
            self.commit(change)
            if not words[self._live + extent]:
                break
        return True

    def _turn_to_fresh_extent(self) -> None:
        """Leave the current extent as it is and go on in a free one."""
        words = self.words
        rest = words[CURSOR_END] - words[CURSOR]
        if rest:
            words[words[CURSOR]] = rest | FILLER << KIND_SHIFT
        extent = words[FREE_EXTENT] - 1
        start = self._first + extent * self._extent
        self.commit(
            {
                FREE_EXTENT: words[self._next + extent],
                FREE_EXTENTS: words[FREE_EXTENTS] - 1,
                CURSOR: start,
                CURSOR_END: start + self._extent,
            }
        )

    def _walk(self, extent: int) -> Iterator[int]:
        """The addresses of the live records of an extent."""
        words = self.words
        address = self._first + extent * self._extent
        stop = address + self._extent
        while address < stop:
            meta = words[address]
            length = meta & LENGTH_MASK
            if not length:
                raise StoreCorrupt(f"extent {extent} has a record of no length")
            handle = meta >> ID_SHIFT
            if handle and words[self.end - handle] == address:
                yield address
            address += length

    def _move(self, change: Change, address: int) -> None:
        """Copy a record to the end of the log, to be live there with ``change``."""
        words, view = self.words, self.bytes
        meta = words[address]
        length = meta & LENGTH_MASK
        handle = meta >> ID_SHIFT
        cursor = words[CURSOR]
        if cursor + length <= words[CURSOR_END]:
            view[cursor * WORD : (cursor + length) * WORD] = view[
                address * WORD : (address + length) * WORD
            ]
            target = self._live + self._current()
            change[target] = words[target] + length
            change[CURSOR] = cursor + length
            change[self.end - handle] = cursor
        else:
            kind = meta >> KIND_SHIFT & KIND_MASK
            header = HEADER_WORDS[kind]
            stop, rest = address + length, 0
            if meta & SPLIT:
                stop -= 1
                rest = words[stop]
            pad = meta >> PAD_SHIFT & PAD_MASK
            data = view[(address + header) * WORD : stop * WORD - pad].tobytes()
            fields = tuple(words[address + 1 : address + header].tolist())
            self._place(change, handle, kind, fields, data, rest)
        # Only now may the old extent be free: it must not be written to by this change.
        extent = (address - self._first) // self._extent
        change[self._live + extent] = words[self._live + extent] - length
        if not change[self._live + extent]:
            self._set_free(change, extent)
