"""The byte format of a store's two segments, which consist of 64-bit words.

The other bytes of a store are defined where they are written: the header of the lock file in
`asgi_ipc.engines.shm.lock_file`, the flags of semaphores in `locks.robust_mutex` there, the channel
names in front of a message in `asgi_ipc.encoding.envelope`, the members of a group in
`asgi_ipc.policy.groups`.

Both segments begin alike; all numbers are native 64-bit words unless said otherwise::

    word      what
    0         MAGIC           b"asgi_ipc", written last: the segment is ready
    1         BYTE_ORDER      0x0102030405060708 as this machine writes it
    2         VERSION
    3         KIND            CHANNELS or GROUPS
    4         SIZE            bytes, as created
    5..6      STORE_ID        16 random bytes, the same in both segments and the lock file
    7         EXTENT_WORDS
    8         BUCKETS         length of the hash table
    9..10     HASH_KEY        16 random bytes: names are hashed with them
    15        NODE            channels: NODE_BYTES bytes with which all identities begin, then zeros
    16        STATE           IDLE, COMMITTED, FORMATTING or DESTROYED; or PUSHING or POPPING
                              with the offset of a queue, whose IN or OUT moves, and the
                              difference of two counts, by which to tell whether it has
    17..23    FOLDER          path of the store's directory; a zero and a digest if it is long
    24..31    the heap        CURSOR .. IDS_RESERVED
    32..93    counters        PUSHED .. RESTORED
    94        JOURNAL_COUNT   pairs in the journal
    95        JOURNAL_AFTER   the STATE that follows once they are applied
    96        the journal     JOURNAL_COUNT offsets, then as many values
    ...       BUCKETS words   hash table: handle of the first record of each chain
    ...       EXTENTS words   live words in each extent
    ...       EXTENTS words   next extent on the free list, plus one
    ...       slots           channels only: SLOT_WORDS words for each process
    ...       processes       channels only: PROCESS_WORDS words for each slot
    ...       wait nodes      channels only: NODE_WORDS words each
    ...       extents         EXTENT_WORDS words each: records one after the other
       ...    (free)          extents grow upwards, handles downwards
    ...       handles         from the end of the segment: word -1 is handle 1

A *handle* holds the word offset of its record, or FREE | next free handle. Whatever
points to a record holds its handle, so that moving a record changes one word.

A record begins with META::

    bits 0..13   length in words, META included
    bits 14..17  kind
    bits 18..20  padding at the end of the payload, in bytes
    bit  21      split: the last word is the handle of the PIECE where the payload goes on
    bits 32..63  its own handle (0 in a FILLER); it is live if that handle points here

then words by kind, named below, then the payload (a message) or the name.

A queue that is used often has a *ring* besides its list of messages: entries one after the
other in RING records, each of which fills an extent, and so is never moved. Usually it is one,
in which the entries go round; a backlog has more, linked by NEXT, and goes on in the next from
STOP of the one before. IN and OUT of the queue say where the next entry goes and where the
oldest is, RING_IN and RING_OUT in which records that is::

    bits 0..31   offset: in words
    bits 32..63  count: messages that ever came in, or went out, through this ring

All of a ring is older than all of the list. What is put back to a queue when there is no room
for it in front of its ring is in a second list, which is older than all. An entry begins with ::

    bits 0..30   size of the message in bytes
    bit  31      dead: expired, and counted as gone
    bits 32..63  lifetime: milliseconds from push to deadline

or is ENTRY_WRAP: what follows is at the beginning of the record. Then the deadline, then the
message, filled up to whole words.

Everything here is persisted: do not change a number without a new VERSION.
"""

from __future__ import annotations

from typing import NamedTuple

MAGIC = b"asgi_ipc"
VERSION = 5
BYTE_ORDER = 0x0102030405060708
WORD = 8

CHANNELS, GROUPS = 1, 2

# Identification: words 0..15.
W_MAGIC, W_BYTE_ORDER, W_VERSION, W_KIND, W_SIZE, W_STORE_ID = 0, 1, 2, 3, 4, 5
W_EXTENT_WORDS, W_BUCKETS, W_HASH_KEY = 7, 8, 9
HASH_KEY_BYTES = 16
W_NODE = 15
W_FOLDER, FOLDER_WORDS = 17, 7

