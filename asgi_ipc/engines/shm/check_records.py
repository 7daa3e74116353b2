"""The heap's part of the full check: handles, extents, and what is held by something.

See `check`, which uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .heap import layout
from .heap.heap import Heap

#: Words read at a time.
SLICE = 8192


class Circle(ValueError):
    """A list that does not end."""


class Records:
    """All records of a segment."""

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self.words = heap.words
        self.geometry = heap.geometry
        #: No list of records, handles or wait nodes is longer.
        records = min(self.words[layout.IDS_USED], heap.end - heap.geometry.first_extent)
        self.most = max(records, layout.NODES)
        #: Handles that have a record, and those of them that something points to.
        self.live = self.held = 0
        #: A bit for each handle: something points to it.
        self.reached = bytearray()

    def reach(self, handle: int) -> None:
        """Note that something points to a handle."""
        location, bit = handle >> 3, 1 << (handle & 7)
        if location >= len(self.reached):
            raise ValueError(f"handle {handle} was never used")
        if self.reached[location] & bit:
            raise Circle(f"the record of handle {handle} is held more than once")
        self.reached[location] |= bit
        self.held += 1

    def lost(self) -> Iterator[int]:
        """The handles with a record that nothing points to."""
        for handle, entry in self.entries():
            if not entry & layout.FREE and not self.reached[handle >> 3] & 1 << (handle & 7):
                yield handle

    def entries(self) -> Iterator[tuple[int, int]]:
        """The handles ever used, and what each holds."""
        # Handle 1 is the last word.
        for start in range(0, self.words[layout.IDS_USED], SLICE):
            stop = min(start + SLICE, self.words[layout.IDS_USED])
            block = self.words[self.heap.end - stop : self.heap.end - start].tolist()
            yield from enumerate(reversed(block), start + 1)

    def follow(
        self, first: int, following: Callable[[int], int], what: str, most: int = 0
    ) -> Iterator[int]:
        """The items of a linked list, each once."""
        item = first
        for _ in range(most or self.most):
            if not item:
                return
            yield item
            item = following(item)
        if item:
            raise Circle(f"{what} does not end")

    def address(self, handle: int) -> int:
        address = self.words[self.heap.end - handle] if handle <= self.heap.end else layout.FREE
        if not self.geometry.first_extent <= address < self.heap.end:
            raise ValueError(f"handle {handle} has no record")
        return address

    def kind(self, handle: int) -> int:
        return self.words[self.address(handle)] >> layout.KIND_SHIFT & layout.KIND_MASK

    # ---- the heap

    def handles(self) -> Iterator[str]:
        words, end = self.words, self.heap.end
        used, reserved = words[layout.IDS_USED], words[layout.IDS_RESERVED]
        stop = self.geometry.first_extent + words[layout.EXTENTS_USED] * self.geometry.extent_words
        if not used <= reserved <= end - stop:
            yield f"{used} handles are used, {reserved} reserved, and the extents end at {stop}"
            return
        unused = 0
        for handle, entry in self.entries():
            if entry & layout.FREE:
                unused += 1
            elif not self.geometry.first_extent <= entry < stop:
                yield f"handle {handle} points to {entry}, where no record can be"
            elif words[entry] >> layout.ID_SHIFT != handle:
                yield f"the record of handle {handle} says it is another's"
            else:
                self.live += 1
        # Only now, as there are so many indeed.
        self.reached = bytearray((used >> 3) + 1)
        free = bytearray(len(self.reached))
        entry = words[layout.FREE_ID]
        while entry:
            if (
                entry > used
                or free[entry >> 3] & 1 << (entry & 7)
                or not words[end - entry] & layout.FREE
            ):
                yield f"the list of free handles is broken at {entry}"
                break
            free[entry >> 3] |= 1 << (entry & 7)
            unused -= 1
            entry = words[end - entry] & ~layout.FREE
        if unused:
            yield f"{unused} handles are free and not on the list"

    def extents(self) -> Iterator[str]:
        words, geometry = self.words, self.geometry
        size, first = geometry.extent_words, geometry.first_extent
        used = words[layout.EXTENTS_USED]
        if used > geometry.extents:
            yield f"{used} extents are in use, and there are {geometry.extents}"
            return
        free = bytearray(used)
        listed = 0
        extent = words[layout.FREE_EXTENT]
        while extent and listed <= used:
            if extent > used:
                yield "the list of free extents has one that was never reserved"
                break
            free[extent - 1] = 1
            listed += 1
            extent = words[geometry.extent_next + extent - 1]
        returned, entry = 0, words[layout.RETURNED]
        while entry and returned <= used:
            if entry > used or free[entry - 1]:
                yield "the list of returned extents has one that is free or was never reserved"
                break
            free[entry - 1] = 2
            returned += 1
            following = words[geometry.extent_next + entry - 1]
            if not following & layout.GIVEN_BACK:
                yield f"extent {entry - 1} was returned and does not say so"
            entry = following & ~layout.GIVEN_BACK
        if returned != words[layout.RETURNED_EXTENTS]:
            yield "the list of returned extents does not agree with its count"
        if words[layout.RETURN_PENDING] > returned:
            yield "more extents are to be given back than are on the list"
        if words[layout.TOUCHED] < used:
            yield f"{used} extents are in use, and {words[layout.TOUCHED]} have memory"
        if listed != words[layout.FREE_EXTENTS] or free.count(1) != listed:
            yield "the list of free extents does not agree with its count"
        if used and not listed and not words[layout.CLEANING]:
            yield "no extent is free to move records to, and none is being cleaned"
        cursor, end = words[layout.CURSOR], words[layout.CURSOR_END]
        current = -1
        if end:
            current, rest = divmod(end - first, size)
            current -= 1
            if rest or not 0 <= current < used or not end - size <= cursor <= end:
                yield f"the cursor {cursor} .. {end} is in no extent"
                return
        elif cursor:
            yield f"the cursor {cursor} has no extent"
        if current >= 0 and free[current]:
            yield "the current extent is on the free list"
        cleaning = words[layout.CLEANING]
        cleaned = (cleaning - first) // size if cleaning else -1
        if cleaning and (not 0 <= cleaned < used or free[cleaned]):
            yield f"an extent is being cleaned at {cleaning}, where there is nothing to clean"
        found = total = 0
        for extent in range(used):
            said = words[geometry.extent_live + extent]
            total += said
            if free[extent]:
                if said:
                    yield f"extent {extent} is free and has {said} live words"
                continue
            start = first + extent * size
            stop = cursor if extent == current else start + size
            live, address = 0, start
            is_at_record = extent != cleaned
            while address < stop and (length := words[address] & layout.LENGTH_MASK):
                handle = words[address] >> layout.ID_SHIFT
                if (
                    0 < handle <= words[layout.IDS_USED]
                    and words[self.heap.end - handle] == address
                ):
                    live += length
                    found += 1
                if address == cleaning:
                    is_at_record = True
                address += length
            if live != said:
                yield f"extent {extent} has {live} live words and says {said}"
            if not live and extent != current:
                yield f"extent {extent} has no live words and is not free"
            if address != stop:
                yield f"extent {extent} is not filled by its records"
            if not is_at_record:
                yield f"extent {extent} is being cleaned at {cleaning}, which is inside a record"
        if total != (counted := words[layout.LIVE]):
            yield f"{counted} live words are counted in all, and the extents have {total}"
        if found != self.live:
            yield f"{self.live - found} records are in free extents, behind the cursor or in others"
