"""Records in a segment: a log of extents, with handles that let any record be moved.

New records go to the end of the current extent, one after the other, so a record
costs its words, one handle and nothing else, whatever its size. An extent whose last
record has gone is free again. A record that does not fit into the rest of an extent goes
on in the next one as a PIECE. That there is room for a record is seen to by `heap`.

Everything here needs the segment's lock.
"""

from __future__ import annotations

from struct import Struct

from asgi_ipc.engines.base import MAX_NAME, MAX_PAYLOAD
from asgi_ipc.exceptions import StoreCorrupt

from . import layout
from .journal import Change, Journal
from .layout import (
    CURSOR,
    CURSOR_END,
    FREE,
    FREE_ID,
    ID_SHIFT,
    IDS_USED,
    KIND_MASK,
    KIND_SHIFT,
    LEFTOVER,
    LENGTH_MASK,
    LIVE,
    PAD_MASK,
    PAD_SHIFT,
    SPLIT,
    WORD,
    Geometry,
)

#: Words of the longest name.
_LONGEST_NAME = MAX_NAME + 7 >> 3
_LONGEST_HEADER = max(layout.HEADER_WORDS.values())
_META_AND = tuple(Struct(f"{1 + n}Q").pack_into for n in range(_LONGEST_HEADER))

#: A rest of an extent smaller than this many words is left empty rather than begun.
WORTH_SPLITTING = 64
#: Of a record that goes at most so many pieces are freed by one change.
PIECES_A_CHANGE = 48