# The state: words 16..23.
STATE = 16
IDLE, COMMITTED, FORMATTING, DESTROYED = 0, 1, 2, 3
PUSHING, POPPING = 1 << 62, 1 << 63
#: Bits 0..31 of STATE while PUSHING or POPPING: the queue. From bit 32 (NOTED_SHIFT): the count of
#: its IN less PUSHED, or of its OUT less GONE, as they were before, of which NOTED_MASK is kept.
NOTED_SHIFT, NOTED_MASK = 32, (1 << 29) - 1

# The heap: words 24..31.
CURSOR = 24  #: where the next record goes
CURSOR_END = 25  #: end of the extent that CURSOR is in; both 0 when there is none
EXTENTS_USED = 26  #: extents ever reserved since the last format
FREE_EXTENT = 27  #: first free extent plus one, or 0
FREE_EXTENTS = 28  #: length of that list
IDS_USED = 29  #: handles ever used since the last format
FREE_ID = 30  #: first free handle, or 0
IDS_RESERVED = 31  #: handles that have memory

# Counters and hints: words 32..93.
PUSHED = 32  #: records ever stored
GONE = 33  #: records no longer stored, for whatever reason
EXPIRED = 34  #: of those, past their deadline
ORPHANED = 35  #: of those, their owner died
FLUSHED = 36  #: of those, flushed
REFUSED = 37  #: pushes refused
HIGH_WATER = 38  #: most records ever stored at once
NAMED = 39  #: queues, or tables
MEMBERS = 40
FLUSHES = 41  #: channels: flushes ever. groups: the channels' number when it was last emptied
CHANGES = 42  #: groups: changes to any table's membership
DEATHS = 43  #: channels: processes found dead or left
RECOVERIES = 44  #: journals replayed after a killed holder
SOONEST = 45  #: no record or member expires before this (nanoseconds)
SWEEP_CURSOR = 46  #: the bucket where the next sweep goes on
NEXT_SWEEP = 47  #: when the store wants its next look-after (nanoseconds)
NODES_USED = 48  #: wait nodes ever used since the last format
FREE_NODE = 49  #: first free wait node plus one, or 0
SWEPT = 50  #: when the last complete round of sweeping began (nanoseconds)
SWEPT_GONE = 51  #: what GONE was at its end
SWEPT_DEATHS = 52  #: what DEATHS (of the channels) was when it began

RINGS = 53  #: queues that have a ring
TAGS = 54  #: queues ever made; no flush takes that back
TAKEN = 55  #: a process seems to hold the lock: a hint for those that wait for it
BACKLOG = 56  #: RING records that rings have besides their one

LIVE = 57  #: words of all live records
LEFTOVER = 58  #: handle of the first PIECE of a record that has gone, freed bit by bit; or 0
CLEANING = 59  #: where the cleaning of an extent goes on, or 0
NO_ROOM = 60  #: pushes refused because the store, or the queue's share of it, was full
#: What SOONEST was when the round began, NEVER between rounds (see `incremental_sweep`).
UNSEEN = 61
ROUND_BEGAN = 62  #: when the round of sweeping under way began (nanoseconds); 0: none is
ROUND_DEATHS = 63  #: what DEATHS (of the channels) was then
REAP_CURSOR = 64  #: channels: the slot where the next look for dead processes goes on
SLOTS_USED = 65  #: channels: slots below this were ever used
LEFT = 66  #: channels: sums of what processes that have left had counted, P_COUNTERS words

# Extents whose memory is given back to the system, see `returns`. The first RETURN_PENDING on the
# list of returned ones still have it.
RETURNED = 74  #: first returned extent plus one, or 0
RETURNED_EXTENTS = 75  #: length of that list
RETURN_PENDING = 76
TOUCHED = 77  #: extents that may have memory; no flush takes that back
TRIMMING = 78  #: 1: those from EXTENTS_USED to TOUCHED are being given back
#: Grows when extents are about to be given back: a process that has read it since touches none.
RETURNS = 79
RESTORED = 80  #: records put back, which GONE does not count any more

