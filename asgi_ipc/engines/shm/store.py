"""A store that this process has open: its directory, its lock file, its two segments.

`opening` makes a `Store`; this module closes and removes it. A process that removes a store first
marks its segments, so that every process inside finds it gone, and removes the lock file last.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from asgi_ipc.exceptions import StoreCorrupt, StoreUnavailable

from ..base import NODE_BYTES
from .directory import StoreDirectory, remove_if_empty
from .errors import unusable
from .heap import layout
from .location import Location, described
from .lock_file import REMOVED, LockFile, LockFileHeader
from .locked_segment import LockedSegment
from .locks.base import Gone
from .segment import Segment


class StoreOptions(NamedTuple):
    """Which store an engine asks for, and what the store has to know of the engine."""

    location: Location
    #: Bytes of each kind of segment, if the store is made.
    sizes: Mapping[int, int]
    #: The engine's name, as the lock file says it.
    engine: str
    segment: type[Segment]
    #: Return the class of another engine's memory, given the engine's name; None: not known here.
    segment_of: Callable[[str], type[Segment] | None]
    #: Return the command that removes the store, for error messages.
    removal: Callable[[], str]
    #: False: join a store that is there, and never make, replace or remove one.
    make: bool = True


class Store:
    """The two segments of a store, open in this process."""

    def __init__(self, location: Location, directory: StoreDirectory, lock_file: LockFile) -> None:
        """Take over directory and lock file. The store has no segments until `use`."""
        self.location = location
        self.directory = directory
        self.lock_file = lock_file
        self.locked_segments: dict[int, LockedSegment] = {}

    def use(self, header: LockFileHeader, locked_segments: dict[int, LockedSegment]) -> None:
        """Take over the segments that belong to that header."""
        self._header = header
        self.store_id = header.store_id
        self.locked_segments = locked_segments

    @contextlib.contextmanager
    def opening(self) -> Iterator[bool]:
        """Be alone among openers; yields whether the lock file still is the store's."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.lock_file.opening())
            except Gone:  # a forked child may find it so
                yield False
                return
            yield self.is_current()

    # ---- what it is

    def is_current(self) -> bool:
        """False once the lock file has been removed or moved away."""
        return self.lock_file.is_at(os.path.join(self.location.directory, "lock"))

    def is_destroyed(self) -> bool:
        """True once a process has marked the store as removed. Takes no lock."""
        return any(each.is_destroyed() for each in self.locked_segments.values())

    def node(self) -> bytes:
        """Return the bytes with which the identities of its processes begin."""
        view = self.locked_segments[layout.CHANNELS].segment.view
        start = layout.W_NODE * layout.WORD
        return view[start : start + NODE_BYTES].tobytes()

    # ---- removal

    def leave_if_lost(self) -> bool:
        """Remove the lock file if later openers can't find the memory any more; whether it is so.

        Only a process that has the memory can tell memory that was removed from memory that
        another process can't see.
        """
        if all(each.segment.is_linked() for each in self.locked_segments.values()):
            return False
        with self.opening() as linked:
            if linked:
                self.lock_file.unlink()
        return True

    def destroy(self) -> None:
        """Mark the store as gone for those inside, then remove it.

        Raises `StoreUnavailable` if this user may not; then nothing is changed.
        """
        try:
            self._check_removable()
        except OSError as error:
            raise unusable("remove the store at", self.location.directory, error) from error
        for locked_segment in self.locked_segments.values():
            # What is corrupt can't be marked: those inside see that the lock file is gone.
            with contextlib.suppress(Gone, StoreCorrupt), locked_segment as heap:
                heap.commit({}, after=layout.DESTROYED)
        with self.opening() as linked:
            try:
                if linked:
                    # For a newcomer, if this process is killed now: others may be inside still.
                    self.lock_file.write(self._header._replace(ready=REMOVED))
                self._remove_memory()
                if linked:
                    self.lock_file.unlink()
            except OSError as error:
                raise unusable("remove the store at", self.location.directory, error) from error

    def _check_removable(self) -> None:
        for locked_segment in self.locked_segments.values():
            if not locked_segment.segment.may_unlink():
                owner = described(locked_segment.segment.owner().uid)
                raise StoreUnavailable(
                    f"can't remove the store at {self.location.directory!r}: its memory belongs to "
                    f"user {owner}, who alone may remove it; let a process of that user or of "
                    "root destroy() it, or empty it with flush()"
                )

    def _remove_memory(self) -> None:
        for locked_segment in self.locked_segments.values():
            locked_segment.segment.unlink()
        self.lock_file.remove_locks(self.store_id)

    def remove_rest(self) -> None:
        """Remove what is left of a store that is not the store any more.

        That includes the lock file if the process that destroyed the store could not remove it,
        or was killed at that: a newcomer can't tell such a store from one that is used.
        """
        with contextlib.suppress(OSError, StoreUnavailable):
            if not self.is_destroyed():
                self._remove_memory()
                return
            with self.opening() as linked:
                self._remove_memory()
                if linked:
                    self.lock_file.unlink()

    def remove_directory(self) -> None:
        """Remove the directories that are empty."""
        remove_if_empty(self.location)

    # ---- closing

    def close(self) -> None:
        """Release the memory, the lock file and the directory."""
        self.lock_file.section.run(self._close_alone)
        self.release()

    def release(self) -> None:
        """The same for a store that no other thread has: of one that was not opened."""
        self.close_segments()
        self.lock_file.close()
        self.directory.close()

    def _close_alone(self) -> None:
        section = self.lock_file.section
        section.enter()
        try:
            self.close_segments()
        finally:
            section.leave()

    def close_segments(self) -> None:
        """Release the memory."""
        for locked_segment in self.locked_segments.values():
            locked_segment.close()
        self.locked_segments = {}
