"""What a member of a store's group may write on purpose, and no accident would.

`damage` spoils words at random. A forger knows the layout: lengths that never end, lists that
meet, and counts that allow for it.
"""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.heap import Heap

from .target import FAR, Target, at, full_lives

ALL_ONES = (1 << 64) - 1

Forgery = Callable[[Target], object]
FORGERIES: dict[str, Forgery] = {}


def forgery(function: Forgery) -> Forgery:
    """Note a forgery by the name of its function."""
    FORGERIES[function.__name__] = function
    return function


def _words(name: str, offset: int, *values: int) -> None:
    """A forgery of one word of both headers for each value."""
    for value in values:

        def forge(target: Target, value: int = value) -> None:
            for heap in (target.heap, target.groups):
                heap.words[offset] = value

        FORGERIES[f"{name}={value:#x}"] = forge


for _name in (
    "CURSOR", "CURSOR_END", "EXTENTS_USED", "FREE_EXTENT", "FREE_EXTENTS", "IDS_USED", "FREE_ID",
    "IDS_RESERVED", "PUSHED", "GONE", "EXPIRED", "HIGH_WATER", "NAMED", "MEMBERS", "FLUSHES",
    "CHANGES", "SOONEST", "SWEEP_CURSOR", "NODES_USED", "FREE_NODE", "RINGS", "TAGS", "BACKLOG",
    "NEXT_SWEEP", "SWEPT", "SWEPT_GONE", "TAKEN", "JOURNAL_COUNT", "STATE", "LEFT", "RETURNED",
    "RETURNED_EXTENTS", "RETURN_PENDING", "TOUCHED", "TRIMMING", "RETURNS",
):  # fmt: skip
    _words(_name, getattr(layout, _name), 0, 1, 1 << 62, ALL_ONES)


@forgery
def free_handles_in_a_circle_and_none_left(target: Target) -> None:
    for heap in (target.heap, target.groups):
        words = heap.words
        words[layout.FREE_ID] = 1
        words[heap.end - 1] = layout.FREE | 1
        words[layout.IDS_USED] = 1 << 62
        words[layout.IDS_RESERVED] = 0
        words[layout.CURSOR] = words[layout.CURSOR_END]


@forgery
def free_extents_in_a_circle(target: Target) -> None:
    for heap in (target.heap, target.groups):
        words = heap.words
        words[layout.FREE_EXTENT] = 1
        words[heap.geometry.extent_next] = 1
        words[layout.FREE_EXTENTS] = 1 << 62
        words[layout.CURSOR] = words[layout.CURSOR_END]


def _endless(target: Target, name: bytes, deadline: int, count: int = 1 << 40) -> None:
    """Let a list of messages be a circle of one that its queue says is very long."""
    heap, words = target.heap, target.heap.words
    queue, message = target.queue(name), target.first(name)
    words[at(heap, message) + layout.M_LINK] = 1 << 32 | message
    words[at(heap, message) + layout.M_DEADLINE] = deadline
    words[queue + layout.Q_PUSHED] = count
    words[queue + layout.Q_SOONEST] = words[layout.SOONEST] = 0


@forgery
def messages_in_a_circle(target: Target) -> None:
    _endless(target, b"listed", FAR)


