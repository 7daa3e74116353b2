"""Queues of messages in the heap of the channels segment.

A queue is a record that holds the ends of its list of messages (`linked_list`), its `armed_bells`,
and, if it is used often, its ring (`rings`). Everything but `Queues.peek` needs the segment's
lock. Each method is one or more whole changes: a kill leaves the queue as before or after. An
*address* of a queue is valid until a record may move: until the lock is released, or room is made.
"""

from __future__ import annotations

from struct import Struct

from asgi_ipc.engines.base import Popped, Record

from ..heap import layout
from ..heap.hash_table import NEVER, HashTable
from ..heap.heap import PASS, Heap, NoRoom, OverShare
from ..heap.journal import Change
from ..heap.layout import (
    BEHIND_SHIFT,
    FLUSHES,
    FRONT_SHIFT,
    KIND_SHIFT,
    LIVE,
    M_WORDS,
    PAD_SHIFT,
    PUSHED,
    Q_BELL,
    Q_BYTES,
    Q_CHAIN,
    Q_HEADS,
    Q_IN,
    Q_OUT,
    Q_OWNER,
    Q_PUSHED,
    Q_RING_IN,
    Q_TAG,
    Q_WAIT_FIRST,
    Q_WORDS,
    QUEUE,
    SHAPE_MASK,
    WORD,
)
from ..processes import Processes
from .armed_bells import ArmedBells
from .counters import MILLISECOND, Counts, Expirations, pending, popped
from .linked_list import Lists, takes
from .look import oldest
from .ring_extents import HOT
from .rings import Rings
from .statistics import Statistics
from .sweeper import Sweeper

_LONGEST_LIFE = (1 << 32) - 1
#: TAG, OUT, HEADS and IN of a queue.
_peek = Struct("2Q8xQ8xQ").unpack_from
#: What a push costs that does not go through a ring; to make a queue costs twice as much.
_PUSH = 400
#: Queues whose address is remembered.
_REMEMBERED = 4096
#: Where nothing that is remembered is: no word holds -1.
_NOWHERE = (0, -1, 0)


def _lifetime(deadline: int, now: int) -> int:
    """Milliseconds from push to deadline, as they are noted."""
    lifetime = (deadline - now) // MILLISECOND
    return lifetime if 0 < lifetime < _LONGEST_LIFE else 0 if lifetime <= 0 else _LONGEST_LIFE


class AtCapacity(Exception):
    """The queue holds as many live messages as the pusher allows."""


