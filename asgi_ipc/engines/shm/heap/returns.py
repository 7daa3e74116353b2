"""Giving memory back to the system: extents that are free and not needed, some at a time.

An extent goes from the list of free ones to the list of returned ones, is announced (RETURNS), and
loses its memory once no process can touch it any more. It is reserved again before it is used
(`Heap._grow`), so no touch of it can fail. A flush leaves extents that are on no list; those from
EXTENTS_USED to TOUCHED are given back from their end, in the same steps.

Why announced: `Queues.peek` reads a queue without the lock, at an address that it has just found
good. Where memory is missing such a read takes a page, and ends the process if none is to be had.
So nothing is given back until each process has read RETURNS anew, which it does between two calls.

A kill between giving back and noting it has the same given back once more, which changes nothing.
Everything needs the segment's lock.
"""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.exceptions import StoreCorrupt

from . import layout
from .journal import Change
from .layout import (
    EXTENTS_USED,
    FREE_EXTENT,
    FREE_EXTENTS,
    GIVEN_BACK,
    RETURN_PENDING,
    RETURNED,
    RETURNED_EXTENTS,
    RETURNS,
    TOUCHED,
    TRIMMING,
    WORD,
)
from .log import Log

#: Extents that are given back at a time, and that stay free for what comes next.
SLICE, KEEP = 16, 16

GiveBack = Callable[[int, int], bool]


class Returns:
    """The extents of one segment that are given back."""

    def __init__(self, log: Log) -> None:
        self._words = log.words
        self._commit = log.commit
        self._end = log.end
        geometry = log.geometry
        self._first, self._extent = geometry.first_extent, geometry.extent_words
        self._next = geometry.extent_next

    # ---- taking them again

    def first(self) -> int:
        """Where the first returned extent begins, in words. There must be one."""
        return self._first + self._number(self._words[RETURNED]) * self._extent

    def take(self, change: Change) -> int:
        """Take that extent off the list with ``change``; its number."""
        words = self._words
        extent = self._number(words[RETURNED])
        change[RETURNED] = words[self._next + extent] & ~GIVEN_BACK
        change[RETURNED_EXTENTS] = words[RETURNED_EXTENTS] - 1
        if words[RETURN_PENDING]:
            change[RETURN_PENDING] = words[RETURN_PENDING] - 1
        return extent

    def _number(self, entry: int) -> int:
        """The extent that an entry of a list names."""
        if not 0 < entry <= self._words[EXTENTS_USED]:
            raise StoreCorrupt("a list of extents is shorter than its count")
        return entry - 1

    # ---- giving them back

    def step(self, all_have_seen: bool, give_back: GiveBack) -> None:
        """Do the next step, if there is any.

        ``all_have_seen``: no process may touch what was announced. ``give_back(offset, length)``
        gives bytes back.
        """
        words = self._words
        if words[RETURN_PENDING]:
            if all_have_seen and self._give_back_pending(give_back):
                self._commit({RETURN_PENDING: 0})
        elif words[TOUCHED] > words[EXTENTS_USED]:
            if not words[TRIMMING]:
                self._commit({TRIMMING: 1, RETURNS: words[RETURNS] + 1})
            elif all_have_seen:
                self._trim(give_back)
        elif words[FREE_EXTENTS] > KEEP:
            self._announce(min(SLICE, words[FREE_EXTENTS] - KEEP))

    def _announce(self, count: int) -> None:
        """Move free extents to the list of returned ones."""
        words, following = self._words, self._words[RETURNED]
        entry = words[FREE_EXTENT]
        change: Change = {}
        for _ in range(count):
            at = self._next + self._number(entry)
            change[at] = following | GIVEN_BACK
            following, entry = entry, words[at]
        change[FREE_EXTENT] = entry
        change[FREE_EXTENTS] = words[FREE_EXTENTS] - count
        change[RETURNED] = following
        change[RETURNED_EXTENTS] = words[RETURNED_EXTENTS] + count
        change[RETURN_PENDING] = count
        change[RETURNS] = words[RETURNS] + 1
        self._commit(change)

    def _give_back_pending(self, give_back: GiveBack) -> bool:
        """Give back what was announced; False if that can't be done here."""
        words, used = self._words, self._words[EXTENTS_USED]
        pending, entry = words[RETURN_PENDING], words[RETURNED]
        if pending > SLICE:
            raise StoreCorrupt(f"{pending} extents are to be given back at once")
        extents = []
        for _ in range(pending):
            extents.append(self._number(entry))
            entry = words[self._next + extents[-1]] & ~GIVEN_BACK
        extents.sort()
        while extents:
            first = last = extents.pop(0)
            while extents and extents[0] == last + 1:
                last = extents.pop(0)
            # The page at the border of two extents goes with the second of them.
            before = first > 0 and words[self._next + first - 1] & GIVEN_BACK
            behind = last + 1 < used and words[self._next + last + 1] & GIVEN_BACK
            start = self._first + (first - (before > 0)) * self._extent
            stop = self._first + (last + 1 + (behind > 0)) * self._extent
            if not give_back(start * WORD, (stop - start) * WORD):
                return False
        return True

    def _trim(self, give_back: GiveBack) -> None:
        """Give back the last of what is used no more since a flush."""
        words = self._words
        touched = words[TOUCHED]
        first = max(words[EXTENTS_USED], touched - SLICE)
        start = self._first + first * self._extent
        # Handles may have come down to there.
        stop = min(self._first + touched * self._extent, self._end - words[layout.IDS_RESERVED])
        if stop <= start or give_back(start * WORD, (stop - start) * WORD):
            change: Change = {TOUCHED: first}
            if first == words[EXTENTS_USED]:
                change[TRIMMING] = 0
            self._commit(change)


__all__ = ["KEEP", "SLICE", "Returns"]
