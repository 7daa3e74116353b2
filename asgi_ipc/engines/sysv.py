"""Engine ``sysv``: System V shared memory (``shmget``).

Its limits are the kernel's (shmmax, shmall, shmmni), not a file system's. Locks and
wake-ups lie in a directory of the user's own in the temporary folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING

from ..store.engine import SharedMemoryEngine
from ..store.segment import Owner, Place

if TYPE_CHECKING:
    import sysv_ipc


class SysVSegment:
    """A `Segment` of System V shared memory, under a random key that the lock file records."""

    def __init__(self, memory: sysv_ipc.SharedMemory) -> None:
        self._memory = memory
        self.view = memoryview(memory)

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """A positive key of 31 bits; 0 would be IPC_PRIVATE, which can't be found again."""
        return f"{secrets.randbelow(0x7FFFFFFE) + 1:#010x}"

    @classmethod
    def create(cls, place: Place, locator: str, size: int) -> SysVSegment:
        """See `Segment.create`."""
        import sysv_ipc

        with contextlib.suppress(FileNotFoundError):
            cls.attach(place, locator).close()
            raise FileExistsError(errno.EEXIST, "a segment with this key exists", locator)
        try:
            # With IPC_EXCL the package would write to every page, and so use all the
            # memory at once; the kernel's new pages are zero anyway.
            memory = sysv_ipc.SharedMemory(
                int(locator, 16), sysv_ipc.IPC_CREAT, mode=place.mode, size=size
            )
        except (sysv_ipc.Error, OSError, MemoryError, ValueError) as error:
            raise _as_os_error(error, locator) from error
        if memory.creator_pid != os.getpid():
            memory.detach()
            raise FileExistsError(errno.EEXIST, "a segment with this key exists", locator)
        try:
            if place.gid is not None:
                memory.gid = place.gid
        except (sysv_ipc.Error, OSError) as error:
            memory.detach()
            raise _as_os_error(error, locator) from error
        return cls(memory)

    @classmethod
    def attach(cls, place: Place, locator: str) -> SysVSegment:
        """See `Segment.attach`."""
        import sysv_ipc

        try:
            return cls(sysv_ipc.SharedMemory(int(locator, 16)))
        except (sysv_ipc.Error, OSError, MemoryError, ValueError) as error:
            raise _as_os_error(error, locator) from error

    @classmethod
    def unlink(cls, place: Place, locator: str) -> None:
        """See `Segment.unlink`."""
        import sysv_ipc

        with contextlib.suppress(FileNotFoundError):
            segment = cls.attach(place, locator)
            try:
                sysv_ipc.remove_shared_memory(segment._memory.id)
            except (sysv_ipc.Error, OSError) as error:
                raise _as_os_error(error, locator) from error
            finally:
                segment.close()

    @staticmethod
    def space(place: Place) -> str:
        """See `Segment.space`."""
        limits = []
        for name in ("shmmax", "shmall", "shmmni"):
            with contextlib.suppress(OSError), open(f"/proc/sys/kernel/{name}") as file:
                limits.append(f"kernel.{name}={file.read().strip()}")
        told = ", ".join(limits) or "see sysctl kern.sysv or kern.ipc"
        return f"System V shared memory ({told}; sysctl raises these limits of the kernel)"

    def owner(self) -> Owner:
        """See `Segment.owner`."""
        return Owner(self._memory.uid, self._memory.gid, self._memory.mode & 0o777)

    def reserve(self, offset: int, length: int) -> None:
        """See `Segment.reserve`; the kernel accounts for all of it at creation."""

    def close(self) -> None:
        """See `Segment.close`."""
        # A view that outlived the mapping would crash the interpreter.
        self.view.release()
        if self._memory.attached:
            self._memory.detach()


def _as_os_error(error: Exception, locator: str) -> OSError:
    """An error of sysv_ipc as what it was before; its own have neither number nor file."""
    import sysv_ipc

    if isinstance(error, sysv_ipc.ExistentialError):
        return FileNotFoundError(errno.ENOENT, str(error), locator)
    if isinstance(error, sysv_ipc.PermissionsError):
        return PermissionError(errno.EACCES, str(error), locator)
    number = error.errno if isinstance(error, OSError) and error.errno else errno.ENOMEM
    return OSError(number, str(error), locator)


class SysVEngine(SharedMemoryEngine):
    """Engine ``sysv``; options as `SharedMemoryEngine`."""

    name = "sysv"
    segment = SysVSegment

    @classmethod
    def unavailable(cls) -> str | None:
        """See `Engine.unavailable`."""
        # First: a sub-interpreter can't import what is installed.
        reason = super().unavailable()
        if reason is not None:
            return reason
        try:
            import sysv_ipc  # noqa: F401
        except ImportError:
            return "the package sysv_ipc is not installed: pip install sysv_ipc"
        return None