class Queues:
    """All queues of a store."""

    def __init__(self, heap: Heap, processes: Processes) -> None:
        self._heap = heap
        self._words = heap.words
        self._view = heap.bytes
        self._hash_table = HashTable(heap, Q_CHAIN)
        #: While less than half of the memory is in use no queue has too large a share.
        self._half = (heap.end - heap.geometry.first_extent) // 2
        self._processes = processes
        self._armed_bells = ArmedBells(heap, processes.bell_alive)
        self.expirations = Expirations(heap)
        self._rings = Rings(heap, self.expirations)
        self._counts = Counts(heap, self._rings.extents, self.expirations)
        self._lists = Lists(heap, self._rings, self._counts)
        self.sweeper = Sweeper(
            heap,
            self._hash_table,
            processes,
            self._armed_bells,
            self._rings,
            self._lists,
            self._counts,
        )
        self.statistics = Statistics(heap, self._hash_table, processes, self._rings, self.sweeper)
        #: Where queues were last: the word of their handle, the address, the tag.
        self._known: dict[bytes, tuple[int, int, int]] = {}
        #: Those of them that `peek` has asked for, and whether it has asked for any.
        self._peeked: dict[bytes, tuple[int, int, int]] = {}
        self._asked_for: set[bytes] = set()
        self.peeks = False
        self._flushes = -1

    # ---- finding

    def find(self, name: bytes) -> int:
        """Address of the queue of that name, or 0."""
        words = self._words
        if words[FLUSHES] != self._flushes:
            # What was flushed is not wiped: it would still look right.
            self._forget()
            self._flushes = words[FLUSHES]
        offset, address, tag = self._known.get(name, _NOWHERE)
        if words[offset] == address and words[address + Q_TAG] == tag:
            return address
        return self._search(name)

    def _search(self, name: bytes) -> int:
        words, end, view = self._words, self._heap.end, self._heap.bytes
        size = len(name)
        # The lower half of META, without the handle: kind, length and padding.
        shape = Q_WORDS + (size + 7 >> 3) | QUEUE << KIND_SHIFT | (-size & 7) << PAD_SHIFT
        handle = words[self._hash_table.home(name)]
        for _ in self._hash_table.longest:
            if not handle:
                return 0
            address = words[end - handle]
            if words[address] & SHAPE_MASK == shape:
                start = (address + Q_WORDS) * WORD
                if view[start : start + size].tobytes() == name:
                    if len(self._known) >= _REMEMBERED:
                        self._forget()
                    self._known[name] = end - handle, address, words[address + Q_TAG]
                    if name in self._asked_for:
                        self._let_peek(name)
                    return address
            handle = words[address + Q_CHAIN]
        raise self._hash_table.circle()

    def let_none_peek(self) -> None:
        """Let `peek` read nothing until queues are found again: this process has no slot."""
        self.peeks = False
        self._forget()

    def _forget(self) -> None:
        """Forget where queues were."""
        self._known.clear()
        self._peeked.clear()
        self._asked_for.clear()

    def _let_peek(self, name: bytes) -> None:
        """Let `peek` read a queue that has just been found."""
        if not self.peeks:
            self.peeks = True
            self._processes.see()
        self._asked_for.discard(name)
        self._peeked[name] = self._known[name]

    def _create(self, name: bytes, owner: bytes, now: int) -> int:
        self._make_room(Q_WORDS + (len(name) + 7 >> 3), now)
        self._heap.spend(2 * _PUSH)
        bucket = self._hash_table.home(name)
        words = self._words
        word = self._processes.owner_word(owner) if owner else 0
        fields = [0] * (Q_WORDS - 1)
        for offset, value in (
            (Q_TAG, layout.TAG_MARK | words[layout.TAGS]),
            (Q_CHAIN, words[bucket]),
            (Q_OWNER, word),
            (layout.Q_SOONEST, NEVER),
            (layout.Q_UNSEEN, NEVER),
            (layout.Q_IDLE, NEVER),
        ):
            fields[offset - 1] = value
        change: Change = {}
        handle = self._heap.add(change, QUEUE, tuple(fields), name)
        change[bucket] = handle
        change[layout.NAMED] = words[layout.NAMED] + 1
        change[layout.TAGS] = words[layout.TAGS] + 1
        self._heap.commit(change)
        return words[self._heap.end - handle]

    def peek(self, name: bytes) -> bool:
        """Whether a queue may have messages: no if it had none just now. Takes no lock."""
        # In this order: another thread may be noticing a flush.
        words, flushes = self._words, self._flushes
        offset, address, tag = self._peeked.get(name, _NOWHERE)
        # First: elsewhere there may be no memory any more (`heap.returns`). If the queue moves
        # after this, what it leaves behind is what it was, at an instant of this call.
        if words[FLUSHES] != flushes or words[offset] != address:
            # The next call that finds the queue lets it be peeked at.
            self._asked_for.add(name)
            self._known.pop(name, None)
            return True
        # IN is read last: if it is what OUT was, the ring was empty all the while.
        tagged, out, heads, into = _peek(self._view, (address + Q_TAG) * WORD)
        return not (tagged == tag and not heads and into == out)

    # ---- pushing and popping

    def push(self, record: Record, now: int) -> int:
        """Append a message; the bell to signal for it, or 0. Raises `AtCapacity`, `NoRoom`.

        May `Pause`; then nothing is pushed yet.
        """
        words = self._words
        name, payload, deadline, capacity, owner = record
        address = self.find(name)
        if address:
            bell = self._rings.push(address, payload, deadline, capacity, owner, now)
            if bell >= 0:
                return bell and self._take_bell(address)
            here = pending(words, address)
            if here >= capacity and (here := self.sweeper.expire(address, now)) >= capacity:
                self._counts.refusal(address, is_for_room=False)
                raise AtCapacity
        elif capacity < 1:
            self._counts.refusal(address, is_for_room=False)
            raise AtCapacity
        length = M_WORDS + (len(payload) + 7 >> 3)
        self._heap.spend(_PUSH)
        if (
            not address
            or not self._heap.fits(length)
            or (words[LIVE] + length > self._half and self._is_over_share(address, payload))
        ):
            address = self._with_room(address, record, length, now)
            here = pending(words, address)
        change: Change = {}
        self._lists.append(change, address, payload, deadline, _lifetime(deadline, now))
        if owner and not words[address + Q_OWNER]:
            # A reader that waited has made the queue, without its owner.
            change[address + Q_OWNER] = self._processes.owner_word(owner)
        change[address + Q_PUSHED] = words[address + Q_PUSHED] + 1
        change[PUSHED] = words[PUSHED] + 1
        self._counts.arrival(change, address, deadline, here)
        bell = words[address + Q_BELL] and self._armed_bells.take(change, address)
        self._heap.commit(change)
        if words[address + Q_RING_IN] or (
            words[address + Q_PUSHED] >= HOT and length <= self._rings.extents.small
        ):
            self._to_ring(address, is_read=False)
        return bell

    def _to_ring(self, address: int, is_read: bool) -> None:
        """Bring a queue whose messages are in a list nearer to using a ring for them."""
        # After what the caller came for, so it can't wait. Others of a batch can.
        self._heap.credit -= 3 * _PUSH
        self._rings.extents.renew(address, is_read)
        self._lists.refill(address)

    def _take_bell(self, address: int) -> int:
        """Take the bell off a queue whose message is pushed already.

        Who is killed here leaves the bell armed: it may signal for nothing.
        """
        words = self._words
        bell = words[address + Q_BELL]
        if words[address + Q_WAIT_FIRST]:
            change: Change = {}
            self._armed_bells.take(change, address)
            self._heap.commit(change)
        else:
            words[address + Q_BELL] = 0
        return bell

    def _is_over_share(self, address: int, payload: bytes) -> bool:
        """Whether a queue, 0 if there is none yet, would leave others too little (E3)."""
        more = takes(len(payload))
        held = self._words[address + Q_BYTES] if address else 0
        return self._heap.is_over_share(held + more, more // WORD)

    def _with_room(self, address: int, record: Record, length: int, now: int) -> int:
        """The address of a queue once there is room for a message of that length, and a queue."""
        name, payload, owner = record.queue, record.payload, record.owner
        try:
            # Making room may move the queue, and remove it while it is empty.
            while True:
                while self._make_room(length, now) or not address:
                    address = self.find(name) or self._create(name, owner, now)
                address = self.find(name)
                if not self._is_over_share(address, payload):
                    return address
                if self.sweeper.incremental_sweep.soonest() > now:
                    more = takes(len(payload))
                    held = self._words[address + Q_BYTES] + more
                    raise OverShare(held, self._heap.free_words() * WORD - more)
                self.sweeper.sweep(now, everything=True)
                address = self.find(name)
        except NoRoom:
            self._counts.refusal(self.find(name), is_for_room=True)
            raise

    def pop(self, taken: list[Popped], name: bytes, limit: int, bell: int, now: int) -> None:
        """Take live messages until there are ``limit`` in ``taken``.

        If there are fewer, arm ``bell`` unless it is 0. May `Pause`; what is in ``taken`` then
        has been taken.
        """
        words = self._words
        address = self.find(name)
        if not address:
            if not bell:
                return
            address = self._create(name, b"", now)
            # Remembered, so that `peek` can tell that it is empty.
            self.find(name)
        heads = words[address + Q_HEADS]
        if heads and heads >> FRONT_SHIFT:
            self._lists.pop(taken, address, FRONT_SHIFT, limit, now)
        while self._rings.pop(taken, address, limit - len(taken), now):
            if len(taken) >= limit:
                if heads:
                    self._lists.refill(address)
                return
            if words[address + Q_IN] == words[address + Q_OUT]:
                break
            self._heap.spend(160 * PASS)
            self._rings.drop_front(address, now)
        if heads and len(taken) < limit:
            self._lists.pop(taken, address, BEHIND_SHIFT, limit, now)
            self._to_ring(address, is_read=True)
        if bell and len(taken) < limit and words[address + Q_BELL] != bell:
            self._arm(address, bell)

    def _arm(self, address: int, bell: int) -> None:
        """Arm a bell after those that are armed on a queue already."""
        if self._words[address + Q_BELL]:
            change: Change = {}
            self._armed_bells.arm(change, address, bell)
            if change:
                self._heap.commit(change)
        else:
            self._words[address + Q_BELL] = bell

    def restore(self, name: bytes, record: Popped, now: int) -> int:
        """Put a message back in front; the bell to signal, or 0. Raises `NoRoom`. May `Pause`."""
        words, heap = self._words, self._heap
        payload, deadline = record
        lifetime = _lifetime(deadline, now)
        change: Change = {}
        address = self.find(name)
        in_ring = (
            address > 0
            and words[address + Q_RING_IN] > 0
            and not words[address + Q_HEADS] >> FRONT_SHIFT
            and popped(words, address) > 0
            and self._rings.put_first(change, address, payload, deadline, lifetime)
        )
        if not in_ring:
            length = M_WORDS + (len(payload) + 7 >> 3)
            while self._make_room(length, now) or not address:
                address = self.find(name) or self._create(name, b"", now)
            address = self.find(name)
            self._lists.prepend(change, address, payload, deadline, lifetime)
            self._counts.back_in_list(change, address)
        self._counts.back(change)
        self._counts.arrival(change, address, deadline, pending(words, address))
        bell = words[address + Q_BELL] and self._armed_bells.take(change, address)
        heap.commit(change)
        return bell

    # ---- bells

    def next_bell(self, name: bytes) -> int:
        """The next bell to signal for a queue whose last one wasn't heard; 0 if none is owed."""
        words = self._words
        address = self.find(name)
        if not address or not pending(words, address) or not words[address + Q_BELL]:
            return 0
        return self._take_bell(address)

    def disarm(self, name: bytes, bell: int) -> int:
        """Take a bell off a queue; the bell to signal instead if it had been signalled, or 0."""
        address = self.find(name)
        if not address:
            return 0
        change: Change = {}
        if not self._armed_bells.remove(change, address, bell):
            return self.next_bell(name)
        self._heap.commit(change)
        return 0

    # ---- room

    def _make_room(self, length: int, now: int) -> bool:
        """Make room for a record; True if queues may have gone for it. See `IncrementalSweep`."""
        sweeper = self.sweeper
        return sweeper.incremental_sweep.make_room(
            length, now, lambda: sweeper.sweep(now, everything=True)
        )

    # ---- telling

    def look(self, name: bytes, limit: int, now: int) -> list[Popped]:
        """The oldest messages, which stay; see `look.oldest`. May `Pause`."""
        address = self.find(name)
        if not address or not self.sweeper.expire(address, now):
            return []
        return oldest(self._heap, self._rings, address, limit, now)

    def of_queue(self, name: bytes, now: int) -> dict[str, int]:
        """Counts of one queue, see `Statistics.of_queue`."""
        return self.statistics.of_queue(self.find(name), now)
