"""Room for records: the `Log` of a segment grows, and is cleaned where it can't.

When no extent is free and none can be reserved, the extent with the least live data is
*cleaned*: its live records move to the end of the log. Moving changes one word, the
handle, and makes every hole usable in the end: there is no fragmentation that could
refuse a record while there is room for it.

Everything here needs the segment's lock, and no process holds that for long. Work that may take
long is made of many whole changes, and *spends* the credit of its hold as it goes. When that is
used up it raises `Pause`: the operation releases the lock, takes it anew, and calls the work again
from its beginning, which finds done what was done. Until an extent that is being cleaned (CLEANING)
is empty, no new record is added, as that might take the room that its records move to.
"""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.engines.base import SHARE
from asgi_ipc.exceptions import StoreCorrupt

from . import layout
from .journal import Change
from .layout import CLEANING, CURSOR, CURSOR_END, FREE_ID, IDS_RESERVED, IDS_USED, WORD, Geometry
from .log import WORTH_SPLITTING, Log
from .returns import Returns

#: Handles are reserved this many at a time: a page.
_IDS_STEP = 512
#: What one hold of the lock may spend, in opcodes of the interpreter, besides what a plain
#: operation costs. Together they are at most 20,000, which is half a millisecond.
HOLD = 10_000
#: What steps cost at most: to pass over a record, to move one, to free one, or some of its pieces.
PASS, MOVE, FREEING = 50, 500, 6_000


class Pause(Exception):
    """This hold has lasted long enough: release the lock, take it again, and call again."""

    def __init__(self, heap: Heap) -> None:
        super().__init__()
        #: That of the segment whose lock it is.
        self.heap = heap


class NoRoom(Exception):
    """The segment is full. The argument is the OSError of the last `reserve`, or None."""


class OverShare(NoRoom):
    """There is room, but a queue would have too much of it: its bytes, and those then free."""


