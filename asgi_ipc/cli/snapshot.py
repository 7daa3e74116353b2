"""A copy of a segment, to look at while other processes use the store.

It is made without the lock, so it may mix what was before a change with what came after. Made again
under the lock it is of one instant, and that takes less time, as the system has given the memory
for the copy before.
"""

from __future__ import annotations

import mmap

from ..engines.shm.heap.heap import Heap
from ..engines.shm.heap.layout import EXTENTS_USED, IDS_RESERVED, WORD
from ..engines.shm.locked_segment import LockedSegment

#: Most bytes that are copied. A store in which more is in use, or says so, is not.
LIMIT = 1 << 30
_CHUNK = 1 << 20
#: Linux's number, which Python names from 3.13 on: take no memory for what is not touched.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


class Snapshot:
    """A copy of a segment. Methods that say so need the segment's lock."""

    def __init__(self, locked_segment: LockedSegment) -> None:
        """Copy the segment without its lock. Raises `TooLarge`, OSError."""
        self._source = locked_segment.heap
        size = self._source.bytes.nbytes
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        self._memory = mmap.mmap(-1, size, flags=flags)
        view = memoryview(self._memory)
        self.heap = Heap(view, self._source.geometry, _refuse)
        try:
            self.copy()
        except BaseException:
            self.close()
            raise

    def copy(self) -> None:
        """Copy what is in use; needs the lock for a copy of one instant. Raises `TooLarge`."""
        source, words, geometry = self._source.bytes, self._source.words, self._source.geometry
        extents = geometry.first_extent + words[EXTENTS_USED] * geometry.extent_words
        low, high = extents * WORD, source.nbytes - words[IDS_RESERVED] * WORD
        if low >= high:  # They contradict themselves: all of it.
            low = high = source.nbytes
        if low + source.nbytes - high > LIMIT:
            raise TooLarge
        for start, end in ((0, low), (high, source.nbytes)):
            for at in range(start, end, _CHUNK):
                stop = min(at + _CHUNK, end)
                self.heap.bytes[at:stop] = source[at:stop]

    def close(self) -> None:
        """Release the copy."""
        self.heap.log.release()
        self.heap.bytes.release()
        self._memory.close()


class TooLarge(Exception):
    """More is in use than is copied."""


def _refuse(offset: int, length: int) -> None:
    raise OSError("a copy takes no more memory")


__all__ = ["LIMIT", "Snapshot", "TooLarge"]
