"""The full check of a store: every word accounted for, every record in exactly one place.

For tests, and for `asgi-ipc check`. The caller holds the segment's lock, or has made a copy, and
has entered the segment before, which completes the changes of killed processes. The check changes
nothing, and ends on any contents: each loop is bounded by how many records there can be.

Memory is bounded, too: what is large is read in slices of `SLICE` words, and each handle in use
takes two bits. A handle that holds nothing is a finding, and the check ends with `_MOST` of these;
so a store that is large in name alone needs no more than a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from asgi_ipc.exceptions import StoreCorrupt

from .check_records import SLICE, Circle, Records
from .heap import layout
from .heap.hash_table import NEVER, HashTable
from .heap.heap import Heap
from .heap.layout import CHANNELS, WORD
from .queues.counters import pending
from .queues.linked_list import WALKS, head, takes
from .queues.ring_extents import RingExtents
from .queues.sweeper import soonest_of
from .tables import member_name

#: More findings than this say nothing more.
_MOST = 100
_EMPTY = bytes(SLICE * WORD)
#: What contents that contradict themselves make Python raise.
_CONTRADICTIONS = (LookupError, ValueError, OverflowError, StoreCorrupt)


def check(heap: Heap) -> list[str]:
    """What is wrong with a segment, in words; empty if nothing is."""
    checker = _Checker(heap)
    return list(islice(checker.run(), _MOST))


class _Checker:
    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self.words = heap.words
        self.geometry = heap.geometry
        self.records = Records(heap)
        #: Nothing expires before this.
        self.soonest = min(self.words[layout.SOONEST], self.words[layout.UNSEEN])

    def run(self) -> Iterator[str]:
        """All findings."""
        if self.words[layout.STATE] != layout.IDLE:
            yield f"the state is {self.words[layout.STATE]}: a change has not been ended"
        yield from self.guarded("the handles", self.records.handles)
        yield from self.guarded("the extents", self.records.extents)
        yield from self.guarded("what is left of a record", self.leftover)
        if self.geometry.kind == CHANNELS:
            yield from self.guarded("the counts", self.counts)
            yield from self.guarded("the queues", self.queues)
        else:
            yield from self.guarded("the tables", self.tables)
        if self.records.held != self.records.live:
            number = self.records.live - self.records.held
            yield f"{number} records that nothing holds: {list(islice(self.records.lost(), 10))}"

    def guarded(self, what: str, part: Callable[[], Iterator[str]]) -> Iterator[str]:
        """The findings of a part, the last of which may be that it can't be followed."""
        try:
            yield from part()
        except _CONTRADICTIONS as error:
            yield f"{what} can't be followed to the end ({type(error).__name__}: {error})"

    # ---- what the records hold

    def chains(self, chain: int) -> Iterator[tuple[int, int]]:
        """Bucket and handle of every record in the hash table."""
        table, buckets = self.geometry.hash_table, self.geometry.buckets

        def following(handle: int) -> int:
            return self.words[self.records.address(handle) + chain]

        for start in range(table, table + buckets, SLICE):
            stop = min(start + SLICE, table + buckets)
            block = self.heap.bytes[start * WORD : stop * WORD].tobytes()
            if block == _EMPTY[: len(block)]:
                continue
            for bucket, first in enumerate(memoryview(block).cast("Q"), start):
                for handle in self.records.follow(first, following, "a chain"):
                    yield bucket, handle

    def pieces(self, handle: int, header: int = 1) -> int:
        """Note the pieces of a record as reached; the bytes that follow its ``header`` words."""
        size = 0
        for _ in range(self.records.most):
            self.records.reach(handle)
            address = self.records.address(handle)
            meta = self.words[address]
            length = meta & layout.LENGTH_MASK
            size += (length - header) * WORD
            if not meta & layout.SPLIT:
                return size - (meta >> layout.PAD_SHIFT & layout.PAD_MASK)
            size -= WORD
            handle, header = self.words[address + length - 1], 1
            if self.records.kind(handle) != layout.PIECE:
                raise ValueError(f"a record goes on in one of kind {self.records.kind(handle)}")
        raise Circle("a record does not end")

    def leftover(self) -> Iterator[str]:
        """The pieces of a record that has gone."""
        handle = self.words[layout.LEFTOVER]
        if handle:
            if self.records.kind(handle) != layout.PIECE:
                yield f"what is left of a record is of kind {self.records.kind(handle)}"
            self.pieces(handle)

    def counts(self) -> Iterator[str]:
        words = self.words
        pushed, gone = words[layout.PUSHED], words[layout.GONE]
        if gone > pushed:
            yield f"{gone} messages are gone, and {pushed} came"
        elif pushed - gone > (most := words[layout.HIGH_WATER]):
            yield f"{pushed - gone} messages are more than the high-water mark {most}"
        if words[layout.EXPIRED] + words[layout.ORPHANED] + words[layout.FLUSHED] > gone:
            yield f"more expired, were orphaned or flushed than the {gone} that are gone"

    def queues(self) -> Iterator[str]:
        words, hash_table = self.words, HashTable(self.heap, layout.Q_CHAIN)
        names: set[bytes] = set()
        queues = messages = rings = behind = last = 0
        waiting = bytearray(layout.NODES + 1)
        for bucket, handle in self.chains(layout.Q_CHAIN):
            self.records.reach(handle)
            at = self.records.address(handle)
            name = self.heap.name(at, layout.Q_WORDS)
            if bucket != last:
                # Of one name there are two in one chain, or one of them is found to be elsewhere.
                names.clear()
                last = bucket
            queues += 1
            if (
                self.records.kind(handle) != layout.QUEUE
                or bucket != hash_table.home(name)
                or name in names
            ):
                yield f"queue {name!r} can't be found by its name"
            names.add(name)
            extents = self.ring_extents(at)
            yield from self.messages(at, name, len(extents))
            messages += pending(words, at)
            if extents:
                rings += 1
                behind += len(extents) - 1
                yield from self.ring(at, name, extents)
            if words[at + layout.Q_WAIT_FIRST] and not words[at + layout.Q_BELL]:
                yield f"queue {name!r} has waiters behind nobody"
            node = 0
            for node in self.nodes(words[at + layout.Q_WAIT_FIRST], "a list of waiters"):
                waiting[node] += 1
            if node and node != words[at + layout.Q_WAIT_LAST]:
                yield f"the waiters of queue {name!r} do not end at the last"
        if queues != words[layout.NAMED]:
            yield f"there are {queues} queues and {words[layout.NAMED]} are counted"
        if rings != words[layout.RINGS]:
            yield f"there are {rings} rings and {words[layout.RINGS]} are counted"
        if behind != words[layout.BACKLOG]:
            yield f"rings have {behind} extents more and {words[layout.BACKLOG]} are counted"
        if messages != (counted := words[layout.PUSHED] - words[layout.GONE]):
            yield f"there are {messages} messages and {counted} are counted"
        for node in self.nodes(words[layout.FREE_NODE], "the list of free nodes"):
            waiting[node] += 1
        used = words[layout.NODES_USED]
        if used > layout.NODES or waiting[1:] != b"\1" * used + bytes(layout.NODES - used):
            yield f"the {used} wait nodes are not in one place each"

    def messages(self, at: int, name: bytes, extents: int) -> Iterator[str]:
        """The messages in the lists of the queue at an address, whose ring has some extents."""
        words = self.words
        soonest = soonest_of(words, at)
        took = extents * self.geometry.extent_words * WORD
        phase, kept = divmod(words[at + layout.Q_WALK], 1 << layout.WALK_SHIFT)
        is_kept = kept == 0 or phase not in WALKS.values()
        last = count = 0
        for which in (layout.FRONT_SHIFT, layout.BEHIND_SHIFT):
            for message in self.records.follow(
                head(words, at, which),
                lambda message: (
                    words[self.records.address(message) + layout.M_LINK] & layout.LINK_MASK
                ),
                f"queue {name!r}",
            ):
                if self.records.kind(message) != layout.MESSAGE:
                    yield f"queue {name!r} holds a record of kind {self.records.kind(message)}"
                here = self.records.address(message)
                size = words[here + layout.M_SIZE]
                if self.pieces(message, layout.M_WORDS) != size:
                    yield f"queue {name!r} has a message of another size than it says"
                took += takes(size)
                last, count = message, count + 1
                if words[here + layout.M_DEADLINE] < soonest:
                    yield f"queue {name!r} has a message that expires sooner than it says"
                if message == kept and phase == WALKS[which]:
                    is_kept = True
        if soonest < self.soonest and count:
            yield f"queue {name!r} may expire sooner than the store says"
        if head(words, at, layout.BEHIND_SHIFT) and last != words[at + layout.Q_TAIL]:
            yield f"queue {name!r} does not end at its tail"
        if pending(words, at) > words[at + layout.Q_HIGH_WATER]:
            yield f"queue {name!r} has {pending(words, at)} messages, over its high-water mark"
        if count != words[at + layout.Q_PUSHED] - words[at + layout.Q_GONE]:
            yield f"queue {name!r} has {count} messages and counts otherwise"
        if took != words[at + layout.Q_BYTES]:
            yield f"queue {name!r} takes {took} bytes and counts {words[at + layout.Q_BYTES]}"
        if not is_kept:
            yield f"queue {name!r} is searched from a message that it has not"
        if phase > layout.WALK_BEHIND or (
            not phase and (kept or words[at + layout.Q_UNSEEN] != NEVER)
        ):
            yield f"queue {name!r} says that it is searched, and not where"

    def ring_extents(self, at: int) -> list[int]:
        """Where the extents are that the ring of the queue at an address has."""
        words = self.words
        last = words[at + layout.Q_RING_IN]
        return list(
            self.records.follow(
                words[at + layout.Q_RING_OUT],
                lambda ring: 0 if ring == last else words[ring + layout.L_NEXT],
                "a ring",
                self.geometry.extents,
            )
        )

    def ring(self, at: int, name: bytes, extents: list[int]) -> Iterator[str]:
        """The ring of the queue at an address."""
        words = self.words
        for ring in extents:
            handle = words[ring] >> layout.ID_SHIFT
            self.records.reach(handle)
            if ring != self.records.address(handle) or self.records.kind(handle) != layout.RING:
                yield f"the ring of queue {name!r} is none"
                return
            if words[ring + layout.L_QUEUE] != words[at] >> layout.ID_SHIFT:
                yield f"the ring of queue {name!r} is another's"
        if extents[-1] != words[at + layout.Q_RING_IN]:
            yield f"the ring of queue {name!r} does not end where messages come in"
        count, soonest = 0, soonest_of(words, at)
        for entry, _ in RingExtents(self.heap).entries(at):
            if not words[entry] & layout.ENTRY_DEAD:
                count += 1
                if words[entry + layout.ENTRY_DEADLINE] < soonest:
                    yield f"the ring of queue {name!r} has a message that expires sooner"
        if count and soonest < self.soonest:
            yield f"queue {name!r} may expire sooner than the store says"
        if count != (words[at + layout.Q_IN] >> layout.COUNT_SHIFT) - (
            words[at + layout.Q_OUT] >> layout.COUNT_SHIFT
        ):
            yield f"the ring of queue {name!r} has {count} messages and counts otherwise"

    def nodes(self, first: int, what: str) -> Iterator[int]:
        """The wait nodes of a list."""
        for node in self.records.follow(first, self.next_node, what, layout.NODES):
            if node > min(self.words[layout.NODES_USED], layout.NODES):
                raise ValueError(f"there is no wait node {node}")
            yield node

    def next_node(self, node: int) -> int:
        return self.words[self.geometry.nodes + (node - 1) * layout.NODE_WORDS + layout.NODE_NEXT]

    def tables(self) -> Iterator[str]:
        words, hash_table = self.words, HashTable(self.heap, layout.E_CHAIN)
        named = total = listed = 0
        for bucket, handle in self.chains(layout.E_CHAIN):
            self.records.reach(handle)
            at = self.records.address(handle)
            if self.records.kind(handle) == layout.MEMBER:
                total += 1
                table = self.heap.name(
                    self.records.address(words[at + layout.E_TABLE]), layout.T_WORDS
                )
                name = self.heap.name(at, layout.E_WORDS)
                home = hash_table.home(member_name(table, name))
                if words[at + layout.E_DEADLINE] < self.soonest:
                    yield f"member {name!r} of {table!r} expires sooner than the store says"
            elif self.records.kind(handle) == layout.TABLE:
                home = hash_table.home(self.heap.name(at, layout.T_WORDS))
            else:
                yield f"the hash table holds a record of kind {self.records.kind(handle)}"
                continue
            if bucket != home:
                yield f"record {handle} can't be found by its name"
        for _, handle in self.chains(layout.E_CHAIN):
            if self.records.kind(handle) != layout.TABLE:
                continue
            named += 1
            at = self.records.address(handle)
            name = self.heap.name(at, layout.T_WORDS)
            count = before = 0
            for member in self.records.follow(
                words[at + layout.T_FIRST],
                lambda each: words[self.records.address(each) + layout.E_NEXT],
                "a table",
            ):
                here = self.records.address(member)
                if (
                    words[here + layout.E_PREVIOUS] != before
                    or words[here + layout.E_TABLE] != handle
                ):
                    text = self.heap.name(here, layout.E_WORDS)
                    yield f"member {text!r} of table {name!r} does not point back"
                before, count = member, count + 1
            listed += count
            if count != words[at + layout.T_COUNT]:
                yield f"table {name!r} has {count} members and counts otherwise"
        if listed != total:
            yield f"there are {total} members, and {listed} in their tables"
        if named != words[layout.NAMED] or total != words[layout.MEMBERS]:
            yield (
                f"there are {named} tables and {total} members, and {words[layout.NAMED]} and "
                f"{words[layout.MEMBERS]} are counted"
            )
