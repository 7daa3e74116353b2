"""The full check of a store: every word accounted for, every record in exactly one place.

For tests, and for a user who wants to know. Needs the lock of the segment, and no kill
in the middle of a change since the last entry (entering repairs that).
"""

from __future__ import annotations

from collections.abc import Iterator

from .heap import Heap
from .layout import (
    CHANNELS,
    CURSOR,
    CURSOR_END,
    E_CHAIN,
    E_NEXT,
    E_PREVIOUS,
    E_TABLE,
    E_WORDS,
    EXTENTS_USED,
    FREE,
    FREE_EXTENT,
    FREE_EXTENTS,
    FREE_ID,
    FREE_NODE,
    GONE,
    ID_SHIFT,
    IDS_RESERVED,
    IDS_USED,
    KIND_MASK,
    KIND_SHIFT,
    LENGTH_MASK,
    LINK_MASK,
    M_LINK,
    MEMBER,
    MESSAGE,
    NAMED,
    NODE_NEXT,
    NODE_WORDS,
    NODES_USED,
    PIECE,
    PUSHED,
    Q_CHAIN,
    Q_GONE,
    Q_HEAD,
    Q_PUSHED,
    Q_TAIL,
    Q_WAIT_FIRST,
    Q_WAIT_LAST,
    Q_WORDS,
    QUEUE,
    SPLIT,
    T_COUNT,
    T_FIRST,
    T_WORDS,
    TABLE,
)


def check(heap: Heap) -> list[str]:
    """What is wrong with a segment, in words; empty if nothing is."""
    return list(_Checker(heap).run())