class Heap:
    """The records of one segment, which lie in its ``log``, and room for more.

    ``reserve(offset, length)`` makes bytes of the segment usable or raises OSError.
    """

    def __init__(
        self, view: memoryview, geometry: Geometry, reserve: Callable[[int, int], None]
    ) -> None:
        self.log = log = Log(view, geometry)
        self.bytes, self.words, self.geometry = view, log.words, geometry
        self.journal, self.commit = log.journal, log.commit
        self.end = geometry.end
        # Records are read and written by the log itself, without a call between.
        self.add, self.free = log.add, log.free
        self.kind, self.name, self.payload = log.kind, log.name, log.payload
        self.is_split = log.is_split
        self.returns = Returns(log)
        self._first, self._extent = geometry.first_extent, geometry.extent_words
        self._reserve = reserve
        self._refusal: OSError | None = None
        #: What this hold may still spend. Who takes the lock sets it to HOLD.
        self.credit = HOLD

    # ---- long work

    def spend(self, cost: int) -> None:
        """Say what is to be done next, before it is; raises `Pause` if it is to wait.

        Only between whole changes, and not after the one that the caller came for.
        """
        self.credit -= cost
        if self.credit < 0:
            # Not as long as another thread of this process may need.
            raise Pause(self)

    def settle(self) -> None:
        """Free what is left of records that have gone. May `Pause`."""
        words = self.words
        while handle := words[layout.LEFTOVER]:
            self.spend(FREEING)
            change: Change = {layout.LEFTOVER: 0}
            self.free(change, handle)
            self.commit(change)

    # ---- room

    def usage(self) -> tuple[int, int]:
        """Bytes in use, with everything that goes with them, and bytes in all."""
        in_use = self._first + self.words[layout.LIVE] + self.words[IDS_USED]
        return in_use * WORD, self.end * WORD

    def reserved(self) -> int:
        """Bytes that the system has given for the segment."""
        words = self.words
        without = words[layout.RETURNED_EXTENTS] - words[layout.RETURN_PENDING]
        extents = (words[layout.TOUCHED] - without) * self._extent
        return int(self._first + extents + words[IDS_RESERVED]) * WORD

    def free_words(self) -> int:
        """Words that are not in use."""
        words = self.words
        return int(self.end - self._first - words[layout.LIVE] - words[IDS_USED])

    def is_over_share(self, held: int, new: int) -> bool:
        """Whether a queue of ``held`` bytes would leave others too little of the memory.

        With ``new`` words that are not in use yet.
        """
        return held > SHARE * WORD * (self.free_words() - new)

    def fits(self, length: int) -> bool:
        """Whether a record of ``length`` words can be added as things are."""
        words = self.words
        return (
            words[CURSOR] + length <= words[CURSOR_END]
            and (words[FREE_ID] > 0 or words[IDS_USED] < words[IDS_RESERVED])
            and not words[CLEANING]
        )

    def room_for(self, length: int) -> None:
        """Make room for one record of ``length`` words, cleaning if need be, or raise `NoRoom`.

        Must come before the change that calls `add`. May `Pause`.
        """
        if self.fits(length):
            return
        words = self.words
        self._refusal = None
        self.settle()
        if length > self._spare():
            raise NoRoom(None)
        while True:
            extents = self._extents_for(length)
            self.spend(8 * PASS + extents * PASS // 2)
            if words[CLEANING]:
                self._clean()
                continue
            if not self._has_ids(extents + 1):
                self._reserve_ids(extents + 1)
            # One extent stays free: cleaning needs somewhere to move things to.
            if not extents or words[layout.FREE_EXTENTS] > extents:
                return
            if not self._grow() and not self._begin_cleaning():
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
            handle = words[self.end - handle] & ~layout.FREE
            count -= 1
        return count <= 0

    def add_extent(self, change: Change, kind: int, field: int) -> int:
        """A record that fills a free extent, to be live with ``change``; its address, or 0.

        It holds one field and what its owner writes behind it, and stays where it is: an
        extent without dead words is never cleaned. 0 if there is none to spare.
        """
        words = self.words
        # One stays free for cleaning.
        while words[layout.FREE_EXTENTS] < 2:
            if not self._grow():
                return 0
        if not words[FREE_ID] and words[IDS_USED] >= words[IDS_RESERVED]:
            return 0
        handle, extent = self.log.take_handle(change), self.log.take_extent(change)
        live = self.geometry.extent_live + extent
        change[live] = self._extent
        change[layout.LIVE] = words[layout.LIVE] + self._extent
        address = self._first + extent * self._extent
        words[address] = self._extent | kind << layout.KIND_SHIFT | handle << layout.ID_SHIFT
        words[address + 1] = field
        change[self.end - handle] = address
        return address

    # ---- growing

    def _grow(self) -> bool:
        """Reserve one more extent; False if there is none or the system refuses."""
        words = self.words
        if words[layout.RETURNED_EXTENTS]:
            return self._regain()
        extent = words[layout.EXTENTS_USED]
        start = self._first + extent * self._extent
        if start + self._extent > self.end - max(words[IDS_RESERVED], self.end // 16):
            return False
        try:
            self._reserve(start * WORD, self._extent * WORD)
        except OSError as error:
            self._refusal = error
            return False
        change: Change = {
            layout.EXTENTS_USED: extent + 1,
            layout.TOUCHED: max(words[layout.TOUCHED], extent + 1),
        }
        self.log.set_free(change, extent)
        self.commit(change)
        return True

    def _regain(self) -> bool:
        """Reserve an extent again that was given back; False if the system refuses."""
        start = self.returns.first()
        try:
            self._reserve(start * WORD, self._extent * WORD)
        except OSError as error:
            self._refusal = error
            return False
        change: Change = {}
        self.log.set_free(change, self.returns.take(change))
        self.commit(change)
        return True

    def _reserve_ids(self, count: int) -> None:
        """Reserve at least ``count`` more handles."""
        words = self.words
        have = words[IDS_RESERVED]
        want = have + -(-count // _IDS_STEP) * _IDS_STEP
        start = self.end - want
        if start <= self._first + words[layout.EXTENTS_USED] * self._extent:
            raise NoRoom(None)
        try:
            self._reserve(start * WORD, (want - have) * WORD)
        except OSError as error:
            raise NoRoom(error) from error
        self.commit({IDS_RESERVED: want})

    # ---- cleaning

    def _spare(self) -> int:
        """How many words free extents, growing and cleaning could give, at the very most."""
        words = self.words
        top = self.end - max(words[IDS_RESERVED], self.end // 16)
        extents = max(words[layout.EXTENTS_USED], (top - self._first) // self._extent)
        # One extent stays free for cleaning.
        return int((extents - 1) * self._extent - words[layout.LIVE])

    def _begin_cleaning(self) -> bool:
        """Choose the extent with the most dead words to be cleaned; False: not worth it."""
        words = self.words
        lives = self.log.lives()
        current = self.log.current()
        extent = -1
        gain = 0
        if current >= 0:
            # What lies behind the cursor is not dead but still to be used.
            begun = words[CURSOR] - (words[CURSOR_END] - self._extent)
            extent, gain = current, begun - lives[current]
            lives[current] = 0
        least = min(filter(None, lives), default=self._extent)
        if self._extent - least > gain:
            extent, gain = lives.index(least), self._extent - least
        if gain < self._extent // 16 or not words[layout.FREE_EXTENTS]:
            return False
        change: Change = {CLEANING: self._first + extent * self._extent}
        if extent == current:
            self._turn_to_fresh_extent(change)
        self.commit(change)
        return True

    def _clean(self) -> None:
        """Move what is live out of the extent that is being cleaned. May `Pause`."""
        words = self.words
        if not self._has_ids(2):
            self._reserve_ids(2)
        address = words[CLEANING]
        extent = (address - self._first) // self._extent
        stop = self._first + (extent + 1) * self._extent
        while address < stop:
            words[CLEANING] = address
            self.spend(PASS)
            meta = words[address]
            length = meta & layout.LENGTH_MASK
            if not length:
                raise StoreCorrupt(f"extent {extent} has a record of no length")
            handle = meta >> layout.ID_SHIFT
            if handle and words[self.end - handle] == address:
                self.spend(MOVE)
                change: Change = {}
                self._move(change, address)
                self.commit(change)
                if not words[CLEANING]:
                    return
            address += length
        # Not one that says it has live records and has none.
        words[CLEANING] = 0
        raise StoreCorrupt(f"extent {extent} has no records, and says that some are live")

    def _turn_to_fresh_extent(self, change: Change) -> None:
        """Leave the current extent as it is and go on in a free one, with ``change``.

        It may be the last: nothing else may be added there before cleaning is under way.
        """
        words = self.words
        rest = words[CURSOR_END] - words[CURSOR]
        if rest:
            words[words[CURSOR]] = rest | layout.FILLER << layout.KIND_SHIFT
        start = self._first + self.log.take_extent(change) * self._extent
        change[CURSOR], change[CURSOR_END] = start, start + self._extent

    def _move(self, change: Change, address: int) -> None:
        """Copy a record to the end of the log, to be live there with ``change``."""
        words, view = self.words, self.bytes
        meta = words[address]
        length = meta & layout.LENGTH_MASK
        handle = meta >> layout.ID_SHIFT
        cursor = words[CURSOR]
        if cursor + length <= words[CURSOR_END]:
            view[cursor * WORD : (cursor + length) * WORD] = view[
                address * WORD : (address + length) * WORD
            ]
            target = self.geometry.extent_live + self.log.current()
            change[target] = words[target] + length
            change[CURSOR] = cursor + length
            change[self.end - handle] = cursor
        else:
            kind = meta >> layout.KIND_SHIFT & layout.KIND_MASK
            header = layout.HEADER_WORDS[kind]
            stop, rest = address + length, 0
            if meta & layout.SPLIT:
                stop -= 1
                rest = words[stop]
            pad = meta >> layout.PAD_SHIFT & layout.PAD_MASK
            data = view[(address + header) * WORD : stop * WORD - pad].tobytes()
            fields = tuple(words[address + 1 : address + header].tolist())
            self.log.write(change, handle, kind, fields, data, rest)
            change[layout.LIVE] -= length
        # Only now may the old extent be free: it must not be written to by this change.
        extent = (address - self._first) // self._extent
        live = self.geometry.extent_live + extent
        change[live] = words[live] - length
        if not change[live]:
            self.log.set_free(change, extent)
