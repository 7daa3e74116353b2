"""Tables of members in the heap of the groups segment.

A table is a record that holds the first of its members, which are linked both ways;
tables and members share one hash table. Everything needs the segment's lock. Each
method is one or more whole changes: a kill leaves a table as before or after.
"""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.exceptions import StoreCorrupt

from ..base import MAX_NAME, TableInfo
from .heap import layout
from .heap.hash_table import NEVER, HashTable
from .heap.heap import MOVE, PASS, Heap, Pause
from .heap.incremental_sweep import IncrementalSweep
from .heap.journal import Change
from .heap.layout import (
    CHANGES,
    E_DEADLINE,
    E_NEXT,
    E_OWNER,
    E_PREVIOUS,
    E_TABLE,
    E_WORDS,
    LENGTH_MASK,
    MEMBER,
    MEMBERS,
    PAD_MASK,
    PAD_SHIFT,
    SOONEST,
    T_COUNT,
    T_FIRST,
    T_VERSION,
    T_WORDS,
    TABLE,
    WORD,
)
from .listing import Listing

#: What a member costs to be read, and how many are at a time.
_READ, _BATCH = 75, 32
#: Words of the longest member.
_LONGEST = E_WORDS + (MAX_NAME + 7 >> 3)
#: After so many changes on the way, reading a table goes on to its end in one hold of the lock.
_RESTARTS = 4


class Reading:
    """A list of members that is being read, over several holds of the lock."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        #: The soonest deadline among them.
        self.until = NEVER
        self.version = -1
        self.restarts = -1
        #: The member that comes next, the one before it, and how many are left.
        self.handle = self.before = self.left = 0


def member_name(table: bytes, member: bytes) -> bytes:
    """What of a member is hashed; for no other pair of names the same."""
    return b"%c%b%b" % (len(table), table, member)


class Tables:
    """All tables of a store. ``alive(word)`` tells whether an owner word's process is."""

    def __init__(
        self, heap: Heap, owner_alive: Callable[[int], bool], deaths: Callable[[], int]
    ) -> None:
        self._heap = heap
        self._words = heap.words
        self._hash_table = HashTable(heap, layout.T_CHAIN)
        self.incremental_sweep = IncrementalSweep(heap, self._hash_table, deaths)
        self._owner_alive = owner_alive

    def _bucket(self, table: bytes, member: bytes | None = None) -> int:
        if member is None:
            return self._hash_table.home(table)
        return self._hash_table.home(member_name(table, member))

    def _find(self, bucket: int, kind: int, name: bytes, table: int = 0) -> int:
        """Handle of the table, or of the member of ``table``, with that name; or 0."""
        words, heap = self._words, self._heap
        header = T_WORDS if kind == TABLE else E_WORDS
        for handle in self._hash_table.chain(bucket):
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
        """Add or renew a member. Raises `NoRoom`. May `Pause`; then nothing is added yet."""
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
        change[layout.NAMED] = words[layout.NAMED] + 1
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

    def read(self, table: bytes, reading: Reading, now: int) -> None:
        """Read on in the list of live members. May `Pause`.

        It is that of one instant: if it changes on the way, reading begins again. Where that
        happens time and again, it is read in one go, which takes as long as it is.
        """
        words, heap = self._words, self._heap
        home = self._find(self._bucket(table), TABLE, table)
        version = words[self._words_of(home) + T_VERSION] if home else 0
        if version != reading.version:
            reading.version = version
            reading.restarts += 1
            reading.names = []
            reading.until = NEVER
            reading.handle = words[self._words_of(home) + T_FIRST] if home else 0
            reading.before = 0
            reading.left = words[self._words_of(home) + T_COUNT] if home else 0
            if reading.left > heap.end // E_WORDS:
                raise StoreCorrupt("a table counts more members than there can be")
        while reading.left:
            if reading.restarts < _RESTARTS:
                heap.spend(_BATCH * _READ)
            self._read_some(reading, now)

    def _read_some(self, reading: Reading, now: int) -> None:
        """Read the next few members of a list."""
        words, view, end = self._words, self._heap.bytes, self._heap.end
        names, until = reading.names, reading.until
        before, handle = reading.before, reading.handle
        count = min(reading.left, _BATCH)
        alive: set[int] = {0}
        for _ in range(count):
            at = words[end - handle]
            if words[at + E_PREVIOUS] != before:
                raise StoreCorrupt("the members of a table do not point back")
            deadline, owner = words[at + E_DEADLINE], words[at + E_OWNER]
            if owner not in alive and self._owner_alive(owner):
                alive.add(owner)
            if deadline > now and owner in alive:
                # As `Log.name`, whose call others would wait for.
                meta = words[at]
                if meta & LENGTH_MASK > _LONGEST:
                    raise StoreCorrupt(f"the record at {at} has a name longer than any")
                stop = (at + (meta & LENGTH_MASK)) * WORD - (meta >> PAD_SHIFT & PAD_MASK)
                names.append(view[(at + E_WORDS) * WORD : stop].tobytes())
                if deadline < until:
                    until = deadline
            before, handle = handle, words[at + E_NEXT]
        reading.until, reading.before, reading.handle = until, before, handle
        reading.left -= count

    def list_some(self, listing: Listing, found: list[TableInfo]) -> None:
        """Go on with a listing of all tables. May `Pause`; if it does not, that was the last."""
        words, heap = self._words, self._heap
        for bucket in self._hash_table.used(listing.bucket, listing.move):
            for handle in list(self._hash_table.chain(bucket)):
                at = words[heap.end - handle]
                heap.spend(3 * PASS)
                if heap.kind(at) != TABLE or not words[at + T_COUNT]:
                    continue
                heap.spend(2 * PASS)
                name = heap.name(at, T_WORDS)
                if not listing.has(name):
                    found.append(TableInfo(name, words[at + T_COUNT]))
                    listing.add(name)

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
        self._hash_table.unlink(change, self._bucket(table, heap.name(at, E_WORDS)), handle)
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
        change: Change = {layout.NAMED: self._words[layout.NAMED] - 1}
        self._hash_table.unlink(change, self._bucket(table), home)
        self._heap.free(change, home)
        self._heap.commit(change)

    def _make_room(self, length: int, now: int) -> bool:
        """Make room for a record; True if tables may have gone for it. See `IncrementalSweep`."""
        return self.incremental_sweep.make_room(length, now, lambda: self.sweep(now))

    def sweep(self, now: int) -> None:
        """Go on with the round: drop members that are dead, and empty tables.

        May `Pause`; if it does not, the round is done.
        """
        try:
            for bucket in self.incremental_sweep.go_on(now):
                self._maintain(bucket, now)
        except Pause:
            self.incremental_sweep.pause()
            raise

    def _maintain(self, bucket: int, now: int) -> None:
        """Drop what is dead of one bucket."""
        words, heap = self._words, self._heap
        for handle in list(self._hash_table.chain(bucket)):
            heap.spend(2 * PASS)
            at = words[heap.end - handle]
            # Dropping the last member of a table may have dropped a later record.
            if at >= heap.end:
                continue
            if heap.kind(at) == TABLE:
                if not words[at + T_COUNT]:
                    heap.spend(MOVE)
                    self._discard(handle, heap.name(at, T_WORDS))
            elif self._is_live(at, now):
                self.incremental_sweep.saw(words[at + E_DEADLINE])
            else:
                heap.spend(2 * MOVE)
                home = words[at + E_TABLE]
                self._drop(home, heap.name(words[heap.end - home], T_WORDS), handle)