class Log:
    """The records of one segment, and the extents and handles that they have."""

    def __init__(self, view: memoryview, geometry: Geometry) -> None:
        self.bytes = view
        self.words = view.cast("Q")
        self.geometry = geometry
        self.journal = Journal(view)
        self.commit = self.journal.commit
        self.end = geometry.end
        self._first = geometry.first_extent
        self._extent = geometry.extent_words
        #: Where the live words of the first extent are counted, and the free list has its entry.
        self._live = geometry.extent_live
        self._next = geometry.extent_next

    def format(self) -> None:
        """Empty the heap. Done again from the start if its process is killed."""
        words, geometry = self.words, self.geometry
        for offset in (
            *range(CURSOR, layout.IDS_RESERVED + 1),
            LIVE,
            LEFTOVER,
            layout.CLEANING,
            layout.RETURNED,
            layout.RETURNED_EXTENTS,
            layout.RETURN_PENDING,
            layout.TRIMMING,
        ):
            words[offset] = 0
        start, stop = geometry.hash_table, geometry.slots
        self.bytes[start * WORD : stop * WORD] = bytes((stop - start) * WORD)

    def release(self) -> None:
        """Release the memory."""
        self.journal.release()
        self.words.release()

    # ---- reading

    def kind(self, address: int) -> int:
        """The kind of the record at an address."""
        return self.words[address] >> KIND_SHIFT & KIND_MASK

    def is_split(self, address: int) -> bool:
        """Whether the record at an address has pieces elsewhere."""
        return self.words[address] & SPLIT > 0

    def payload(self, address: int, header: int) -> bytes:
        """What follows the ``header`` words of a record, its pieces joined."""
        words, view = self.words, self.bytes
        meta = words[address]
        stop = address + (meta & LENGTH_MASK)
        start = (address + header) * WORD
        if not meta & SPLIT:
            return view[start : stop * WORD - (meta >> PAD_SHIFT & PAD_MASK)].tobytes()
        parts = []
        # An engine takes no larger one.
        room = min(self.end * WORD, MAX_PAYLOAD + self._extent * WORD)
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

    def name(self, address: int, header: int) -> bytes:
        """The name that follows the ``header`` words of a queue, a table or a member."""
        meta = self.words[address]
        stop = address + (meta & LENGTH_MASK)
        if meta & SPLIT or stop - address - header > _LONGEST_NAME:
            raise StoreCorrupt(f"the record at {address} has a name longer than any")
        start = (address + header) * WORD
        return self.bytes[start : stop * WORD - (meta >> PAD_SHIFT & PAD_MASK)].tobytes()

    # ---- changing

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
            self.write(change, handle, kind, fields, payload, 0)
            return handle
        view = self.bytes
        meta = length | kind << KIND_SHIFT | (-size & 7) << PAD_SHIFT | handle << ID_SHIFT
        _META_AND[len(fields)](view, address * WORD, meta, *fields)
        start = (address + 1 + len(fields)) * WORD
        view[start : start + size] = payload
        live = self._live + (address - self._first) // self._extent
        change[live] = words[live] + length
        change[LIVE] = words[LIVE] + length
        change[CURSOR] = stop
        change[self.end - handle] = address
        return handle

    def free(self, change: Change, handle: int) -> None:
        """Give up a record with ``change``; several may go in one if none is in pieces.

        Of one in pieces the first `PIECES_A_CHANGE` are freed, and the rest becomes LEFTOVER,
        which must have been 0 (`Heap.settle`).
        """
        words, get = self.words, change.get
        for _ in range(PIECES_A_CHANGE):
            address = words[self.end - handle]
            meta = words[address]
            length = meta & LENGTH_MASK
            extent = (address - self._first) // self._extent
            live = self._live + extent
            left = get(live, words[live]) - length
            if left < 0 or not length or self.end - handle in change:
                raise StoreCorrupt(f"extent {extent} holds less than its records")
            change[live] = left
            change[LIVE] = get(LIVE, words[LIVE]) - length
            change[self.end - handle] = FREE | get(FREE_ID, words[FREE_ID])
            change[FREE_ID] = handle
            if not left:
                self._emptied(change, extent)
            if not meta & SPLIT:
                return
            handle = words[address + length - 1]
        change[LEFTOVER] = handle

    # ---- extents

    def extent_of(self, offset: int) -> int:
        """Where the extent of a word begins."""
        return offset - (offset - self._first) % self._extent

    def take_handle(self, change: Change) -> int:
        """Return a handle that is in use with ``change``."""
        words, get = self.words, change.get
        handle = get(FREE_ID, words[FREE_ID])
        if handle:
            change[FREE_ID] = words[self.end - handle] & ~FREE
        else:
            change[IDS_USED] = handle = get(IDS_USED, words[IDS_USED]) + 1
        return int(handle)

    def take_extent(self, change: Change) -> int:
        """Return the first free extent, which is not free any more with ``change``."""
        words, get = self.words, change.get
        extent = get(layout.FREE_EXTENT, words[layout.FREE_EXTENT]) - 1
        if extent < 0:
            raise StoreCorrupt("the list of free extents is shorter than its count")
        change[layout.FREE_EXTENT] = words[self._next + extent]
        change[layout.FREE_EXTENTS] = get(layout.FREE_EXTENTS, words[layout.FREE_EXTENTS]) - 1
        return int(extent)

    def current(self) -> int:
        """The extent that the cursor is in, or -1."""
        end = self.words[CURSOR_END]
        return (end - self._first) // self._extent - 1 if end else -1

    def lives(self) -> list[int]:
        """The live words of each extent that was ever used."""
        used = min(self.words[layout.EXTENTS_USED], self.geometry.extents)
        return self.words[self._live : self._live + used].tolist()

    def _emptied(self, change: Change, extent: int) -> None:
        """The last live record of an extent goes with this change."""
        if extent == self.current():
            # Begin it anew: a queue that keeps emptying stays in warm memory.
            change[CURSOR] = self._first + extent * self._extent
        else:
            self.set_free(change, extent)

    def set_free(self, change: Change, extent: int) -> None:
        """Put an extent on the list of free ones with ``change``; its cleaning is over."""
        words, get = self.words, change.get
        if (
            words[layout.CLEANING]
            and (words[layout.CLEANING] - self._first) // self._extent == extent
        ):
            change[layout.CLEANING] = 0
        change[self._next + extent] = get(layout.FREE_EXTENT, words[layout.FREE_EXTENT])
        change[layout.FREE_EXTENT] = extent + 1
        change[layout.FREE_EXTENTS] = get(layout.FREE_EXTENTS, words[layout.FREE_EXTENTS]) + 1

    def write(
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
        extent = self.current()
        position = 0
        while True:
            room = cursor_end - cursor
            head = 1 + len(fields)
            size = len(payload) - position
            length = head + (size + 7 >> 3) + (1 if rest else 0)
            if length > room and (room < WORTH_SPLITTING or (size + 7 >> 3) < WORTH_SPLITTING):
                # Leave the rest of this extent empty and go on in a fresh one.
                if room:
                    words[cursor] = room | layout.FILLER << KIND_SHIFT
                if extent >= 0 and not get(self._live + extent, words[self._live + extent]):
                    self.set_free(change, extent)
                extent = self.take_extent(change)
                cursor = self._first + extent * self._extent
                cursor_end = cursor + self._extent
                continue
            link = rest
            if length > room:
                length = room
                size = (room - head - 1) * WORD
                link = self.take_handle(change)
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
            change[LIVE] = get(LIVE, words[LIVE]) + length
            change[self.end - handle] = cursor
            cursor += length
            if link == rest:
                break
            position += size
            handle, kind, fields = link, layout.PIECE, ()
        change[CURSOR], change[CURSOR_END] = cursor, cursor_end
