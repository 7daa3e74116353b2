"""Engine ``sysv``: System V shared memory (``shmget``).

Its limits are the kernel's (shmmax, shmall, shmmni), not a file system's. Locks and
wake-ups lie in a directory of the user's own in the temporary folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import secrets
from typing import TYPE_CHECKING, NamedTuple

from .directory import StoreDirectory
from .engine import SharedMemoryEngine
from .files import too_large
from .location import Owner

if TYPE_CHECKING:
    import sysv_ipc


#: How Linux marks memory that is removed and still attached (SHM_DEST).
_REMOVED = 0o1000
#: Where Linux lists all segments.
_TABLE = "/proc/sysvipc/shm"


class SysVSegment:
    """A `Segment` of System V shared memory, under a key that follows from the store's id."""

    def __init__(self, memory: sysv_ipc.SharedMemory) -> None:
        self._memory = memory
        self.view = memoryview(memory)

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """Return a positive key of 31 bits; 0 would be IPC_PRIVATE, which can't be found again."""
        digest = hashlib.blake2b(f"{name}.{token}".encode(), digest_size=4).digest()
        return f"{int.from_bytes(digest, 'big') & 0x7FFFFFFF or 1:#010x}"

    @classmethod
    def create(cls, directory: StoreDirectory, locator: str, size: int) -> SysVSegment:
        """See `Segment.create`."""
        import sysv_ipc

        location = directory.location
        with contextlib.suppress(FileNotFoundError):
            cls.attach(directory, locator).close()
            raise FileExistsError(errno.EEXIST, "a segment with this key exists", locator)
        _check_room(size)
        try:
            # With IPC_EXCL the package would write to every page, and so use all the
            # memory at once; the kernel's new pages are zero anyway.
            memory = sysv_ipc.SharedMemory(
                int(locator, 16), sysv_ipc.IPC_CREAT, mode=location.mode, size=size
            )
        except (sysv_ipc.Error, OSError, MemoryError, ValueError, OverflowError) as error:
            _remove_unattached(int(locator, 16))
            raise _as_os_error(error, locator) from error
        if memory.creator_pid != os.getpid():
            memory.detach()
            raise FileExistsError(errno.EEXIST, "a segment with this key exists", locator)
        try:
            if location.gid is not None:
                memory.gid = location.gid
        except (sysv_ipc.Error, OSError) as error:
            sysv_ipc.remove_shared_memory(memory.id)
            memory.detach()
            raise _as_os_error(error, locator) from error
        return cls(memory)

    @classmethod
    def attach(cls, directory: StoreDirectory, locator: str) -> SysVSegment:
        """See `Segment.attach`."""
        import sysv_ipc

        try:
            return cls(sysv_ipc.SharedMemory(int(locator, 16)))
        except (sysv_ipc.Error, OSError, MemoryError, ValueError) as error:
            raise _as_os_error(error, locator) from error

    @classmethod
    def left(cls) -> list[str]:
        """See `Segment.left`: all of this user's, as a key does not tell which program made it."""
        return [f"{row.key:#010x}" for row in _rows() if row.uid == os.geteuid() and row.key]

    @staticmethod
    def space(directory: str) -> str:
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

    def head(self, length: int) -> bytes:
        """See `Segment.head`."""
        return self.view[:length].tobytes()

    def may_unlink(self) -> bool:
        """See `Segment.may_unlink`."""
        return os.geteuid() in (0, self._memory.uid, self._memory.cuid)

    def is_linked(self) -> bool:
        """See `Segment.is_linked`."""
        return not self._memory.mode & _REMOVED

    def unlink(self) -> None:
        """See `Segment.unlink`. By its number, which is never another segment's."""
        import sysv_ipc

        if not self.is_linked():
            return
        try:
            sysv_ipc.remove_shared_memory(self._memory.id)
        except sysv_ipc.ExistentialError:
            pass
        except (sysv_ipc.Error, OSError) as error:
            raise _as_os_error(error, f"{self._memory.key:#010x}") from error

    def reserve(self, offset: int, length: int) -> None:
        """See `Segment.reserve`; the kernel accounts for all of it at creation."""

    def give_back(self, offset: int, length: int) -> bool:
        """See `Segment.give_back`: System V offers no such call."""
        return False

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


class _Row(NamedTuple):
    """One line of the system's table."""

    key: int
    number: int
    creator: int
    uid: int


def _rows() -> list[_Row]:
    """Return the system's table of segments; empty where it shows none."""
    found = []
    with contextlib.suppress(OSError), open(_TABLE) as table:
        names = table.readline().split()
        at = [names.index(name) for name in ("key", "shmid", "cpid", "uid")]
        for line in table:
            fields = line.split()
            key, number, creator, uid = (int(fields[each]) for each in at)
            found.append(_Row(key & 0xFFFFFFFF, number, creator, uid))
    return found


def _check_room(size: int) -> None:
    """Raise OSError if this process has no addresses left for so much.

    Asked before memory is made: what was made and can't be attached would have to be removed
    again, and the package can't remove what it can't attach.
    """
    try:
        mmap.mmap(
            -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ
        ).close()
    except (OverflowError, ValueError) as error:
        raise too_large(size) from error


def _remove_unattached(key: int) -> None:
    """Remove what this process has just made under a key and could not attach."""
    import sysv_ipc

    for row in _rows():
        if row.key == key and row.creator == os.getpid() and row.uid == os.geteuid():
            with contextlib.suppress(sysv_ipc.Error, OSError):
                sysv_ipc.remove_shared_memory(row.number)


class SysVEngine(SharedMemoryEngine):
    """Engine ``sysv``; options as `SharedMemoryEngine`."""

    name = "sysv"
    segment = SysVSegment
    needs = "sysv_ipc"
    missing = (
        "the package sysv_ipc is not installed: run pip install 'asgi_ipc[sysv]>=2', or choose"
        " engine 'posix' or 'mmap'"
    )

    @classmethod
    def unavailable(cls) -> str | None:
        """See `Engine.unavailable`."""
        return super().unavailable() or _shmget_fails()


def _shmget_fails() -> str | None:
    """None if the system has System V shared memory, or why not and what to do.

    A kernel can be built without it; a jail, or a filter of system calls, can refuse it.
    """
    import sysv_ipc

    try:
        sysv_ipc.SharedMemory(secrets.randbits(31)).detach()
    except sysv_ipc.Error:
        pass  # There is none with this key.
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return (
                f"this system offers no System V shared memory ({error.strerror}): allow it (in a "
                "jail, with 'sysvshm=new'), or choose engine 'posix' or 'mmap'"
            )
    return None
