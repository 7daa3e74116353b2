"""Sweeping queues: drop what has expired, what dead processes owned, and queues long empty.

Each method is one or more whole changes, and needs the segment's lock; those that may take long
`Pause`. Queues are given by their address.
"""

from __future__ import annotations

from ..heap import layout
from ..heap.hash_table import NEVER, HashTable
from ..heap.heap import MOVE, PASS, Heap, Pause
from ..heap.incremental_sweep import IncrementalSweep
from ..heap.journal import Change
from ..processes import Processes
from .armed_bells import ArmedBells
from .counters import Counts, ever_pushed, pending
from .linked_list import Lists
from .rings import Rings


def soonest_of(words: memoryview, queue: int) -> int:
    """No message of a queue expires before this."""
    return int(min(words[queue + layout.Q_SOONEST], words[queue + layout.Q_UNSEEN]))


class Sweeper:
    """Sweeps all queues of a store."""

    def __init__(
        self,
        heap: Heap,
        hash_table: HashTable,
        processes: Processes,
        armed_bells: ArmedBells,
        rings: Rings,
        lists: Lists,
        counts: Counts,
    ) -> None:
        self._heap = heap
        self._words = heap.words
        self._hash_table = hash_table
        self._processes = processes
        self._armed_bells = armed_bells
        self._rings = rings
        self._lists = lists
        self._counts = counts
        self.incremental_sweep = IncrementalSweep(heap, hash_table, processes.deaths)

    def sweep(self, now: int, everything: bool = False) -> None:
        """Look after what this round has not come to: drop what is dead, and queues long empty.

        With ``everything`` a queue that is empty goes at once. May `Pause`; if it does not,
        the round is done.
        """
        words, heap = self._words, self._heap
        heap.settle()
        try:
            for bucket in self.incremental_sweep.go_on(now):
                for handle in list(self._hash_table.chain(bucket)):
                    heap.spend(4 * PASS)
                    self.incremental_sweep.saw(
                        self._maintain(words[heap.end - handle], now, everything)
                    )
        except Pause:
            self.incremental_sweep.pause()
            raise

    def _maintain(self, address: int, now: int, at_once: bool) -> int:
        """Drop what is dead of one queue; before when nothing expires of what it has or gets."""
        words, heap = self._words, self._heap
        owner = words[address + layout.Q_OWNER]
        if owner and not self._processes.owner_alive(owner):
            self._orphan(address)
            return NEVER
        if self.expire(address, now):
            return soonest_of(words, address)
        pushed = ever_pushed(words, address)
        idle = at_once or words[address + layout.Q_IDLE] == pushed
        if idle and words[address + layout.Q_RING_IN]:
            self._rings.extents.drop(address)
        if self._armed_bells.drop_dead(address):
            if not idle:
                heap.commit({address + layout.Q_IDLE: pushed})
        elif idle:
            self._remove(address)
            return NEVER
        else:
            # Nothing came or went since the last look if this still holds at the next.
            heap.commit({address + layout.Q_IDLE: pushed})
        # That of a message that is gone, maybe; then a later one will not say so anew.
        return soonest_of(words, address)

    def expire(self, address: int, now: int) -> int:
        """Drop what has expired in a queue, wherever it stands; return how many messages are left.

        May `Pause`; the next call, in any process, goes on where it stopped.
        """
        words = self._words
        while soonest_of(words, address) <= now:
            self._search(address, now)
        return pending(words, address)

    def _search(self, address: int, now: int) -> None:
        """Look through a queue once for what has expired."""
        words, walk = self._words, address + layout.Q_WALK
        self._heap.spend(MOVE)
        if not words[walk]:
            # Meanwhile SOONEST is that of what was looked at and of what comes.
            self._heap.commit(
                {
                    address + layout.Q_UNSEEN: soonest_of(words, address),
                    address + layout.Q_SOONEST: NEVER,
                    walk: layout.WALK_FRONT << layout.WALK_SHIFT,
                }
            )
        if words[walk] >> layout.WALK_SHIFT == layout.WALK_FRONT:
            self._lists.expire(
                address, layout.FRONT_SHIFT, now, {walk: layout.WALK_RING << layout.WALK_SHIFT}
            )
        if words[walk] >> layout.WALK_SHIFT == layout.WALK_RING:
            self._rings.expire(address, now, {walk: layout.WALK_BEHIND << layout.WALK_SHIFT})
        self._lists.expire(
            address, layout.BEHIND_SHIFT, now, {walk: 0, address + layout.Q_UNSEEN: NEVER}
        )

    def _orphan(self, address: int) -> None:
        """Drop a queue whose owner has gone, with all it holds. May `Pause`."""
        self._lists.clear(address, layout.FRONT_SHIFT)
        self._lists.clear(address, layout.BEHIND_SHIFT)
        while self._rings.drop_front(address, 0, are_orphans=True):
            self._heap.spend(100 * PASS)
        self._remove(address)

    def _remove(self, address: int) -> None:
        """Take out a queue that holds nothing; bells armed on it are forgotten. May `Pause`."""
        words, heap = self._words, self._heap
        handle = words[address] >> layout.ID_SHIFT
        heap.spend(2 * MOVE)
        self._armed_bells.drop_dead(address, all_bells=True)
        if words[address + layout.Q_RING_IN]:
            self._rings.extents.drop(address)
        change: Change = {layout.NAMED: words[layout.NAMED] - 1}
        bucket = self._hash_table.home(heap.name(address, layout.Q_WORDS))
        self._hash_table.unlink(change, bucket, handle)
        heap.free(change, handle)
        heap.commit(change)
