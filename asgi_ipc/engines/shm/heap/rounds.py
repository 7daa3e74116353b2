"""Rounds: looking at everything in a segment, some buckets of its hash table at a time.

All processes take part in the same round, each for as long as its hold of the lock may last; HAND
says where it goes on. Meanwhile SOONEST is that of what the round has seen and of what came since
it began, and UNSEEN is what SOONEST was when it began: nothing expires before both.

Everything needs the segment's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import layout
from .hash_table import NEVER, SWEEP_AGAIN, Index
from .heap import Heap, NoRoom


class Rounds:
    """The rounds of one segment. ``deaths()`` tells how many processes have gone."""

    def __init__(self, heap: Heap, index: Index, deaths: Callable[[], int]) -> None:
        self._heap = heap
        self._words = heap.words
        self._index = index
        self._deaths = deaths
        #: When the call came, of this process, that waits for the end of the round.
        self._awaited = -1
        #: How far this hold has come, and when the first expires of what it has seen.
        self._hand, self._soonest = 0, NEVER

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
                    layout.HAND: 0,
                }
            )
        self._hand, self._soonest = words[layout.HAND], NEVER
        yield from self._index.used(self._hand, self._move)
        self._heap.commit(
            {
                layout.ROUND_BEGAN: 0,
                layout.SOONEST: min(words[layout.SOONEST], self._soonest),
                layout.UNSEEN: NEVER,
                layout.HAND: 0,
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
        self._heap.commit({layout.HAND: self._hand, layout.SOONEST: soonest})

    def _move(self, hand: int) -> None:
        self._hand = hand

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
        """Whether a full segment may have room after a round, for one who came at ``now``.

        It refuses fast: only if something has expired, enough has gone for queues to be empty,
        or a while has passed (what the dead left); and if no round has been made since.
        """
        words = self._words
        return self.soonest() <= now or (
            words[layout.SWEPT] < now
            and (
                words[layout.GONE] - words[layout.SWEPT_GONE] > words[layout.NAMED] // 64
                or now >= words[layout.SWEPT] + SWEEP_AGAIN
            )
        )
