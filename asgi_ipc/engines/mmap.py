"""Engine ``mmap``: files mapped into memory, in one directory with locks and wake-ups.

For machines without shared memory, and for containers that share a volume. On a disk
the system writes the pages back as it sees fit; nobody waits for that.
"""

from __future__ import annotations

import contextlib
import os

from ..store.engine import SharedMemoryEngine
from ..store.files import FileMemory, free_space, give
from ..store.segment import Place


class MmapSegment(FileMemory):
    """A `Segment` in a file of the store's directory."""

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """A name in the store's directory."""
        return f"{name}.{token}"

    @classmethod
    def create(cls, place: Place, locator: str, size: int) -> MmapSegment:
        """See `Segment.create`."""
        path = os.path.join(place.directory, locator)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, place.mode)
        try:
            give(descriptor, size, place.mode, place.gid)
            return cls(descriptor)
        except BaseException:
            cls.unlink(place, locator)
            raise

    @classmethod
    def attach(cls, place: Place, locator: str) -> MmapSegment:
        """See `Segment.attach`."""
        path = os.path.join(place.directory, locator)
        return cls(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))

    @classmethod
    def unlink(cls, place: Place, locator: str) -> None:
        """See `Segment.unlink`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(place.directory, locator))

    @staticmethod
    def space(place: Place) -> str:
        """See `Segment.space`."""
        return free_space(place.directory)


class MmapEngine(SharedMemoryEngine):
    """Engine ``mmap``; options as `SharedMemoryEngine`."""

    name = "mmap"
    segment = MmapSegment
