"""Engine ``mmap``: files mapped into memory, in one directory with locks and wake-ups.

For machines without shared memory, and for containers that share a volume. On a disk the system
writes the pages back as it sees fit, and no call waits for that.
"""

from __future__ import annotations

import contextlib
import os

from .directory import StoreDirectory
from .engine import SharedMemoryEngine
from .files import FileMemory, free_space, give


class MmapSegment(FileMemory):
    """A `Segment` in a file of the store's directory."""

    def __init__(self, directory: StoreDirectory, locator: str, descriptor: int) -> None:
        super().__init__(descriptor)
        self._directory = directory
        self._locator = locator

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """Return a name in the store's directory."""
        return f"{name}.{token}"

    @classmethod
    def create(cls, directory: StoreDirectory, locator: str, size: int) -> MmapSegment:
        """See `Segment.create`."""
        location = directory.location
        descriptor = directory.open_file(locator, os.O_RDWR | os.O_CREAT | os.O_EXCL, location.mode)
        try:
            give(descriptor, size, location.mode, location.gid)
            return cls(directory, locator, descriptor)
        except BaseException:
            directory.unlink(locator)
            raise

    @classmethod
    def attach(cls, directory: StoreDirectory, locator: str) -> MmapSegment:
        """See `Segment.attach`."""
        return cls(directory, locator, directory.open_file(locator, os.O_RDWR))

    @classmethod
    def left(cls) -> list[str]:
        """See `Segment.left`: it lies in the stores' directories alone, and goes with them."""
        return []

    @staticmethod
    def space(directory: str) -> str:
        """See `Segment.space`."""
        return free_space(directory)

    def may_unlink(self) -> bool:
        """See `Segment.may_unlink`."""
        return self._directory.may_unlink(self.owner().uid)

    def unlink(self) -> None:
        """See `Segment.unlink`."""
        with contextlib.suppress(FileNotFoundError):
            found = self._directory.status(self._locator)
            if os.path.samestat(found, os.fstat(self._descriptor)):
                self._directory.unlink(self._locator)


class MmapEngine(SharedMemoryEngine):
    """Engine ``mmap``; options as `SharedMemoryEngine`."""

    name = "mmap"
    segment = MmapSegment
