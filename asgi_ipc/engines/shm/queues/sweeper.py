"""Looking after queues: what has expired, what belonged to the dead, what is long empty.

Each method is one or more whole changes, and needs the segment's lock; those that may take long
`Pause`. Queues are given by their address.
"""

from __future__ import annotations

from ..heap.hash_table import NEVER, Index
from ..heap.heap import MOVE, PASS, Heap, Pause
from ..heap.journal import Change
from ..heap.layout import (
    BEHIND_SHIFT,
    FRONT_SHIFT,
    ID_SHIFT,
    NAMED,
    Q_IDLE,
    Q_OWNER,
    Q_RING_IN,
    Q_SOONEST,
    Q_UNSEEN,
    Q_WALK,
    Q_WORDS,
    WALK_BEHIND,
    WALK_FRONT,
    WALK_RING,
    WALK_SHIFT,
)
from ..heap.rounds import Rounds
from ..processes import Processes
from .counters import Counts, ever_pushed, pending
from .linked_list import Lists
from .rings import Rings
from .waiters import Waiters


def soonest_of(words: memoryview, queue: int) -> int:
    """No message of a queue expires before this."""
    return int(min(words[queue + Q_SOONEST], words[queue + Q_UNSEEN]))


class Upkeep:
    """The upkeep of all queues of a store."""

    def __init__(
        self,
        heap: Heap,
        index: Index,
        processes: Processes,
        waiters: Waiters,
        rings: Rings,
        lists: Lists,
        counts: Counts,
    ) -> None:
        self._heap = heap
        self._words = heap.words
        self._index = index
        self._processes = processes
        self._waiters = waiters
        self._rings = rings
        self._lists = lists
        self._counts = counts
        self.rounds = Rounds(heap, index, processes.deaths)

    def sweep(self, now: int, everything: bool = False) -> None:
        """Look after what this round has not come to: drop what is dead, and queues long empty.

        With ``everything`` a queue that is empty goes at once. May `Pause`; if it does not,
        the round is done.
        """
        words, heap = self._words, self._heap
        heap.settle()
        try:
            for bucket in self.rounds.go_on(now):
                for handle in list(self._index.chain(bucket)):
                    heap.spend(4 * PASS)
                    self.rounds.saw(self._maintain(words[heap.end - handle], now, everything))
        except Pause:
            self.rounds.pause()
            raise

    def _maintain(self, address: int, now: int, at_once: bool) -> int:
        """Drop what is dead of one queue; before when nothing expires of what it has or gets."""
        words, heap = self._words, self._heap
        owner = words[address + Q_OWNER]
        if owner and not self._processes.owner_alive(owner):
            self._orphan(address)
            return NEVER
        if self.expire(address, now):
            return soonest_of(words, address)
        pushed = ever_pushed(words, address)
        idle = at_once or words[address + Q_IDLE] == pushed
        if idle and words[address + Q_RING_IN]:
            self._rings.drop(address)
        if self._waiters.drop_dead(address):
            if not idle:
                heap.commit({address + Q_IDLE: pushed})
        elif idle:
            self._remove(address)
            return NEVER
        else:
            # Nothing came or went since the last look if this still holds at the next.
            heap.commit({address + Q_IDLE: pushed})
        # That of a message that is gone, maybe; then a later one will not say so anew.
        return soonest_of(words, address)

    def expire(self, address: int, now: int) -> int:
        """Drop what has expired in a queue, wherever it stands; how many messages are left.

        May `Pause`, and goes on where it stopped, whoever calls it then.
        """
        words = self._words
        while soonest_of(words, address) <= now:
            self._search(address, now)
        return pending(words, address)

    def _search(self, address: int, now: int) -> None:
        """Look through a queue once for what has expired."""
        words, walk = self._words, address + Q_WALK
        self._heap.spend(MOVE)
        if not words[walk]:
            # Meanwhile SOONEST is that of what was looked at and of what comes.
            self._heap.commit(
                {
                    address + Q_UNSEEN: soonest_of(words, address),
                    address + Q_SOONEST: NEVER,
                    walk: WALK_FRONT << WALK_SHIFT,
                }
            )
        if words[walk] >> WALK_SHIFT == WALK_FRONT:
            self._lists.expire(address, FRONT_SHIFT, now, {walk: WALK_RING << WALK_SHIFT})
        if words[walk] >> WALK_SHIFT == WALK_RING:
            self._rings.expire(address, now, {walk: WALK_BEHIND << WALK_SHIFT})
        self._lists.expire(address, BEHIND_SHIFT, now, {walk: 0, address + Q_UNSEEN: NEVER})

    def _orphan(self, address: int) -> None:
        """Drop a queue whose owner has gone, with all it holds. May `Pause`."""
        self._lists.clear(address, FRONT_SHIFT)
        self._lists.clear(address, BEHIND_SHIFT)
        while self._rings.drop_front(address, 0, are_orphans=True):
            self._heap.spend(100 * PASS)
        self._remove(address)

    def _remove(self, address: int) -> None:
        """Take out a queue that holds nothing; bells armed on it are forgotten. May `Pause`."""
        words, heap = self._words, self._heap
        handle = words[address] >> ID_SHIFT
        heap.spend(2 * MOVE)
        self._waiters.drop_dead(address, everybody=True)
        if words[address + Q_RING_IN]:
            self._rings.drop(address)
        change: Change = {NAMED: words[NAMED] - 1}
        bucket = self._index.home(heap.name(address, Q_WORDS))
        self._index.unlink(change, bucket, handle)
        heap.free(change, handle)
        heap.commit(change)
