"""Records in a segment: a log of extents, with handles that let any record be moved.

New records go to the end of the current extent, one after the other, so a record
costs its words, one handle and nothing else, whatever its size. An extent whose last
record has gone is free again. When no extent is free and none can be reserved, the
extent with the least live data is *cleaned*: its live records move to the end of the
log. Moving changes one word, the handle, and makes every hole usable in the end: there
is no fragmentation that could refuse a record while there is room for it. A record
that does not fit into the rest of an extent goes on in the next one as a PIECE.

Everything here needs the segment's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct

from ..exceptions import StoreCorrupt
from .journal import Change, Journal
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
    PIECE,
    SPLIT,
    WORD,
    Geometry,
)

_LONGEST_HEADER = max(HEADER_WORDS.values())
_META_AND = tuple(Struct(f"{1 + n}Q").pack_into for n in range(_LONGEST_HEADER))

#: A rest of an extent smaller than this many words is left empty rather than begun.
_WORTH_SPLITTING = 64
#: Handles are reserved this many at a time: a page.
_IDS_STEP = 512


class NoRoom(Exception):
    """The segment is full. The argument is the OSError of the last `reserve`, or None."""


class Heap:
    """The records of one segment.

    ``reserve(offset, length)`` makes bytes of the segment usable or raises OSError.
    """

    def __init__(
        self, view: memoryview, geometry: Geometry, reserve: Callable[[int, int], None]
    ) -> None:
        self.bytes = view
        self.words = view.cast("Q")
        self.geometry = geometry
        self.journal = Journal(view)
        self.commit = self.journal.commit
        self.end = geometry.end
        self._first = geometry.first_extent
        self._extent = geometry.extent_words
        self._live = geometry.extent_live
        self._next = geometry.extent_next
        self._reserve = reserve
        self._refusal: OSError | None = None

    def format(self) -> None:
        """Empty the heap. Done again from the start if its process is killed."""
        words, geometry = self.words, self.geometry
        for offset in range(CURSOR, IDS_RESERVED + 1):
            words[offset] = 0
        start, stop = geometry.hash_table, geometry.slots
        self.bytes[start * WORD : stop * WORD] = bytes((stop - start) * WORD)

    def usage(self) -> tuple[int, int]:
        """Bytes in use, with everything that goes with them, and bytes in all."""
        in_use = self._first + sum(self._lives()) + self.words[IDS_USED]
        return in_use * WORD, self.end * WORD

    def release(self) -> None:
        """Let go of the memory."""
        self.journal.release()
        self.words.release()

    # ---- reading

    def address(self, handle: int) -> int:
        """Where the record of a handle begins, in words."""
        return self.words[self.end - handle]

    def kind(self, address: int) -> int:
        """The kind of the record at an address."""
        return self.words[address] >> KIND_SHIFT & KIND_MASK

    def payload(self, address: int, header: int) -> bytes:
        """What follows the ``header`` words of a record, its pieces joined."""
        words, view = self.words, self.bytes
        meta = words[address]
        stop = address + (meta & LENGTH_MASK)
        start = (address + header) * WORD
        if not meta & SPLIT:
            return view[start : stop * WORD - (meta >> PAD_SHIFT & PAD_MASK)].tobytes()
        parts = []
        room = self.end * WORD
        while room > 0:
            # No record is larger than the segment: a circle ends, also one of tiny pieces.
            room -= max(stop * WORD - start, 64)
            if not meta & SPLIT:
                parts.append(view[start : stop * WORD - (meta >> PAD_SHIFT & PAD_MASK)])
                return b"".join(parts)
            parts.append(view[start : (stop - 1) * WORD])
            address = words[self.end - words[stop - 1]]
            meta = words[address]
            stop = address + (meta & LENGTH_MASK)
            start = (address + 1) * WORD
        raise StoreCorrupt("the pieces of a record form a circle")

    # ---- changing

    def fits(self, length: int) -> bool:
        """Whether a record of ``length`` words can be added as things are."""
        words = self.words
        return words[CURSOR] + length <= words[CURSOR_END] and (
            words[FREE_ID] > 0 or words[IDS_USED] < words[IDS_RESERVED]
        )

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
        if rest < _WORTH_SPLITTING:
            rest = 0
        # Each further extent carries a META and a link besides the data.
        return -(-(length - rest) // (self._extent - 2))

    def _has_ids(self, count: int) -> bool:
        """True if ``count`` handles can be taken as things are."""
        words = self.words
        count -= words[IDS_RESERVED] - words[IDS_USED]
        handle = words[FREE_ID]
        while count > 0 and handle:
            handle = words[self.end - handle] & ~FREE
            count -= 1
        return count <= 0

    def add(self, change: Change, kind: int, fields: tuple[int, ...], payload: bytes) -> int:
        """Write a new record, to be live with ``change``; its handle. At most one a change."""
        words = self.words
        handle = words[FREE_ID]
        if handle:
            change[FREE_ID] = words[self.end - handle] & ~FREE
        else:
            handle = words[IDS_USED] + 1
            change[IDS_USED] = handle
        size = len(payload)
        length = 1 + len(fields) + (size + 7 >> 3)
        address = words[CURSOR]
        stop = address + length
        if stop > words[CURSOR_END]:
            self._place(change, handle, kind, fields, payload, 0)
            return handle
        view = self.bytes
        meta = length | kind << KIND_SHIFT | (-size & 7) << PAD_SHIFT | handle << ID_SHIFT
        _META_AND[len(fields)](view, address * WORD, meta, *fields)
        start = (address + 1 + len(fields)) * WORD
        view[start : start + size] = payload
        live = self._live + (address - self._first) // self._extent
        change[live] = words[live] + length
        change[CURSOR] = stop
        change[self.end - handle] = address
        return handle

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

    def free(self, change: Change, handle: int) -> None:
        """Give up a record and its pieces with ``change``; several may go in one."""
        words, get = self.words, change.get
        while True:
            address = words[self.end - handle]
            meta = words[address]
            length = meta & LENGTH_MASK
            extent = (address - self._first) // self._extent
            live = self._live + extent
            left = get(live, words[live]) - length
            if left < 0 or not length:
                raise StoreCorrupt(f"extent {extent} holds less than its records")
            change[live] = left
            change[self.end - handle] = FREE | get(FREE_ID, words[FREE_ID])
            change[FREE_ID] = handle
            if not left:
                self._emptied(change, extent)
            if not meta & SPLIT:
                return
            handle = words[address + length - 1]

    # ---- extents

    def _current(self) -> int:
        """The extent that the cursor is in, or -1."""
        end = self.words[CURSOR_END]
        return (end - self._first) // self._extent - 1 if end else -1

    def _emptied(self, change: Change, extent: int) -> None:
        """The last live record of an extent goes with this change."""
        if extent == self._current():
            # Begin it anew: a queue that keeps emptying stays in warm memory.
            change[CURSOR] = self._first + extent * self._extent
        else:
            self._set_free(change, extent)

    def _set_free(self, change: Change, extent: int) -> None:
        words, get = self.words, change.get
        change[self._next + extent] = get(FREE_EXTENT, words[FREE_EXTENT])
        change[FREE_EXTENT] = extent + 1
        change[FREE_EXTENTS] = get(FREE_EXTENTS, words[FREE_EXTENTS]) + 1

    def _place(
        self,
        change: Change,
        handle: int,
        kind: int,
        fields: tuple[int, ...],
        payload: bytes,
        rest: int,
    ) -> None:
        """Write a record that may need several extents; ``rest`` continues it if not 0.

        Records that aren't messages fit into any fresh extent and are never split.
        """
        words, view, get = self.words, self.bytes, change.get
        cursor, cursor_end = words[CURSOR], words[CURSOR_END]
        extent = self._current()
        position = 0
        while True:
            room = cursor_end - cursor
            head = 1 + len(fields)
            size = len(payload) - position
            length = head + (size + 7 >> 3) + (1 if rest else 0)
            if length > room and (room < _WORTH_SPLITTING or (size + 7 >> 3) < _WORTH_SPLITTING):
                # Leave the rest of this extent empty and go on in a fresh one.
                if room:
                    words[cursor] = room | FILLER << KIND_SHIFT
                if extent >= 0 and not get(self._live + extent, words[self._live + extent]):
                    self._set_free(change, extent)
                extent = get(FREE_EXTENT, words[FREE_EXTENT]) - 1
                if extent < 0:
                    raise StoreCorrupt("the list of free extents is shorter than its count")
                change[FREE_EXTENT] = words[self._next + extent]
                change[FREE_EXTENTS] = get(FREE_EXTENTS, words[FREE_EXTENTS]) - 1
                cursor = self._first + extent * self._extent
                cursor_end = cursor + self._extent
                continue
            link = rest
            if length > room:
                length = room
                size = (room - head - 1) * WORD
                link = get(FREE_ID, words[FREE_ID])
                if link:
                    change[FREE_ID] = words[self.end - link] & ~FREE
                else:
                    link = get(IDS_USED, words[IDS_USED]) + 1
                    change[IDS_USED] = link
            meta = length | kind << KIND_SHIFT | (-size & 7) << PAD_SHIFT | handle << ID_SHIFT
            start = (cursor + head) * WORD
            view[start : start + size] = payload[position : position + size]
            if link:
                # Its data is whole words, so there is no padding before the link.
                meta |= SPLIT
                words[cursor + length - 1] = link
            _META_AND[len(fields)](view, cursor * WORD, meta, *fields)
            live = self._live + extent
            change[live] = get(live, words[live]) + length
            change[self.end - handle] = cursor
            cursor += length
            if link == rest:
                break
            position += size
            handle, kind, fields = link, PIECE, ()
        change[CURSOR], change[CURSOR_END] = cursor, cursor_end

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

    def _lives(self) -> list[int]:
        used = min(self.words[EXTENTS_USED], self.geometry.extents)
        return self.words[self._live : self._live + used].tolist()

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
