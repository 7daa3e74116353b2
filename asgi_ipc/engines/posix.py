"""Engine ``posix``: POSIX shared memory (``shm_open``). The default.

On Linux locks and wake-ups lie beside the memory, under /dev/shm, so that containers
which share it share all of a store.
"""

from __future__ import annotations

import contextlib
import os
import tempfile

from ..store.engine import SharedMemoryEngine
from ..store.files import FileMemory, free_space, give
from ..store.segment import Place

_SHM = "/dev/shm"


class PosixSegment(FileMemory):
    """A `Segment` of POSIX shared memory."""

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """macOS allows 31 characters."""
        return f"/asgi_ipc.{token}.{name[0]}"

    @classmethod
    def create(cls, place: Place, locator: str, size: int) -> PosixSegment:
        """See `Segment.create`."""
        import posix_ipc

        # No size here: given one, posix_ipc removes what it can't resize.
        try:
            memory = posix_ipc.SharedMemory(locator, posix_ipc.O_CREX, mode=place.mode)
        except posix_ipc.ExistentialError as error:
            raise FileExistsError(str(error)) from error
        try:
            give(memory.fd, size, place.mode, place.gid)
            return cls(memory.fd)
        except BaseException:
            cls.unlink(place, locator)
            raise

    @classmethod
    def attach(cls, place: Place, locator: str) -> PosixSegment:
        """See `Segment.attach`."""
        import posix_ipc

        try:
            memory = posix_ipc.SharedMemory(locator)
        except posix_ipc.ExistentialError as error:
            raise FileNotFoundError(str(error)) from error
        return cls(memory.fd)

    @classmethod
    def unlink(cls, place: Place, locator: str) -> None:
        """See `Segment.unlink`."""
        import posix_ipc

        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(locator)

    @staticmethod
    def space(place: Place) -> str:
        """See `Segment.space`."""
        return free_space(_SHM) if os.path.isdir(_SHM) else "the system's shared memory"


class PosixEngine(SharedMemoryEngine):
    """Engine ``posix``; options as `SharedMemoryEngine`."""

    name = "posix"
    segment = PosixSegment

    @classmethod
    def unavailable(cls) -> str | None:
        """See `Engine.unavailable`."""
        try:
            import posix_ipc  # noqa: F401
        except ImportError:
            return "the package posix_ipc is not installed: pip install posix_ipc"
        return None

    @classmethod
    def default_parent(cls) -> str:
        """See `SharedMemoryEngine.default_parent`."""
        # A question of the system's layout, asked of the system and not of its name.
        writable = os.path.isdir(_SHM) and os.access(_SHM, os.W_OK | os.X_OK)
        return _SHM if writable else tempfile.gettempdir()
