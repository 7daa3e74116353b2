"""Rounds: looking at everything in a segment, some buckets of its hash table at a time.

All processes take part in the same round, each for as long as its hold of the lock may last; HAND
says where it goes on. Meanwhile SOONEST is that of what the round has seen and of what came since
it began, and UNSEEN is what SOONEST was when it began: nothing expires before both.

Everything needs the segment's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .hash_table import NEVER, SWEEP_AGAIN, Index
from .heap import Heap
from .layout import (
    GONE,
    HAND,
    NAMED,
    ROUND_BEGAN,
    ROUND_DEATHS,
    SOONEST,
    SWEPT,
    SWEPT_DEATHS,
    SWEPT_GONE,
    UNSEEN,
)


class Rounds:
    """The rounds of one segment. ``deaths()`` tells how many processes have gone."""

    def __init__(self, heap: Heap, index: Index, deaths: Callable[[], int]) -> None:
        self._heap = heap
        self._words = heap.words
        self._index = index
        self._deaths = deaths
        #: When the call came, of this process, that waits for the end of the round.
        self.awaited = -1
        #: How far this hold has come, and when the first expires of what it has seen.
        self._hand, self._soonest = 0, NEVER

    def go_on(self, now: int) -> Iterator[int]:
        """The buckets in use that this round has not come to; begins one if none is under way.

        May `Pause`; then `pause` notes how far it came. If it does not, the round is done at the
        end.
        """
        words = self._words
        if not words[ROUND_BEGAN]:
            self._heap.commit(
                {
                    ROUND_BEGAN: max(now, 1),
                    ROUND_DEATHS: self._deaths(),
                    UNSEEN: min(words[SOONEST], words[UNSEEN]),
                    SOONEST: NEVER,
                    HAND: 0,
                }
            )
        self._hand, self._soonest = words[HAND], NEVER
        yield from self._index.used(self._hand, self._move)
        self._heap.commit(
            {
                ROUND_BEGAN: 0,
                SOONEST: min(words[SOONEST], self._soonest),
                UNSEEN: NEVER,
                HAND: 0,
                SWEPT: words[ROUND_BEGAN],
                SWEPT_DEATHS: words[ROUND_DEATHS],
                SWEPT_GONE: words[GONE],
            }
        )

    def saw(self, soonest: int) -> None:
        """Note when the first of what was just seen expires."""
        self._soonest = min(self._soonest, soonest)

    def pause(self) -> None:
        """Leave the rest to the next hold. One change: what was passed must have been seen."""
        soonest = min(self._words[SOONEST], self._soonest)
        self._heap.commit({HAND: self._hand, SOONEST: soonest})

    def _move(self, hand: int) -> None:
        self._hand = hand

    def soonest(self) -> int:
        """Nothing expires before this."""
        return min(self._words[SOONEST], self._words[UNSEEN])

    def is_due(self) -> bool:
        """Whether a process has gone since the last complete round began."""
        return self._words[SWEPT_DEATHS] != self._deaths()

    def is_worth_it(self, now: int) -> bool:
        """Whether a full segment may have room after a round, for one who came at ``now``.

        It refuses fast: only if something has expired, enough has gone for queues to be empty,
        or a while has passed (what the dead left); and if no round has been made since.
        """
        words = self._words
        return self.soonest() <= now or (
            words[SWEPT] < now
            and (
                words[GONE] - words[SWEPT_GONE] > words[NAMED] // 64
                or now >= words[SWEPT] + SWEEP_AGAIN
            )
        )