# The journal. Its count and what follows it stand in front: one write for all.
JOURNAL_COUNT, JOURNAL_AFTER, JOURNAL = 94, 95, 96
#: The largest change adds a record to every extent of a small store: two words each.
JOURNAL_PAIRS = 640
HASH_TABLE_START = JOURNAL + 2 * JOURNAL_PAIRS  #: where the hash table begins

# A slot: one process. The generation grows when its owner joins and when it has gone.
# The identity has 14 bytes; the last two of its words are zero. Its first word is zero only
# while the slot is free, as an identity begins with the NODE, which is not zero.
SLOTS = 1024  #: at most; a segment has one for each SLOT_SHARE bytes of its size
SLOT_SHARE = 1024
SLOT_WORDS = 4
SLOT_GENERATION, SLOT_IDENTITY = 0, 1  # identity: two words, zero when free

# What is known of the process in a slot, written before its identity and meant for people:
# nothing is ever decided by it. STARTED is the start of the process in clock ticks since the
# boot, or 0 where the system does not tell; with it a PID can be told from a later owner of the
# same number. JOINED is on the clock of deadlines. COUNTS are what the process has noted of
# itself, `asgi_ipc.engines.base.COUNTERS` and `GAUGES` in this order, zero when it joins; when it
# has gone, its counters are added to LEFT. SEEN is the last number of RETURNS that it has read.
PROCESS_WORDS = 12
P_PID, P_STARTED, P_JOINED = 0, 1, 2
P_COUNTS, P_COUNTERS = 3, 8  # offset of the first, and how many
P_SEEN = 11
PEEKS_NOT = (1 << 64) - 1  #: SEEN of a process that has not read a queue without the lock

# A wait node: one bell armed on one queue.
NODES = 1024
NODE_WORDS = 2
NODE_NEXT, NODE_BELL = 0, 1

FREE = 1 << 63  #: marks a handle that has no record
GIVEN_BACK = 1 << 63  #: marks, in the word of its next one, an extent on the list of returned ones

# META.
LENGTH_MASK = (1 << 14) - 1
KIND_SHIFT, KIND_MASK = 14, 15
PAD_SHIFT, PAD_MASK = 18, 7
SPLIT = 1 << 21
ID_SHIFT = 32
SHAPE_MASK = (1 << ID_SHIFT) - 1  #: all but the handle

FILLER, MESSAGE, PIECE, QUEUE, TABLE, MEMBER, RING = 0, 1, 2, 3, 4, 5, 6

# Words of a MESSAGE after META. LINK: handle of the next one, and above bit 32 the
# milliseconds from push to deadline. SIZE: bytes of the payload, whatever pieces it is in.
M_LINK, M_DEADLINE, M_SIZE, M_WORDS = 1, 2, 3, 4
LINK_MASK = (1 << 32) - 1

# Words of a QUEUE. TAG is TAG_MARK and a number that no other queue of this store ever had:
# a process that remembers where a queue is sees by it whether it still is there. HEADS holds where
# both lists begin: bits 0..31 (BEHIND_SHIFT) the one that is younger than the ring, bits 32..63
# (FRONT_SHIFT) the one that is older. TAIL is the end of the younger one, and means nothing while
# that is empty. BELL is the first of its waiters; the list has the others, and is empty while
# BELL is 0. PUSHED and GONE are those of both lists, and of rings that it had before.
# Those from TAG on are read together, at fixed distances: by looks without the lock, for which IN
# must be the last (`Queues.peek`), by pushes through a ring up to SOONEST, and by pops.
Q_TAG, Q_OUT, Q_RING_OUT, Q_HEADS, Q_RING_IN, Q_IN = 1, 2, 3, 4, 5, 6
Q_BELL, Q_WAIT_FIRST, Q_OWNER, Q_HIGH_WATER, Q_SOONEST = 7, 8, 9, 10, 11
Q_CHAIN, Q_TAIL, Q_WAIT_LAST, Q_PUSHED, Q_GONE = 12, 13, 14, 15, 16
Q_EXPIRED, Q_REFUSED, Q_IDLE = 17, 18, 19
# NO_ROOM: of those refused, how many for want of room. BYTES: memory that the queue's messages
# take: of those in lists their words and handles, and all of the extents of the ring.
Q_NO_ROOM, Q_BYTES = 20, 21
# Looking for what has expired in a long queue is done bit by bit, and goes on at WALK: bits
# 0..31 the last message of a list that was kept, or the place in the ring; above, which it is
# (WALK_FRONT, WALK_RING, WALK_BEHIND; 0: nothing is under way). UNSEEN is what SOONEST was before,
# and NEVER if nothing is under way: no message of the queue expires before both. The place in the
# ring is good until the count of OUT is REACH.
Q_WALK, Q_REACH, Q_UNSEEN = 22, 23, 24
Q_WORDS = 25
WALK_SHIFT = 32
WALK_FRONT, WALK_RING, WALK_BEHIND = 1, 2, 3
BEHIND_SHIFT, FRONT_SHIFT = 0, 32  #: first bit in HEADS
TAG_MARK = 1 << 63