@forgery
def messages_in_a_circle_as_many_as_can_be(target: Target) -> None:
    _endless(target, b"listed", FAR, target.heap.end // layout.M_WORDS)


@forgery
def expired_messages_in_a_circle(target: Target) -> None:
    _endless(target, b"listed", 0)


@forgery
def expired_messages_in_a_circle_that_no_extent_misses(target: Target) -> None:
    _endless(target, b"listed", 0)
    full_lives(target.heap)


@forgery
def large_messages_in_a_circle(target: Target) -> None:
    _endless(target, b"large", FAR)


@forgery
def large_messages_in_a_circle_that_no_extent_misses(target: Target) -> None:
    _endless(target, b"large", FAR)
    full_lives(target.heap)


@forgery
def messages_in_front_in_a_circle(target: Target) -> None:
    _endless(target, b"listed", 0)
    words, queue = target.heap.words, target.queue(b"listed")
    words[queue + layout.Q_HEADS] = words[queue + layout.Q_HEADS] << layout.FRONT_SHIFT
    full_lives(target.heap)


@forgery
def pieces_in_a_circle(target: Target) -> None:
    heap, words = target.heap, target.heap.words
    message = target.first(b"large")
    start = at(heap, message)
    words[start + (words[start] & layout.LENGTH_MASK) - 1] = message
    full_lives(heap)


@forgery
def pieces_without_length_in_a_circle(target: Target) -> None:
    heap, words = target.heap, target.heap.words
    message = target.first(b"large")
    start = at(heap, message)
    words[start] = words[start] & ~layout.LENGTH_MASK | 1
    words[start] |= layout.SPLIT
    words[start - 0] = words[start] & ((1 << 32) - 1) | message << layout.ID_SHIFT
    full_lives(heap)


def _one_chain(heap: Heap, link: int, kinds: tuple[int, ...], circle: bool) -> None:
    """String all records of some kinds into one chain, and let every bucket begin with it."""
    words, geometry = heap.words, heap.geometry
    used = words[layout.IDS_USED]
    handles = [
        handle
        for handle in range(1, used + 1)
        if at(heap, handle) < heap.end and heap.kind(at(heap, handle)) in kinds
    ]
    for handle, following in zip(handles, [*handles[1:], handles[0] if circle else 0], strict=True):
        words[at(heap, handle) + link] = following
    for bucket in range(geometry.buckets):
        words[geometry.hash_table + bucket] = handles[0]


@forgery
def every_bucket_begins_one_long_chain_of_queues(target: Target) -> None:
    _one_chain(target.heap, layout.Q_CHAIN, (layout.QUEUE,), circle=False)


@forgery
def every_bucket_begins_one_circle_of_queues(target: Target) -> None:
    _one_chain(target.heap, layout.Q_CHAIN, (layout.QUEUE,), circle=True)


@forgery
def every_bucket_begins_one_long_chain_of_members(target: Target) -> None:
    _one_chain(target.groups, 1, (layout.TABLE, layout.MEMBER), circle=False)


@forgery
def every_bucket_begins_one_circle_of_members(target: Target) -> None:
    _one_chain(target.groups, 1, (layout.TABLE, layout.MEMBER), circle=True)


@forgery
def a_killed_push_and_one_long_chain(target: Target) -> None:
    state = layout.PUSHING | target.queue(b"ring")
    _one_chain(target.heap, layout.Q_CHAIN, (layout.QUEUE,), circle=False)
    target.heap.words[layout.STATE] = state


@forgery
def a_killed_pop_and_one_circle(target: Target) -> None:
    state = layout.POPPING | target.queue(b"ring")
    _one_chain(target.heap, layout.Q_CHAIN, (layout.QUEUE,), circle=True)
    target.heap.words[layout.STATE] = state


@forgery
def a_killed_push_to_what_is_no_queue(target: Target) -> None:
    target.heap.words[layout.STATE] = layout.PUSHING | at(target.heap, target.first(b"listed"))


def _committed(change: Callable[[Target], dict[int, int]]) -> Forgery:
    def forge(target: Target) -> None:
        for heap in (target.heap, target.groups):
            words, pairs = heap.words, change(target)
            for location, word in enumerate((*pairs, *pairs.values())):
                words[layout.JOURNAL + location] = word
            words[layout.JOURNAL_COUNT], words[layout.JOURNAL_AFTER] = len(pairs), layout.IDLE
            words[layout.STATE] = layout.COMMITTED

    return forge


FORGERIES["a journal of the hash table"] = _committed(
    lambda target: {target.heap.geometry.hash_table + n: 5 for n in range(512)}
)
FORGERIES["a journal of itself"] = _committed(lambda target: {layout.JOURNAL + 1: 5})
FORGERIES["a journal of the size"] = _committed(lambda target: {layout.W_SIZE: 1 << 40})
FORGERIES["a journal of what is not there"] = _committed(lambda target: {1 << 62: 5})
FORGERIES["a journal of handles"] = _committed(
    lambda target: {target.groups.end - n: FAR for n in range(1, 400)}
)


@forgery
def every_record_says_that_it_is_huge(target: Target) -> None:
    for heap in (target.heap, target.groups):
        for handle in range(1, heap.words[layout.IDS_USED] + 1):
            if at(heap, handle) < heap.end:
                heap.words[at(heap, handle)] |= layout.LENGTH_MASK


def _huge_name(heap: Heap, handle: int) -> None:
    """Let a name go on as pieces of everything there is, and again in itself."""
    words = heap.words
    start = at(heap, handle)
    words[start] |= layout.LENGTH_MASK | layout.SPLIT
    last = start + layout.LENGTH_MASK - 1
    if last < heap.end:
        words[last] = handle


@forgery
def names_of_queues_are_huge(target: Target) -> None:
    heap = target.heap
    _one_chain(heap, layout.Q_CHAIN, (layout.QUEUE,), circle=True)
    for handle in range(1, heap.words[layout.IDS_USED] + 1):
        if at(heap, handle) < heap.end and heap.kind(at(heap, handle)) == layout.QUEUE:
            _huge_name(heap, handle)


@forgery
def members_in_a_circle_with_huge_names(target: Target) -> None:
    heap, words = target.groups, target.groups.words
    table, member = target.table(b"t"), target.member(b"t")
    words[at(heap, member) + layout.E_NEXT] = member
    words[table + layout.T_COUNT] = heap.end // layout.E_WORDS
    words[at(heap, member)] |= layout.LENGTH_MASK
    words[layout.CHANGES] += 1


@forgery
def members_in_a_circle(target: Target) -> None:
    heap, words = target.groups, target.groups.words
    table, member = target.table(b"t"), target.member(b"t")
    words[at(heap, member) + layout.E_NEXT] = member
    words[table + layout.T_COUNT] = heap.end // layout.E_WORDS


@forgery
def members_more_than_can_be(target: Target) -> None:
    target.groups.words[target.table(b"t") + layout.T_COUNT] = ALL_ONES


@forgery
def members_in_one_chain_with_huge_names(target: Target) -> None:
    heap = target.groups
    _one_chain(heap, 1, (layout.TABLE, layout.MEMBER), circle=True)
    home = heap.words[target.groups.end - target.member(b"t")]
    for handle in range(1, heap.words[layout.IDS_USED] + 1):
        start = at(heap, handle)
        if start < heap.end and heap.kind(start) == layout.MEMBER:
            heap.words[start + layout.E_TABLE] = heap.words[home + layout.E_TABLE]
            _huge_name(heap, handle)


def _ring(name: str, forge: Callable[[memoryview, int, int], object]) -> None:
    """A forgery of the ring of two queues: given the words, the queue and where its ring is."""

    def both(target: Target) -> None:
        words = target.heap.words
        for queue in (target.queue(b"ring"), target.queue(b"old ring")):
            forge(words, queue, words[queue + layout.Q_RING_OUT])
        words[layout.SOONEST] = 0

    FORGERIES[f"ring: {name}"] = both


def _put(words: memoryview, offset: int, value: int) -> None:
    words[offset] = value


_ring("in a circle", lambda words, queue, ring: _put(words, ring + layout.L_NEXT, ring))
_ring("ends nowhere", lambda words, queue, ring: _put(words, queue + layout.Q_RING_IN, 1))
_ring("ends beyond", lambda words, queue, ring: _put(words, queue + layout.Q_RING_IN, FAR))
_ring("begins nowhere", lambda words, queue, ring: _put(words, queue + layout.Q_RING_OUT, 1))
_ring("begins beyond", lambda words, queue, ring: _put(words, queue + layout.Q_RING_OUT, FAR))
_ring("stops beyond", lambda words, queue, ring: _put(words, ring + layout.L_STOP, ALL_ONES))
_ring("stops in an entry", lambda words, queue, ring: _put(words, ring + layout.L_STOP, ring + 6))
_ring("comes in nowhere", lambda words, queue, ring: _put(words, queue + layout.Q_IN, 1))
_ring("worn", lambda words, queue, ring: _put(words, queue + layout.Q_IN, ALL_ONES))
_ring("goes out nowhere", lambda words, queue, ring: _put(words, queue + layout.Q_OUT, 0))
_ring("goes out beyond", lambda words, queue, ring: _put(words, queue + layout.Q_OUT, ALL_ONES))
_ring("entry of no end", lambda words, queue, ring: _put(words, ring + 5, layout.ENTRY_SIZE))
_ring("wraps for ever", lambda words, queue, ring: _put(words, ring + 5, ALL_ONES))
_ring("latest", lambda words, queue, ring: _put(words, ring + layout.L_LATEST, ALL_ONES))
_ring("of another", lambda words, queue, ring: _put(words, ring + layout.L_QUEUE, 7))


@forgery
def rings_in_a_circle_that_never_meet_their_end(target: Target) -> None:
    words = target.heap.words
    for name in (b"ring", b"old ring"):
        queue = target.queue(name)
        ring = words[queue + layout.Q_RING_OUT]
        words[ring + layout.L_NEXT] = ring
        words[ring + layout.L_STOP] = ring + layout.L_WORDS
        words[queue + layout.Q_OUT] = 1 << 32 | ring + layout.L_WORDS
        words[queue + layout.Q_RING_IN] = words[target.queue(b"ring") + layout.Q_RING_IN]
        words[layout.BACKLOG] = FAR
    full_lives(target.heap)


@forgery
def all_queues_have_one_ring(target: Target) -> None:
    """Which holds nothing but what is dead."""
    words = target.heap.words
    source = target.queue(b"old ring")
    ring = words[source + layout.Q_RING_OUT]
    for number in range(2000):
        queue = target.queue(b"many %d" % number)
        for field in (layout.Q_RING_OUT, layout.Q_RING_IN, layout.Q_IN, layout.Q_OUT):
            words[queue + field] = words[source + field]
        words[queue + layout.Q_RING_IN] = ring
        words[queue + layout.Q_IN] = 400 << 32 | words[ring + layout.L_STOP]
        words[queue + layout.Q_SOONEST] = 0
    words[layout.SOONEST] = 0
    words[layout.BACKLOG] = FAR
    full_lives(target.heap)


@forgery
def all_queues_have_one_list(target: Target) -> None:
    words = target.heap.words
    source = target.queue(b"listed")
    for number in range(2000):
        queue = target.queue(b"many %d" % number)
        words[queue + layout.Q_HEADS] = words[source + layout.Q_HEADS]
        words[queue + layout.Q_PUSHED] = target.heap.end // layout.M_WORDS
        words[queue + layout.Q_SOONEST] = 0
    message = at(target.heap, target.first(b"listed"))
    words[message + layout.M_LINK] = target.first(b"listed")
    words[layout.SOONEST] = 0
    full_lives(target.heap)


@forgery
def all_queues_have_the_same_waiters(target: Target) -> None:
    words, geometry = target.heap.words, target.heap.geometry
    for node in range(layout.NODES):
        location = geometry.nodes + node * layout.NODE_WORDS
        words[location + layout.NODE_NEXT] = node + 2 if node + 1 < layout.NODES else 1
        words[location + layout.NODE_BELL] = FAR
    for number in range(2000):
        queue = target.queue(b"many %d" % number)
        words[queue + layout.Q_BELL] = FAR
        words[queue + layout.Q_WAIT_FIRST] = 1
        words[queue + layout.Q_HEADS] = 0
        words[queue + layout.Q_PUSHED] = 0
    words[layout.FREE_NODE] = 1


def _queue(name: str, offset: int, *values: int) -> None:
    """A forgery of one word of every queue that is called."""
    for value in values:

        def forge(target: Target, value: int = value) -> None:
            for queue in map(target.queue, (b"listed", b"large", b"old", b"ring", b"waited for")):
                target.heap.words[queue + offset] = value
            target.heap.words[layout.SOONEST] = 0

        FORGERIES[f"queue {name}={value:#x}"] = forge


for _name in (
    "TAG", "HEADS", "BELL", "WAIT_FIRST", "OWNER", "HIGH_WATER", "SOONEST", "TAIL", "WAIT_LAST",
    "PUSHED", "GONE", "EXPIRED", "REFUSED", "IDLE",
):  # fmt: skip
    _queue(_name, getattr(layout, f"Q_{_name}"), 0, 1, (1 << 32) - 1, FAR, ALL_ONES)


@forgery
def waiters_in_a_circle(target: Target) -> None:
    words = target.heap.words
    queue = target.queue(b"waited for")
    node = words[queue + layout.Q_WAIT_FIRST]
    location = target.heap.geometry.nodes + (node - 1) * layout.NODE_WORDS
    words[location + layout.NODE_NEXT] = node
    words[layout.FREE_NODE] = node


@forgery
def bells_of_strangers(target: Target) -> None:
    words, queue = target.heap.words, target.queue(b"waited for")
    slot = target.heap.geometry.slots + 7 * layout.SLOT_WORDS
    words[slot] = 1
    target.heap.bytes[(slot + 1) * 8 : (slot + 3) * 8] = b"../../etc/passwd"
    words[queue + layout.Q_BELL] = 1 << layout.BELL_GENERATION_SHIFT | 3 << 16 | 7
    target.engine.push([target.record(b"waited for", b"x")])
    words[queue + layout.Q_BELL] = 1 << layout.BELL_GENERATION_SHIFT | 3 << 16 | 600


@forgery
def slots_of_any_kind(target: Target) -> None:
    geometry = target.heap.geometry
    size = layout.SLOTS * layout.SLOT_WORDS * layout.WORD
    target.heap.bytes[geometry.slots * 8 : geometry.slots * 8 + size] = b"\xff" * size


@forgery
def slots_all_free(target: Target) -> None:
    geometry = target.heap.geometry
    size = layout.SLOTS * layout.SLOT_WORDS * layout.WORD
    target.heap.bytes[geometry.slots * 8 : geometry.slots * 8 + size] = bytes(size)


@forgery
def nothing_but_zeros(target: Target) -> None:
    for heap in (target.heap, target.groups):
        heap.bytes[64 * 8 :] = bytes(len(heap.bytes) - 64 * 8)


@forgery
def nothing_but_ones(target: Target) -> None:
    for heap in (target.heap, target.groups):
        heap.bytes[64 * 8 :] = b"\xff" * (len(heap.bytes) - 64 * 8)
