"""The full check of a store: every word accounted for, every record in exactly one place.

For tests, and for a user who wants to know. Needs the lock of the segment, and no kill
in the middle of a change since the last entry (entering repairs that). It changes
nothing, and ends on any contents: each loop is bounded by how many records there can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from ..exceptions import StoreCorrupt
from .counts import pending
from .heap import Heap
from .index import NEVER, Index
from .lanes import Lanes
from .layout import (
    BACKLOG,
    BEHIND_SHIFT,
    CHANNELS,
    CLEANING,
    COUNT_SHIFT,
    CURSOR,
    CURSOR_END,
    E_CHAIN,
    E_DEADLINE,
    E_NEXT,
    E_PREVIOUS,
    E_TABLE,
    E_WORDS,
    ENTRY_DEAD,
    ENTRY_DEADLINE,
    EXPIRED,
    EXTENTS_USED,
    FLUSHED,
    FREE,
    FREE_EXTENT,
    FREE_EXTENTS,
    FREE_ID,
    FREE_NODE,
    FRONT_SHIFT,
    GONE,
    HIGH_WATER,
    ID_SHIFT,
    IDLE,
    IDS_RESERVED,
    IDS_USED,
    KIND_MASK,
    KIND_SHIFT,
    L_NEXT,
    L_QUEUE,
    LANE,
    LANES,
    LEFTOVER,
    LENGTH_MASK,
    LINK_MASK,
    LIVE,
    M_DEADLINE,
    M_LINK,
    M_SIZE,
    M_WORDS,
    MEMBER,
    MEMBERS,
    MESSAGE,
    NAMED,
    NODE_NEXT,
    NODE_WORDS,
    NODES,
    NODES_USED,
    ORPHANED,
    PIECE,
    PUSHED,
    Q_BELL,
    Q_BYTES,
    Q_CHAIN,
    Q_GONE,
    Q_HIGH_WATER,
    Q_IN,
    Q_LANE_IN,
    Q_LANE_OUT,
    Q_OUT,
    Q_PUSHED,
    Q_TAIL,
    Q_UNSEEN,
    Q_WAIT_FIRST,
    Q_WAIT_LAST,
    Q_WALK,
    Q_WORDS,
    QUEUE,
    SOONEST,
    SPLIT,
    STATE,
    T_COUNT,
    T_FIRST,
    T_WORDS,
    TABLE,
    UNSEEN,
    WALK_SHIFT,
    WORD,
)
from .lists import WALKS, head, takes
from .tables import member_name
from .upkeep import soonest_of

#: More findings than this say nothing more.
_MOST = 100
#: What contents that contradict themselves make Python raise.
_CONTRADICTIONS = (LookupError, ValueError, OverflowError, StoreCorrupt)


def check(heap: Heap) -> list[str]:
    """What is wrong with a segment, in words; empty if nothing is."""
    checker = _Checker(heap)
    return list(islice(checker.run(), _MOST))


class _Circle(ValueError):
    """A list that does not end."""


class _Checker:
    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self.words = heap.words
        self.geometry = heap.geometry
        #: No list of records, handles or wait nodes is longer.
        records = min(self.words[IDS_USED], heap.end - heap.geometry.first_extent)
        self.most = max(records, NODES)
        #: Nothing expires before this.
        self.soonest = min(self.words[SOONEST], self.words[UNSEEN])
        #: Address -> handle of every live record.
        self.records: dict[int, int] = {}
        #: Handles that something points to.
        self.reached: list[int] = []

    def run(self) -> Iterator[str]:
        """All findings."""
        if self.words[STATE] != IDLE:
            yield f"the state is {self.words[STATE]}: a change has not been ended"
        yield from self.guarded("the handles", self.handles)
        yield from self.guarded("the extents", self.extents)
        yield from self.guarded("what is left of a record", self.leftover)
        if self.geometry.kind == CHANNELS:
            yield from self.guarded("the counts", self.counts)
            yield from self.guarded("the queues", self.queues)
        else:
            yield from self.guarded("the tables", self.tables)
        reached, live = sorted(self.reached), sorted(self.records.values())
        if reached != live:
            lost = sorted(set(live) - set(reached))
            yield f"records that nothing holds: {lost[:10]}, or held more than once"

    def guarded(self, what: str, part: Callable[[], Iterator[str]]) -> Iterator[str]:
        """The findings of a part, the last of which may be that it can't be followed."""
        try:
            yield from part()
        except _CONTRADICTIONS as error:
            yield f"{what} can't be followed to the end ({type(error).__name__}: {error})"

    def follow(self, first: int, following: Callable[[int], int], what: str) -> Iterator[int]:
        """The items of a linked list, each once."""
        item = first
        for _ in range(self.most):
            if not item:
                return
            yield item
            item = following(item)
        if item:
            raise _Circle(f"{what} does not end")

    def address(self, handle: int) -> int:
        address = self.words[self.heap.end - handle] if handle <= self.heap.end else FREE
        if not self.geometry.first_extent <= address < self.heap.end:
            raise ValueError(f"handle {handle} has no record")
        return address

    def kind(self, handle: int) -> int:
        return self.words[self.address(handle)] >> KIND_SHIFT & KIND_MASK

    # ---- the heap

    def handles(self) -> Iterator[str]:
        words, end = self.words, self.heap.end
        used, reserved = words[IDS_USED], words[IDS_RESERVED]
        stop = self.geometry.first_extent + words[EXTENTS_USED] * self.geometry.extent_words
        if not used <= reserved <= end - stop:
            yield f"{used} handles are used, {reserved} reserved, and the extents end at {stop}"
            return
        free = set()
        entry = words[FREE_ID]
        while entry:
            if entry > used or entry in free or not words[end - entry] & FREE:
                yield f"the list of free handles is broken at {entry}"
                break
            free.add(entry)
            entry = words[end - entry] & ~FREE
        # Handle 1 is the last word.
        for handle, entry in enumerate(reversed(words[end - used : end].tolist()), 1):
            if entry & FREE:
                if handle not in free:
                    yield f"handle {handle} is free and not on the list"
            elif not self.geometry.first_extent <= entry < stop:
                yield f"handle {handle} points to {entry}, where no record can be"
            elif entry in self.records:
                yield f"handles {handle} and {self.records[entry]} have the same record"
            else:
                self.records[entry] = handle
                if words[entry] >> ID_SHIFT != handle:
                    yield f"the record of handle {handle} says it is another's"

    def extents(self) -> Iterator[str]:
        words, geometry = self.words, self.geometry
        size, first = geometry.extent_words, geometry.first_extent
        used = words[EXTENTS_USED]
        free: list[int] = []
        extent = words[FREE_EXTENT]
        while extent and len(free) <= used:
            free.append(extent - 1)
            extent = words[geometry.extent_next + extent - 1]
        if len(free) != words[FREE_EXTENTS] or len(set(free)) != len(free):
            yield "the list of free extents does not agree with its count"
        if any(extent >= used for extent in free):
            yield "the list of free extents has one that was never reserved"
        cursor, end = words[CURSOR], words[CURSOR_END]
        current = -1
        if end:
            current, rest = divmod(end - first, size)
            current -= 1
            if rest or not 0 <= current < used or not end - size <= cursor <= end:
                yield f"the cursor {cursor} .. {end} is in no extent"
                return
        elif cursor:
            yield f"the cursor {cursor} has no extent"
        if current in free:
            yield "the current extent is on the free list"
        if words[LIVE] != sum(words[geometry.extent_live : geometry.extent_live + used].tolist()):
            yield f"{words[LIVE]} live words are counted in all, and the extents say otherwise"
        cleaning = words[CLEANING]
        if cleaning and not (
            first <= cleaning < first + used * size and (cleaning - first) // size not in free
        ):
            yield f"an extent is being cleaned at {cleaning}, where there is nothing to clean"
        inside: dict[int, list[int]] = {}
        for address in self.records:
            inside.setdefault((address - first) // size, []).append(address)
        for extent in range(used):
            start = first + extent * size
            stop = cursor if extent == current else start + size
            records = {address for address in inside.get(extent, ()) if address < stop}
            live = sum(words[address] & LENGTH_MASK for address in records)
            if live != words[geometry.extent_live + extent]:
                yield f"extent {extent} has {live} live words and says otherwise"
            if (extent in free) == bool(live) and extent != current:
                yield f"extent {extent} has {live} live words and is free: {extent in free}"
            if len(records) != len(inside.get(extent, ())):
                yield f"extent {extent} has a record behind the cursor"
            if extent in free:
                continue
            address = start
            tiles = set()
            while address < stop and words[address] & LENGTH_MASK:
                tiles.add(address)
                address += words[address] & LENGTH_MASK
            if address != stop:
                yield f"extent {extent} is not filled by its records"
            if records - tiles:
                yield f"extent {extent} has a record inside another"
            if cleaning and (cleaning - first) // size == extent and cleaning not in tiles:
                yield f"extent {extent} is being cleaned at {cleaning}, which is inside a record"

    # ---- what the records hold

    def chains(self, chain: int) -> Iterator[tuple[int, int]]:
        """Bucket and handle of every record in the hash table."""
        table = self.geometry.hash_table
        heads = self.words[table : table + self.geometry.buckets].tolist()
        for bucket, first in enumerate(heads, table):
            for handle in self.follow(
                first, lambda handle: self.words[self.address(handle) + chain], "a chain"
            ):
                yield bucket, handle

    def pieces(self, handle: int) -> None:
        """Note the pieces of a record as reached."""
        for _ in range(self.most):
            self.reached.append(handle)
            address = self.address(handle)
            meta = self.words[address]
            if not meta & SPLIT:
                return
            handle = self.words[address + (meta & LENGTH_MASK) - 1]
            if self.kind(handle) != PIECE:
                raise ValueError(f"a record goes on in one of kind {self.kind(handle)}")
        raise _Circle("a record does not end")

    def leftover(self) -> Iterator[str]:
        """The pieces of a record that has gone."""
        handle = self.words[LEFTOVER]
        if handle:
            if self.kind(handle) != PIECE:
                yield f"what is left of a record is of kind {self.kind(handle)}"
            self.pieces(handle)

    def counts(self) -> Iterator[str]:
        words = self.words
        pushed, gone = words[PUSHED], words[GONE]
        if gone > pushed:
            yield f"{gone} messages are gone, and {pushed} came"
        elif pushed - gone > words[HIGH_WATER]:
            yield f"{pushed - gone} messages are more than the high-water mark {words[HIGH_WATER]}"
        if words[EXPIRED] + words[ORPHANED] + words[FLUSHED] > gone:
            yield f"more expired, were orphaned or flushed than the {gone} that are gone"

    def queues(self) -> Iterator[str]:
        words = self.words
        names: set[bytes] = set()
        messages = lanes = behind = 0
        waiting: list[int] = []
        for bucket, handle in self.chains(Q_CHAIN):
            self.reached.append(handle)
            at = self.address(handle)
            name = self.heap.payload(at, Q_WORDS)
            home = Index(self.heap, Q_CHAIN).home(name)
            if self.kind(handle) != QUEUE or bucket != home or name in names:
                yield f"queue {name!r} can't be found by its name"
            names.add(name)
            yield from self.messages(at, name)
            messages += pending(words, at)
            extents = self.lane_extents(at)
            if extents:
                lanes += 1
                behind += len(extents) - 1
                yield from self.lane(at, name, extents)
            if words[at + Q_WAIT_FIRST] and not words[at + Q_BELL]:
                yield f"queue {name!r} has waiters behind nobody"
            nodes = list(self.follow(words[at + Q_WAIT_FIRST], self.next_node, "a list of waiters"))
            waiting += nodes
            if nodes and nodes[-1] != words[at + Q_WAIT_LAST]:
                yield f"the waiters of queue {name!r} do not end at the last"
        if len(names) != words[NAMED]:
            yield f"there are {len(names)} queues and {words[NAMED]} are counted"
        if lanes != words[LANES]:
            yield f"there are {lanes} lanes and {words[LANES]} are counted"
        if behind != words[BACKLOG]:
            yield f"lanes have {behind} extents more and {words[BACKLOG]} are counted"
        if messages != words[PUSHED] - words[GONE]:
            yield f"there are {messages} messages and {words[PUSHED] - words[GONE]} are counted"
        waiting += self.follow(words[FREE_NODE], self.next_node, "the list of free nodes")
        used = words[NODES_USED]
        if used > NODES or sorted(waiting) != list(range(1, used + 1)):
            yield f"the {used} wait nodes are not in one place each"

    def messages(self, at: int, name: bytes) -> Iterator[str]:
        """The messages in the lists of the queue at an address."""
        words = self.words
        soonest = soonest_of(words, at)
        lists = {
            which: list(
                self.follow(
                    head(words, at, which),
                    lambda message: words[self.address(message) + M_LINK] & LINK_MASK,
                    f"queue {name!r}",
                )
            )
            for which in (FRONT_SHIFT, BEHIND_SHIFT)
        }
        messages = [message for each in lists.values() for message in each]
        took = len(self.lane_extents(at)) * self.geometry.extent_words * WORD
        for message in messages:
            here = self.address(message)
            if self.kind(message) != MESSAGE:
                yield f"queue {name!r} holds a record of kind {self.kind(message)}"
            self.pieces(message)
            took += takes(words[here + M_SIZE])
            if len(self.heap.payload(here, M_WORDS)) != words[here + M_SIZE]:
                yield f"queue {name!r} has a message of another size than it says"
            if words[here + M_DEADLINE] < soonest:
                yield f"queue {name!r} has a message that expires sooner than it says"
        if soonest < self.soonest and messages:
            yield f"queue {name!r} may expire sooner than the store says"
        if lists[BEHIND_SHIFT] and lists[BEHIND_SHIFT][-1] != words[at + Q_TAIL]:
            yield f"queue {name!r} does not end at its tail"
        if pending(words, at) > words[at + Q_HIGH_WATER]:
            yield f"queue {name!r} has {pending(words, at)} messages, over its high-water mark"
        if len(messages) != words[at + Q_PUSHED] - words[at + Q_GONE]:
            yield f"queue {name!r} has {len(messages)} messages and counts otherwise"
        if took != words[at + Q_BYTES]:
            yield f"queue {name!r} takes {took} bytes and counts {words[at + Q_BYTES]}"
        phase, kept = divmod(words[at + Q_WALK], 1 << WALK_SHIFT)
        which = {walk: which for which, walk in WALKS.items()}.get(phase)
        if which is not None and kept and kept not in lists[which]:
            yield f"queue {name!r} is searched from a message that it has not"
        if phase == 0 and (kept or words[at + Q_UNSEEN] != NEVER):
            yield f"queue {name!r} says that it is searched, and not where"

    def lane_extents(self, at: int) -> list[int]:
        """Where the extents are that the lane of the queue at an address has."""
        words = self.words
        last = words[at + Q_LANE_IN]
        return list(
            self.follow(
                words[at + Q_LANE_OUT],
                lambda lane: 0 if lane == last else words[lane + L_NEXT],
                "a lane",
            )
        )

    def lane(self, at: int, name: bytes, extents: list[int]) -> Iterator[str]:
        """The lane of the queue at an address."""
        words = self.words
        for lane in extents:
            handle = words[lane] >> ID_SHIFT
            self.reached.append(handle)
            if lane != self.address(handle) or self.kind(handle) != LANE:
                yield f"the lane of queue {name!r} is none"
                return
            if words[lane + L_QUEUE] != words[at] >> ID_SHIFT:
                yield f"the lane of queue {name!r} is another's"
        if extents[-1] != words[at + Q_LANE_IN]:
            yield f"the lane of queue {name!r} does not end where messages come in"
        count, soonest = 0, soonest_of(words, at)
        for entry, _ in Lanes(self.heap).entries(at):
            if not words[entry] & ENTRY_DEAD:
                count += 1
                if words[entry + ENTRY_DEADLINE] < soonest:
                    yield f"the lane of queue {name!r} has a message that expires sooner"
        if count and soonest < self.soonest:
            yield f"queue {name!r} may expire sooner than the store says"
        if count != (words[at + Q_IN] >> COUNT_SHIFT) - (words[at + Q_OUT] >> COUNT_SHIFT):
            yield f"the lane of queue {name!r} has {count} messages and counts otherwise"

    def next_node(self, node: int) -> int:
        if node > self.words[NODES_USED]:
            raise ValueError(f"there is no wait node {node}")
        return self.words[self.geometry.nodes + (node - 1) * NODE_WORDS + NODE_NEXT]

    def tables(self) -> Iterator[str]:
        words, index = self.words, Index(self.heap, E_CHAIN)
        members: dict[int, int] = {}
        named = total = 0
        for bucket, handle in self.chains(E_CHAIN):
            self.reached.append(handle)
            at = self.address(handle)
            if self.kind(handle) == MEMBER:
                owner = words[at + E_TABLE]
                members[owner] = members.get(owner, 0) + 1
                total += 1
                table = self.heap.payload(self.address(owner), T_WORDS)
                name = self.heap.payload(at, E_WORDS)
                home = index.home(member_name(table, name))
                if words[at + E_DEADLINE] < self.soonest:
                    yield f"member {name!r} of {table!r} expires sooner than the store says"
            elif self.kind(handle) == TABLE:
                home = index.home(self.heap.payload(at, T_WORDS))
            else:
                yield f"the hash table holds a record of kind {self.kind(handle)}"
                continue
            if bucket != home:
                yield f"record {handle} can't be found by its name"
        for _, handle in self.chains(E_CHAIN):
            if self.kind(handle) != TABLE:
                continue
            named += 1
            at = self.address(handle)
            name = self.heap.payload(at, T_WORDS)
            count = before = 0
            for member in self.follow(
                words[at + T_FIRST], lambda each: words[self.address(each) + E_NEXT], "a table"
            ):
                here = self.address(member)
                if words[here + E_PREVIOUS] != before or words[here + E_TABLE] != handle:
                    text = self.heap.payload(here, E_WORDS)
                    yield f"member {text!r} of table {name!r} does not point back"
                before, count = member, count + 1
            if not count == words[at + T_COUNT] == members.pop(handle, 0):
                yield f"table {name!r} has {count} members and counts otherwise"
        if members:
            yield f"members without a table: {members}"
        if named != words[NAMED] or total != words[MEMBERS]:
            yield (
                f"there are {named} tables and {total} members, and {words[NAMED]} and "
                f"{words[MEMBERS]} are counted"
            )
