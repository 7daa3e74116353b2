"""Incremental sweep: look at everything in a segment, some buckets of its hash table at a time.

One sweep over all buckets is a *round*. All processes take part in the same round, each for as long
as its hold of the lock may last; SWEEP_CURSOR says where it goes on. When a round begins, SOONEST
moves to UNSEEN and restarts at NEVER; each record visited or added lowers it. Nothing expires
before the smaller of the two.

Everything needs the segment's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import layout
from .hash_table import NEVER, SWEEP_AGAIN, HashTable
from .heap import Heap, NoRoom


class IncrementalSweep:
    """The sweep of one segment. ``deaths()`` tells how many processes have gone."""

    def __init__(self, heap: Heap, hash_table: HashTable, deaths: Callable[[], int]) -> None:
        self._heap = heap
        self._words = heap.words
        self._hash_table = hash_table
        self._deaths = deaths
        #: When the call came, of this process, that waits for the end of the round.
        self._awaited = -1
        #: How far this hold has come, and when the first expires of what it has seen.
        self._cursor, self._soonest = 0, NEVER

    def go_on(self, now: int) -> Iterator[int]:
        """The buckets in use that this round has not come to; begins one if none is under way.

        May `Pause`; then `pause` notes how far it came. If it does not, the round is done at the
        end.
        """
        words = self._words
        if not words[layout.ROUND_BEGAN]:
            self._heap.commit(
                {
                    layout.ROUND_BEGAN: max(now, 1),
                    layout.ROUND_DEATHS: self._deaths(),
                    layout.UNSEEN: min(words[layout.SOONEST], words[layout.UNSEEN]),
                    layout.SOONEST: NEVER,
                    layout.SWEEP_CURSOR: 0,
                }
            )
        self._cursor, self._soonest = words[layout.SWEEP_CURSOR], NEVER
        yield from self._hash_table.used(self._cursor, self._move)
        self._heap.commit(
            {
                layout.ROUND_BEGAN: 0,
                layout.SOONEST: min(words[layout.SOONEST], self._soonest),
                layout.UNSEEN: NEVER,
                layout.SWEEP_CURSOR: 0,
                layout.SWEPT: words[layout.ROUND_BEGAN],
                layout.SWEPT_DEATHS: words[layout.ROUND_DEATHS],
                layout.SWEPT_GONE: words[layout.GONE],
            }
        )

    def saw(self, soonest: int) -> None:
        """Note when the first of what was just seen expires."""
        self._soonest = min(self._soonest, soonest)

    def pause(self) -> None:
        """Leave the rest to the next hold. One change: what was passed must have been seen."""
        soonest = min(self._words[layout.SOONEST], self._soonest)
        self._heap.commit({layout.SWEEP_CURSOR: self._cursor, layout.SOONEST: soonest})

    def _move(self, cursor: int) -> None:
        self._cursor = cursor

    def soonest(self) -> int:
        """Nothing expires before this."""
        return min(self._words[layout.SOONEST], self._words[layout.UNSEEN])

    def is_due(self) -> bool:
        """Whether a process has gone since the last complete round began."""
        return self._words[layout.SWEPT_DEATHS] != self._deaths()

    def make_room(self, length: int, now: int, sweep: Callable[[], None]) -> bool:
        """Make room for a record of ``length`` words, if need be by a round that ``sweep`` makes.

        True if records may have gone for it. ``now`` tells one call from the next. Raises
        `NoRoom`. May `Pause`.
        """
        if self._awaited != now:
            try:
                self._heap.room_for(length)
                return False
            except NoRoom:
                if not self._is_worth_it(now):
                    raise
            self._awaited = now
        sweep()
        self._awaited = -1
        self._heap.room_for(length)
        return True

    def _is_worth_it(self, now: int) -> bool:
        """Return whether a full segment may have room after a round, for a call made at ``now``.

        A full store must refuse fast. So only if something has expired, if enough has gone for
        queues to be empty, or if a while has passed, in which processes may have died; and if no
        round was made since.
        """
        words = self._words
        return self.soonest() <= now or (
            words[layout.SWEPT] < now
            and (
                words[layout.GONE] - words[layout.SWEPT_GONE] > words[layout.NAMED] // 64
                or now >= words[layout.SWEPT] + SWEEP_AGAIN
            )
        )
