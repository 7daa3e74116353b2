"""Being inside a segment, alone: its lock, what a killed process left, and leaving again."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from types import TracebackType

from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable
from .heap import Heap
from .index import NEVER
from .lanes import recount
from .layout import (
    BACKLOG,
    CHANNELS,
    COMMITTED,
    DESTROYED,
    FORMATTING,
    FREE_NODE,
    GROUPS,
    HAND,
    IDLE,
    JOURNAL_AFTER,
    LANES,
    MEMBERS,
    NAMED,
    NODES_USED,
    POPPING,
    PUSHING,
    SOONEST,
    STATE,
    WORD,
    Geometry,
)
from .locks import CHANNELS_LOCK, GROUPS_LOCK, Gone
from .segment import Segment
from .sidecar import Sidecar

#: What the two kinds of segment are called, in messages and in locators.
NAMES = {CHANNELS: "channels", GROUPS: "groups"}
_LOCKS = {CHANNELS: CHANNELS_LOCK, GROUPS: GROUPS_LOCK}
#: What contradictory contents make Python raise.
_CONTRADICTIONS = (LookupError, ValueError, OverflowError, struct.error, StoreCorrupt)


class Region:
    """One attached segment and its lock; ``with region:`` is being inside, alone.

    Entering carries out what a killed process left half done. Raises `Gone` if the
    store was removed, `StoreCorrupt` if what it holds makes no sense.
    """

    def __init__(
        self,
        kind: int,
        segment: Segment,
        sidecar: Sidecar,
        on_recovery: Callable[[], None],
        removal: Callable[[], str],
    ) -> None:
        self.kind = kind
        self.segment = segment
        self.heap = Heap(
            segment.view[: segment.view.nbytes // WORD * WORD],
            Geometry.of(kind, segment.view.nbytes),
            segment.reserve,
        )
        self.words = self.heap.words
        self._sidecar = sidecar
        self.mutex = sidecar.mutex(_LOCKS[kind], self.words)
        self._on_recovery = on_recovery
        self._removal = removal
        self._closed = False

    def __enter__(self) -> Heap:
        sidecar = self._sidecar
        try:
            sidecar.thread_lock.acquire()
            if sidecar.inside:
                sidecar.thread_lock.release()
                raise Reentered
            sidecar.inside = True
            self.mutex.lock()
            if self.words[STATE]:
                self._finish()
        except BaseException as error:
            self.let_go(error)
            if self._closed:  # by another thread, between finding this region and entering it
                raise Gone from error
            if isinstance(error, _CONTRADICTIONS):
                raise self._corrupt(error) from error
            raise
        return self.heap

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        sidecar = self._sidecar
        try:
            self.mutex.unlock()
        finally:
            sidecar.inside = False
            sidecar.thread_lock.release()
        if error is not None and isinstance(error, _CONTRADICTIONS):
            raise self._corrupt(error) from error

    def is_inside(self) -> bool:
        """Whether the calling thread is inside the store, or in its opening."""
        return self._sidecar.thread_lock._is_owned()

    def let_go(self, error: BaseException) -> None:
        """Leave the region if ``error`` came in such a moment that this thread is inside still.

        A signal's handler may raise between any two steps of the main thread (Ctrl-C, a
        time limit), in `__enter__` and `__exit__` too. Whoever entered calls this with
        whatever came out.
        """
        sidecar = self._sidecar
        lock = sidecar.thread_lock
        # Refused to another thread; then this one had left, or had not entered.
        if isinstance(error, Reentered) or not lock.acquire(blocking=False):
            return
        try:
            sidecar.inside = False
            with contextlib.suppress(StoreUnavailable, ValueError):  # it may be closed
                self.mutex.unlock()
        finally:
            lock.release()
            with contextlib.suppress(RuntimeError):
                lock.release()  # Of which there is one too many if all was well.

    def _corrupt(self, error: BaseException) -> StoreCorrupt | Gone:
        if not self._sidecar.is_at(self._sidecar.path):
            return Gone()  # Somebody removed it to start afresh.
        what = str(error) if isinstance(error, StoreCorrupt) else f"{type(error).__name__}: {error}"
        return StoreCorrupt(
            f"the {NAMES[self.kind]} of the store at {os.path.dirname(self._sidecar.path)!r} "
            f"contradict themselves ({what}); to start afresh remove it with destroy(), or with "
            f"this command: {self._removal()}"
        )

    def _finish(self) -> None:
        """Carry on where a killed process stopped."""
        words = self.words
        if words[STATE] == COMMITTED:
            self.heap.journal.replay()
            self._on_recovery()
        elif self.kind == CHANNELS and words[STATE] & (PUSHING | POPPING):
            recount(self.heap)
            self._on_recovery()
        if words[STATE] == FORMATTING:
            self.format()
        if words[STATE] == DESTROYED:
            raise Gone
        if words[STATE] != IDLE:
            raise StoreCorrupt(f"the state of a segment is {words[STATE]}, which is none")

    def is_destroyed(self) -> bool:
        """True once the store has been marked as removed. Takes no lock."""
        state, after = self.words[STATE], self.words[JOURNAL_AFTER]
        return state == DESTROYED or (state == COMMITTED and after == DESTROYED)

    def format(self) -> None:
        """Empty the segment; the last step of creation and of a flush."""
        words = self.words
        self.heap.format()
        for counter in (NAMED, MEMBERS, HAND, NODES_USED, FREE_NODE, LANES, BACKLOG):
            words[counter] = 0
        words[SOONEST] = NEVER
        self.heap.journal.set_state(IDLE)

    def close(self) -> None:
        """Let go of the memory. No thread may be inside."""
        self._closed = True
        self.heap.release()
        self.heap.bytes.release()
        self.segment.close()
