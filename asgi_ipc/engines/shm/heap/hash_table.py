"""The hash table of a segment: buckets that hold the first handle of a chain of records.

Names are hashed with a key that each store makes for itself, so an attacker who may choose names
can't choose names that fall into one bucket.

Everything here needs the segment's lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from asgi_ipc.exceptions import StoreCorrupt

from . import layout
from .heap import PASS, Heap
from .journal import Change
from .layout import WORD

#: Later than any deadline.
NEVER = (1 << 64) - 1
#: Nanoseconds after which a full store is searched again for what the dead left.
SWEEP_AGAIN = 1_000_000_000
#: Buckets that are looked at together; and that are compared with zeros at once, as most of a table
#: is normally empty.
_BLOCK, _SPAN = 256, 4096


class HashTable:
    """The table of one segment; ``link`` is the word of a record that holds the next handle."""

    def __init__(self, heap: Heap, link: int) -> None:
        self._heap = heap
        self._words = heap.words
        self._link = link
        self._table = heap.geometry.hash_table
        self.buckets = heap.geometry.buckets
        start = layout.W_HASH_KEY * WORD
        key = heap.bytes[start : start + layout.HASH_KEY_BYTES].tobytes()
        self._hash = hashlib.blake2b(key=key, digest_size=8)
        #: No chain is longer: a segment has no room for more records that have names.
        self.longest = range((heap.end - heap.geometry.first_extent) // layout.T_WORDS)

    def home(self, name: bytes) -> int:
        """The word that holds the first handle of the bucket of a name."""
        code = self._hash.copy()
        code.update(name)
        return self._table + int.from_bytes(code.digest(), "little") % self.buckets

    def chain(self, bucket: int) -> Iterator[int]:
        """The handles of a bucket."""
        words, end, link = self._words, self._heap.end, self._link
        handle = words[bucket]
        for _ in self.longest:
            if not handle:
                return
            yield handle
            handle = words[words[end - handle] + link]
        raise self.circle()

    def unlink(self, change: Change, bucket: int, handle: int) -> None:
        """Take a record out of its chain with a change."""
        words, end, link = self._words, self._heap.end, self._link
        at = bucket
        for _ in self.longest:
            if words[at] == handle:
                change[at] = words[words[end - handle] + link]
                return
            # At the end of the chain this is no handle's place, and so an IndexError.
            at = words[end - words[at]] + link
        raise self.circle()

    def used(self, start: int, moved: Callable[[int], object]) -> Iterator[int]:
        """The buckets in use, from number ``start`` on. May `Pause` between them.

        ``moved`` is told where to go on then.
        """
        words, table = self._words, self._table
        while start < self.buckets:
            self._heap.spend(PASS)
            end = min(start + _SPAN, self.buckets)
            if words[table + start : table + end].tobytes() == bytes(WORD * (end - start)):
                start = end
            while start < end:
                self._heap.spend(PASS)
                stop = min(start + _BLOCK, end)
                heads = words[table + start : table + stop].tolist()
                if any(heads):
                    for number, first in enumerate(heads, start):
                        if first:
                            moved(number)
                            yield table + number
                moved(stop)
                start = stop
            moved(start)

    @staticmethod
    def circle() -> StoreCorrupt:
        """The error for a chain that never ends."""
        return StoreCorrupt("a chain of the hash table is a circle")
