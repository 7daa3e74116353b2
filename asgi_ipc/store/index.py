"""The hash table of a segment: buckets that hold the first handle of a chain of records.

Everything here needs the segment's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..exceptions import StoreCorrupt
from .heap import Heap
from .journal import Change
from .layout import HAND, T_WORDS, WORD

#: Later than any deadline.
NEVER = (1 << 64) - 1
#: Nanoseconds after which a full store is searched again for what the dead left.
SWEEP_AGAIN = 1_000_000_000
#: Some buckets of which none is in use.
_EMPTY = bytes(128 * WORD)
#: No chain is longer; one that is has been made a circle. (Chains have a few records.)
LONGEST_CHAIN = range(1 << 16)
#: Words of the smallest record in the table: one of a table, without its name.
_LEAST = T_WORDS


class Index:
    """The table of one segment; ``link`` is the word of a record that holds the next handle."""

    def __init__(self, heap: Heap, link: int) -> None:
        self._heap = heap
        self._words = heap.words
        self._link = link
        self._table = heap.geometry.hash_table
        self.buckets = heap.geometry.buckets

    def bucket(self, code: int) -> int:
        """The word that holds the first handle for a hash code."""
        return self._table + code % self.buckets

    def chain(self, bucket: int) -> Iterator[int]:
        """The handles of a bucket."""
        words, end, link = self._words, self._heap.end, self._link
        handle = words[bucket]
        for _ in LONGEST_CHAIN:
            if not handle:
                return
            yield handle
            handle = words[words[end - handle] + link]
        raise self.circle()

    def records(self, buckets: Iterable[int]) -> Iterator[int]:
        """The handles of many buckets; those of each as they are when it is come to."""
        left = self._heap.end // _LEAST
        for bucket in buckets:
            handles = list(self.chain(bucket))
            left -= len(handles)
            if left < 0:
                raise StoreCorrupt("the chains of the hash table meet")
            yield from handles

    def unlink(self, change: Change, bucket: int, handle: int) -> None:
        """Take a record out of its chain with a change."""
        words, end, link = self._words, self._heap.end, self._link
        at = bucket
        for _ in LONGEST_CHAIN:
            if words[at] == handle:
                change[at] = words[words[end - handle] + link]
                return
            # At the end of the chain this is no handle's place, and so an IndexError.
            at = words[end - words[at]] + link
        raise self.circle()

    def turn(self, share: int) -> tuple[list[int], int]:
        """The buckets in use among the next ``share`` ones, and where the next turn begins.

        A share of all buckets begins with the first.
        """
        start = 0 if share >= self.buckets else self._words[HAND] % self.buckets
        stop = min(start + share, self.buckets)
        first, last = self._table + start, self._table + stop
        heads = self._heap.bytes[first * WORD : last * WORD].tobytes()
        found = []
        # Most of a table is empty, in most stores; to pass over that must cost nothing.
        for at in range(0, len(heads), len(_EMPTY)):
            block = heads[at : at + len(_EMPTY)]
            if block != _EMPTY:
                words = memoryview(block).cast("Q")
                found += [bucket for bucket, head in enumerate(words, first + at // WORD) if head]
        return found, stop % self.buckets

    @staticmethod
    def circle() -> StoreCorrupt:
        """The error for a chain that never ends."""
        return StoreCorrupt("a chain of the hash table is a circle")
