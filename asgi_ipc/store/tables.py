"""Tables of members in the heap of the groups segment.

A table is a record that holds the first of its members, which are linked both ways;
tables and members share one hash table. Everything needs the segment's lock. Each
method is one or more whole changes: a kill leaves a table as before or after.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from ..exceptions import StoreCorrupt
from .heap import Heap, NoRoom
from .index import NEVER, SWEEP_AGAIN, Index
from .journal import Change
from .layout import (
    CHANGES,
    E_DEADLINE,
    E_NEXT,
    E_OWNER,
    E_PREVIOUS,
    E_TABLE,
    E_WORDS,
    HAND,
    MEMBER,
    MEMBERS,
    NAMED,
    SOONEST,
    SWEPT,
    T_CHAIN,
    T_COUNT,
    T_FIRST,
    T_VERSION,
    T_WORDS,
    TABLE,
)


class Tables:
    """All tables of a store. ``alive(word)`` tells whether an owner word's process is."""

    def __init__(self, heap: Heap, owner_alive: Callable[[int], bool]) -> None:
        self._heap = heap
        self._words = heap.words
        self._index = Index(heap, T_CHAIN)
        self._owner_alive = owner_alive

    def _bucket(self, table: bytes, member: bytes | None = None) -> int:
        code = crc32(table) if member is None else crc32(member, crc32(table))
        return self._index.bucket(code)

    def _find(self, bucket: int, kind: int, name: bytes, table: int = 0) -> int:
        """Handle of the table, or of the member of ``table``, with that name; or 0."""
        words, heap = self._words, self._heap
        header = T_WORDS if kind == TABLE else E_WORDS
        for handle in self._index.chain(bucket):
            address = words[heap.end - handle]
            if (
                heap.kind(address) == kind
                and (kind == TABLE or words[address + E_TABLE] == table)
                and heap.name(address, header) == name
            ):
                return handle
        return 0

    # ---- operations

    def put(self, table: bytes, member: bytes, deadline: int, owner: int, now: int) -> None:
        """Add or renew a member. Raises `NoRoom`."""
        words, heap = self._words, self._heap
        home = self._find(self._bucket(table), TABLE, table)
        if home:
            handle = self._find(self._bucket(table, member), MEMBER, member, home)
            if handle:
                self._renew(home, handle, deadline, owner, now)
                return
        length = E_WORDS + (len(member) + 7 >> 3)
        # Making room may remove the table while it is empty.
        while self._make_room(length, now) or not home:
            home = self._find(self._bucket(table), TABLE, table) or self._create(table, now)
        bucket = self._bucket(table, member)
        at = words[heap.end - home]
        first = words[at + T_FIRST]
        change: Change = {}
        fields = (words[bucket], first, 0, home, deadline, owner)
        handle = heap.add(change, MEMBER, fields, member)
        change[bucket] = handle
        change[at + T_FIRST] = handle
        if first:
            change[words[heap.end - first] + E_PREVIOUS] = handle
        change[at + T_COUNT] = words[at + T_COUNT] + 1
        change[MEMBERS] = words[MEMBERS] + 1
        if deadline < words[SOONEST]:
            change[SOONEST] = deadline
        self._changed(change, at)
        heap.commit(change)

    def _renew(self, home: int, handle: int, deadline: int, owner: int, now: int) -> None:
        words, heap = self._words, self._heap
        at = words[heap.end - handle]
        change = {at + E_DEADLINE: deadline, at + E_OWNER: owner}
        if deadline < words[at + E_DEADLINE] or not self._is_live(at, now):
            # Lists that were read before would have it for too long, or lack it.
            self._changed(change, words[heap.end - home])
        if deadline < words[SOONEST]:
            change[SOONEST] = deadline
        heap.commit(change)

    def _create(self, table: bytes, now: int) -> int:
        self._make_room(T_WORDS + (len(table) + 7 >> 3), now)
        words = self._words
        bucket = self._bucket(table)
        change: Change = {}
        handle = self._heap.add(change, TABLE, (words[bucket], 0, 0, 0), table)
        change[bucket] = handle
        change[NAMED] = words[NAMED] + 1
        self._heap.commit(change)
        return handle

    def remove(self, table: bytes, member: bytes, now: int) -> bool:
        """Take a member out; True if it was there and live."""
        home = self._find(self._bucket(table), TABLE, table)
        if not home:
            return False
        handle = self._find(self._bucket(table, member), MEMBER, member, home)
        if not handle:
            return False
        live = self._is_live(self._words[self._heap.end - handle], now)
        self._drop(home, table, handle)
        return live

    def version(self, table: bytes) -> int:
        """A number that differs whenever the members differ, never used again; 0: no table."""
        home = self._find(self._bucket(table), TABLE, table)
        return self._words[self._words_of(home) + T_VERSION] if home else 0

    def members(self, table: bytes, now: int) -> tuple[list[bytes], int]:
        """The live members, and the soonest deadline among them."""
        words, heap = self._words, self._heap
        home = self._find(self._bucket(table), TABLE, table)
        names: list[bytes] = []
        soonest = NEVER
        if not home:
            return names, soonest
        handle = words[self._words_of(home) + T_FIRST]
        count = words[self._words_of(home) + T_COUNT]
        if count > heap.end // E_WORDS:
            raise StoreCorrupt("a table counts more members than there can be")
        before = 0
        for _ in range(count):
            at = words[heap.end - handle]
            following = words[at + E_NEXT]
            if words[at + E_PREVIOUS] != before:
                raise StoreCorrupt("the members of a table do not point back")
            if self._is_live(at, now):
                before = handle
                names.append(heap.name(at, E_WORDS))
                soonest = min(soonest, words[at + E_DEADLINE])
            else:
                self._drop(home, table, handle)
            handle = following
        return names, soonest

    # ---- upkeep

    def _words_of(self, handle: int) -> int:
        return self._words[self._heap.end - handle]

    def _is_live(self, at: int, now: int) -> bool:
        owner = self._words[at + E_OWNER]
        return self._words[at + E_DEADLINE] > now and (not owner or self._owner_alive(owner))

    def _changed(self, change: Change, at: int) -> None:
        """Note with a change that the members of the table at ``at`` are others now."""
        change[CHANGES] = change[at + T_VERSION] = self._words[CHANGES] + 1

    def _drop(self, home: int, table: bytes, handle: int) -> None:
        """Take a member out of its table, and the table away with its last."""
        words, heap = self._words, self._heap
        at, home_at = words[heap.end - handle], words[heap.end - home]
        following, previous = words[at + E_NEXT], words[at + E_PREVIOUS]
        change: Change = {}
        self._index.unlink(change, self._bucket(table, heap.name(at, E_WORDS)), handle)
        if previous:
            change[words[heap.end - previous] + E_NEXT] = following
        else:
            change[home_at + T_FIRST] = following
        if following:
            change[words[heap.end - following] + E_PREVIOUS] = previous
        left = words[home_at + T_COUNT] - 1
        change[home_at + T_COUNT] = left
        change[MEMBERS] = words[MEMBERS] - 1
        self._changed(change, home_at)
        heap.free(change, handle)
        heap.commit(change)
        if not left:
            self._discard(home, table)

    def _discard(self, home: int, table: bytes) -> None:
        """Take away a table without members."""
        change: Change = {NAMED: self._words[NAMED] - 1}
        self._index.unlink(change, self._bucket(table), home)
        self._heap.free(change, home)
        self._heap.commit(change)

    def _make_room(self, length: int, now: int) -> bool:
        """Room for a record, at the expense of whatever is dead if need be.

        True if tables may have been removed for it. Raises `NoRoom`.
        """
        words = self._words
        try:
            self._heap.room_for(length)
            return False
        except NoRoom:
            # A full store refuses fast: look again only where there can be something.
            if now < words[SOONEST] and now < words[SWEPT] + SWEEP_AGAIN:
                raise
        self.sweep(now)
        self._heap.room_for(length)
        return True

    def sweep(self, now: int, shares: int = 1) -> None:
        """Look after one of ``shares`` parts: drop members that are dead, and empty tables."""
        words, heap = self._words, self._heap
        buckets, hand = self._index.turn(self._index.buckets // shares)
        soonest = NEVER
        for handle in self._index.records(buckets):
            at = words[heap.end - handle]
            # Dropping the last member of a table may have dropped a later record.
            if at >= heap.end:
                continue
            if heap.kind(at) == TABLE:
                if not words[at + T_COUNT]:
                    self._discard(handle, heap.name(at, T_WORDS))
            elif self._is_live(at, now):
                soonest = min(soonest, words[at + E_DEADLINE])
            else:
                home = words[at + E_TABLE]
                self._drop(home, heap.name(words[heap.end - home], T_WORDS), handle)
        change = {HAND: hand}
        if shares == 1:
            change[SOONEST], change[SWEPT] = soonest, now
        heap.commit(change)
