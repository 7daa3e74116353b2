"""How a change to live words becomes whole or nothing, although its process may be killed.

The caller writes what is new into free space, and collects what must change in live
words in a dict from word offset to value. `Journal.commit` writes the pairs down, sets
one word (the commit point), carries them out and clears that word. Whoever takes the
lock next and finds the word set carries them out again, which changes nothing if it
was done already. Nothing else stores to live words, but where one word alone is a whole
change: a bell that is armed or taken, and what `rings` does.
"""

from __future__ import annotations

from struct import Struct

from asgi_ipc.exceptions import StoreCorrupt

from . import layout
from .layout import COMMITTED, IDLE, STATE, WORD

#: What a change collects: word offset -> new value.
Change = dict[int, int]

_packers = [Struct(f"{2 + 2 * count}Q").pack_into for count in range(layout.JOURNAL_PAIRS + 1)]
_START = layout.JOURNAL_COUNT * WORD
_is_of_journal = range(layout.JOURNAL_COUNT, layout.HASH_TABLE_START).__contains__


class ChangeTooLarge(RuntimeError):
    """A change of more words than the journal takes: a bug of ours, and nothing in the memory."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"a change of {count} words was to be made, and at most {layout.JOURNAL_PAIRS} can be: "
            "a bug of asgi_ipc, please report it; nothing was changed, and the store is sound"
        )


class Journal:
    """The redo journal of one segment. All methods need the segment's lock."""

    def __init__(self, view: memoryview) -> None:
        self._bytes = view
        self._words = view.cast("Q")

    def commit(self, change: Change, after: int = IDLE) -> None:
        """Carry out a change, wholly or not at all, and leave STATE at ``after``."""
        count = len(change)
        words = self._words
        try:
            pack = _packers[count]
        except IndexError:
            raise ChangeTooLarge(count) from None
        # Not live until STATE says so; pack_into, which blanks a field first, is harmless.
        pack(self._bytes, _START, count, after, *change, *change.values())
        # One aligned 8-byte store, which no kill can split.
        words[STATE] = COMMITTED
        for offset, value in change.items():
            words[offset] = value
        words[STATE] = after

    def replay(self) -> None:
        """Carry out a committed journal whose writer was killed."""
        words = self._words
        count = words[layout.JOURNAL_COUNT]
        if count > layout.JOURNAL_PAIRS:
            raise StoreCorrupt(f"the journal holds {count} changes, more than it has room for")
        pairs = words[layout.JOURNAL : layout.JOURNAL + 2 * count].tolist()
        offsets = pairs[:count]
        # What is no change of ours must not be carried out halfway.
        if offsets and (
            min(offsets) < layout.CURSOR
            or max(offsets) >= len(words)
            or any(map(_is_of_journal, offsets))
        ):
            raise StoreCorrupt(f"the journal changes words that no change does, among {offsets}")
        if words[layout.JOURNAL_AFTER] not in (IDLE, layout.FORMATTING, layout.DESTROYED):
            raise StoreCorrupt(f"the journal leaves the state at {words[layout.JOURNAL_AFTER]}")
        for offset, value in zip(offsets, pairs[count:], strict=True):
            words[offset] = value
        # Before the end, so that no recovery goes uncounted; one that is killed counts too.
        words[layout.RECOVERIES] += 1
        words[STATE] = words[layout.JOURNAL_AFTER]

    def set_state(self, state: int) -> None:
        """End of a step that is repeated until this is done."""
        self._words[STATE] = state

    def release(self) -> None:
        """Release the memory."""
        self._words.release()