class _Checker:
    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self.words = heap.words
        self.geometry = heap.geometry
        #: Address -> handle of every live record.
        self.records: dict[int, int] = {}
        #: Handles that something points to.
        self.reached: list[int] = []

    def run(self) -> Iterator[str]:
        """All findings."""
        yield from self.handles()
        yield from self.extents()
        if self.geometry.kind == CHANNELS:
            yield from self.queues()
        else:
            yield from self.tables()
        reached = sorted(self.reached)
        if reached != sorted(self.records.values()):
            lost = sorted(set(self.records.values()) - set(reached))
            yield f"records that nothing holds: {lost}, or held more than once"

    def address(self, handle: int) -> int:
        return self.words[self.heap.end - handle]

    def kind(self, handle: int) -> int:
        return self.words[self.address(handle)] >> KIND_SHIFT & KIND_MASK

    def handles(self) -> Iterator[str]:
        used = self.words[IDS_USED]
        if used > self.words[IDS_RESERVED]:
            yield "more handles are used than reserved"
        free = set()
        handle = self.words[FREE_ID]
        while handle and handle not in free:
            free.add(handle)
            entry = self.address(handle)
            if not entry & FREE:
                yield f"handle {handle} is on the free list and has a record"
                return
            handle = entry & ~FREE
        if handle:
            yield "the list of free handles is a circle"
        for handle in range(1, used + 1):
            entry = self.address(handle)
            if entry & FREE:
                if handle not in free:
                    yield f"handle {handle} is free and not on the list"
            elif entry in self.records:
                yield f"handles {handle} and {self.records[entry]} have the same record"
            else:
                self.records[entry] = handle
                if self.words[entry] >> ID_SHIFT != handle:
                    yield f"the record of handle {handle} says it is another's"

    def extents(self) -> Iterator[str]:
        words, geometry = self.words, self.geometry
        size = geometry.extent_words
        used = words[EXTENTS_USED]
        free: list[int] = []
        extent = words[FREE_EXTENT]
        while extent and len(free) <= used:
            free.append(extent - 1)
            extent = words[geometry.extent_next + extent - 1]
        if len(free) != words[FREE_EXTENTS] or len(set(free)) != len(free):
            yield "the list of free extents does not agree with its count"
        cursor, end = words[CURSOR], words[CURSOR_END]
        current = (end - geometry.first_extent) // size - 1 if end else -1
        if current in free:
            yield "the current extent is on the free list"
        for extent in range(used):
            start = geometry.first_extent + extent * size
            stop = cursor if extent == current else start + size
            live = sum(
                words[address] & LENGTH_MASK for address in self.records if start <= address < stop
            )
            if live != words[geometry.extent_live + extent]:
                yield f"extent {extent} has {live} live words and says otherwise"
            if (extent in free) == bool(live) and extent != current:
                yield f"extent {extent} has {live} live words and is free: {extent in free}"
            if extent in free:
                continue
            address = start
            tiles = set()
            while address < stop and words[address] & LENGTH_MASK:
                tiles.add(address)
                address += words[address] & LENGTH_MASK
            if address != stop:
                yield f"extent {extent} is not filled by its records"
            if {a for a in self.records if start <= a < stop} - tiles:
                yield f"extent {extent} has a record inside another"

    def chains(self, chain: int) -> Iterator[tuple[int, int]]:
        """Bucket and handle of every record in the hash table."""
        table = self.geometry.hash_table
        for bucket in range(self.geometry.buckets):
            handle = self.words[table + bucket]
            while handle:
                yield table + bucket, handle
                handle = self.words[self.address(handle) + chain]

    def pieces(self, handle: int) -> None:
        """Note the pieces of a record as reached."""
        while True:
            self.reached.append(handle)
            address = self.address(handle)
            meta = self.words[address]
            if not meta & SPLIT:
                return
            handle = self.words[address + (meta & LENGTH_MASK) - 1]
            if self.kind(handle) != PIECE:
                raise ValueError(f"a record goes on in one of kind {self.kind(handle)}")

    def queues(self) -> Iterator[str]:
        from .queues import Queues

        words = self.words
        find = Queues(self.heap, bool, bool).find
        named = pending = waiting = 0
        for _, handle in self.chains(Q_CHAIN):
            named += 1
            self.reached.append(handle)
            at = self.address(handle)
            name = self.heap.payload(at, Q_WORDS)
            if self.kind(handle) != QUEUE or find(name) != handle:
                yield f"queue {name!r} can't be found by its name"
            message, last, count = words[at + Q_HEAD], 0, 0
            while message:
                if self.kind(message) != MESSAGE:
                    yield f"queue {name!r} holds a record of kind {self.kind(message)}"
                self.pieces(message)
                last, count = message, count + 1
                message = words[self.address(message) + M_LINK] & LINK_MASK
            if count and last != words[at + Q_TAIL]:
                yield f"queue {name!r} does not end at its tail"
            if count != words[at + Q_PUSHED] - words[at + Q_GONE]:
                yield f"queue {name!r} has {count} messages and counts otherwise"
            pending += count
            node, last = words[at + Q_WAIT_FIRST], 0
            while node:
                waiting += 1
                last = node
                node = words[self.geometry.nodes + (node - 1) * NODE_WORDS + NODE_NEXT]
            if last and last != words[at + Q_WAIT_LAST]:
                yield f"the waiters of queue {name!r} do not end at the last"
        if named != words[NAMED]:
            yield f"there are {named} queues and {words[NAMED]} are counted"
        if pending != words[PUSHED] - words[GONE]:
            yield f"there are {pending} messages and {words[PUSHED] - words[GONE]} are counted"
        node, free = words[FREE_NODE], 0
        while node:
            free += 1
            node = words[self.geometry.nodes + (node - 1) * NODE_WORDS + NODE_NEXT]
        if free + waiting != words[NODES_USED]:
            yield f"{free} free and {waiting} waiting nodes are not {words[NODES_USED]}"

    def tables(self) -> Iterator[str]:
        words = self.words
        members: dict[int, int] = {}
        named = 0
        for _, handle in self.chains(E_CHAIN):
            self.reached.append(handle)
            if self.kind(handle) == MEMBER:
                home = words[self.address(handle) + E_TABLE]
                members[home] = members.get(home, 0) + 1
            elif self.kind(handle) != TABLE:
                yield f"the hash table holds a record of kind {self.kind(handle)}"
        for _, handle in self.chains(E_CHAIN):
            if self.kind(handle) != TABLE:
                continue
            named += 1
            at = self.address(handle)
            name = self.heap.payload(at, T_WORDS)
            count, before, member = 0, 0, words[at + T_FIRST]
            while member:
                here = self.address(member)
                if words[here + E_PREVIOUS] != before or words[here + E_TABLE] != handle:
                    text = self.heap.payload(here, E_WORDS)
                    yield f"member {text!r} of table {name!r} does not point back"
                before, member, count = member, words[here + E_NEXT], count + 1
            if not count == words[at + T_COUNT] == members.pop(handle, 0):
                yield f"table {name!r} has {count} members and counts otherwise"
        if members:
            yield f"members without a table: {members}"
        if named != words[NAMED]:
            yield f"there are {named} tables and {words[NAMED]} are counted"