# Words of a RING: the handle of its queue; if it is not the last, where the next one is and
# where its own last entry ends; a deadline that is no sooner than those of
# the extents before it and of its own entries up to SEEN, or NEVER; a place, and the count that
# OUT will have when it comes there. Then of an entry.
L_QUEUE, L_NEXT, L_STOP, L_LATEST, L_SEEN, L_WORDS = 1, 2, 3, 4, 5, 6
ENTRY_DEADLINE, ENTRY_WORDS = 1, 2
ENTRY_SIZE, ENTRY_DEAD, ENTRY_LIFETIME_SHIFT = (1 << 31) - 1, 1 << 31, 32
ENTRY_WRAP = (1 << 64) - 1
OFFSET_MASK, COUNT_SHIFT = (1 << 32) - 1, 32  # of IN and OUT

# Words of a TABLE and of a MEMBER.
T_CHAIN, T_FIRST, T_COUNT, T_VERSION, T_WORDS = 1, 2, 3, 4, 5
E_CHAIN, E_NEXT, E_PREVIOUS, E_TABLE, E_DEADLINE, E_OWNER, E_WORDS = 1, 2, 3, 4, 5, 6, 7

#: Words before the payload, by kind.
HEADER_WORDS = {
    MESSAGE: M_WORDS, PIECE: 1, QUEUE: Q_WORDS, TABLE: T_WORDS, MEMBER: E_WORDS, RING: L_WORDS,
}  # fmt: skip

# An owner, and a bell, in one word. 0 is none: generations begin at 1.
SLOT_MASK = (1 << 16) - 1
OWNER_GENERATION_SHIFT = 16
BELL_NUMBER_SHIFT, BELL_GENERATION_SHIFT = 16, 32

SMALL_STORE = 4 * 1024 * 1024
#: Smallest segment: the fixed part and a few extents.
SMALLEST = 256 * 1024


class Geometry(NamedTuple):
    """Where the parts of a segment lie, in words; follows from its kind and size alone."""

    kind: int
    size: int
    extent_words: int
    buckets: int
    hash_table: int
    extents: int
    extent_live: int
    extent_next: int
    slots: int
    #: How many slots there are.
    slot_count: int
    processes: int
    nodes: int
    first_extent: int
    end: int

    @classmethod
    def of(cls, kind: int, size: int) -> Geometry:
        """The geometry of a segment of ``size`` bytes."""
        end = size // WORD
        extent_words = (16 if size < SMALL_STORE else 64) * 1024 // WORD
        # A channel costs kilobytes in practice and a membership about 120 bytes. A store full of
        # nothing but empty queues has some ten of them in each bucket.
        buckets = max(64, size // (2048 if kind == CHANNELS else 512))
        extents = end // extent_words
        extent_live = HASH_TABLE_START + buckets
        extent_next = extent_live + extents
        slots = extent_next + extents
        slot_count = min(SLOTS, size // SLOT_SHARE) if kind == CHANNELS else 0
        processes = slots + slot_count * SLOT_WORDS
        nodes = processes + slot_count * PROCESS_WORDS
        first_extent = nodes + (NODES * NODE_WORDS if kind == CHANNELS else 0)
        return cls(
            kind, size, extent_words, buckets, HASH_TABLE_START, extents,
            extent_live, extent_next, slots, slot_count, processes, nodes, first_extent, end,
        )  # fmt: skip
