"""A segment as a critical section: take its lock, finish what a killed process left, leave."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from types import TracebackType

from asgi_ipc.exceptions import StoreCorrupt, StoreUnavailable

from .heap import layout
from .heap.hash_table import NEVER
from .heap.heap import HOLD, Heap
from .heap.layout import CHANNELS, GROUPS, STATE, WORD, Geometry
from .lock_file import LockFile
from .locks.base import CHANNELS_LOCK, GROUPS_LOCK, Gone
from .segment import Segment
from .store_memory import NAMES

_LOCKS = {CHANNELS: CHANNELS_LOCK, GROUPS: GROUPS_LOCK}
#: What contradictory contents make Python raise.
_CONTRADICTIONS = (IndexError, ValueError, OverflowError, struct.error, StoreCorrupt)


class LockedSegment:
    """One attached segment and its lock; ``with locked_segment:`` is alone in the segment.

    Entering carries out what a killed process left half done. Raises `Gone` if the
    store was removed, `StoreCorrupt` if what it holds makes no sense, `Reentered` if the
    caller interrupted this thread inside the store.

    An exception between two steps of entering or leaving may leave the locks taken: the caller
    must call `CriticalSection.let_go` on any exception that comes out.
    """

    def __init__(
        self,
        kind: int,
        segment: Segment,
        lock_file: LockFile,
        on_recovery: Callable[[], None],
        recount: Callable[[Heap], None],
        removal: Callable[[], str],
    ) -> None:
        """Enter nothing yet.

        ``recount`` finishes what STATE says of a queue whose sender or reader was killed,
        ``on_recovery`` is told of each recovery, and ``removal`` returns the command that removes
        the store.
        """
        self.kind = kind
        self.segment = segment
        self.heap = Heap(
            segment.view[: segment.view.nbytes // WORD * WORD],
            Geometry.of(kind, segment.view.nbytes),
            segment.reserve,
        )
        self.words = self.heap.words
        self._lock_file = lock_file
        self._section = lock_file.section
        self.mutex = lock_file.mutex(_LOCKS[kind], self.words, layout.TAKEN)
        # As they are: a segment is entered and left for every message.
        self._lock, self._release = self.mutex.lock, self.mutex.release
        self._on_recovery = on_recovery
        self._recount = recount
        self._removal = removal
        self._closed = False

    def __enter__(self) -> Heap:
        section = self._section
        # As `CriticalSection.enter`, a call less.
        lock = section.thread_lock
        if not lock.acquire(False):
            lock = section.wait()
        if section.entered is not None:
            lock = section.take_over(lock)
        section.entered = lock
        try:
            self._lock()
            if self.words[STATE]:
                self._finish()
        except BaseException as error:
            # Not by a call of one more function: the stack may have no room for it.
            try:
                self.mutex.unlock()
            # Closed; or no room to unlock, and so there was none to lock; or the system refuses.
            except (ValueError, RecursionError, StoreUnavailable):
                pass
            section.entered = None
            lock.release()
            if self._closed:  # by another thread, between finding this segment and entering it
                raise Gone from error
            if isinstance(error, _CONTRADICTIONS):
                raise self._corrupt(error) from error
            raise
        self.heap.credit = HOLD
        return self.heap

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        section = self._section
        # The thread lock last: whatever comes in between, its owner has to give back the rest.
        self._release()
        lock = section.entered
        section.entered = None
        lock.release()  # type: ignore[union-attr]
        if error is not None and isinstance(error, _CONTRADICTIONS):
            raise self._corrupt(error) from error

    def is_inside(self) -> bool:
        """Whether the caller interrupted this thread inside the store, or in its opening."""
        return self._section.is_inside()

    def _corrupt(self, error: BaseException) -> StoreCorrupt | Gone:
        if not self._lock_file.is_at(self._lock_file.path):
            return Gone()  # Somebody removed it to start afresh.
        what = str(error) if isinstance(error, StoreCorrupt) else f"{type(error).__name__}: {error}"
        return StoreCorrupt(
            f"the {NAMES[self.kind]} of the store at {os.path.dirname(self._lock_file.path)!r} "
            f"contradict themselves ({what}); to start afresh remove it with destroy(), or with "
            f"this command: {self._removal()}"
        )

    def _finish(self) -> None:
        """Carry on where a killed process stopped."""
        words = self.words
        if words[STATE] == layout.COMMITTED:
            self.heap.journal.replay()
            self._on_recovery()
        elif self.kind == CHANNELS and words[STATE] & (layout.PUSHING | layout.POPPING):
            self._recount(self.heap)
            self._on_recovery()
        if words[STATE] == layout.FORMATTING:
            self.format()
        if words[STATE] == layout.DESTROYED:
            raise Gone
        if words[STATE] != layout.IDLE:
            raise StoreCorrupt(f"the state of a segment is {words[STATE]}, which is none")

    def is_destroyed(self) -> bool:
        """True once the store has been marked as removed. Takes no lock."""
        state, after = self.words[STATE], self.words[layout.JOURNAL_AFTER]
        return state == layout.DESTROYED or (
            state == layout.COMMITTED and after == layout.DESTROYED
        )

    def format(self) -> None:
        """Empty the segment; the last step of creation and of a flush."""
        words = self.words
        self.heap.log.format()
        for counter in (
            layout.NAMED,
            layout.MEMBERS,
            layout.SWEEP_CURSOR,
            layout.NODES_USED,
            layout.FREE_NODE,
            layout.RINGS,
            layout.BACKLOG,
        ):
            words[counter] = 0
        words[layout.ROUND_BEGAN] = 0
        words[layout.SOONEST] = words[layout.UNSEEN] = NEVER
        self.heap.journal.set_state(layout.IDLE)

    def close(self) -> None:
        """Release the memory. No thread may be inside."""
        self._closed = True
        self.heap.log.release()
        self.heap.bytes.release()
        self.segment.close()
