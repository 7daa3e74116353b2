"""Engine ``posix``: POSIX shared memory (``shm_open``). The default.

On Linux locks and wake-ups lie beside the memory, under /dev/shm, so that containers
which share it share all of a store.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets

from .directory import StoreDirectory
from .engine import SharedMemoryEngine
from .files import SHM, FileMemory, free_space, give
from .location import temporary_folder

#: What posix_ipc says, without a number, of what a process or the system ran out of.
_OUT_OF = {"number of files open": errno.EMFILE, "total number of open files": errno.ENFILE}
#: How the name of all shared memory of this engine begins.
_BEGINNING = "asgi_ipc."
_IS_OURS = re.compile(r"asgi_ipc\.[0-9a-f]{16}\.[cg]").fullmatch


class PosixSegment(FileMemory):
    """A `Segment` of POSIX shared memory."""

    def __init__(self, locator: str, descriptor: int) -> None:
        super().__init__(descriptor)
        self._locator = locator

    @staticmethod
    def locator_for(name: str, token: str) -> str:
        """Return a name of 28 characters; macOS allows 31."""
        return f"/{_BEGINNING}{token}.{name[0]}"

    @classmethod
    def create(cls, directory: StoreDirectory, locator: str, size: int) -> PosixSegment:
        """See `Segment.create`."""
        import posix_ipc

        location = directory.location
        # No size here: given one, posix_ipc removes what it can't resize.
        try:
            memory = posix_ipc.SharedMemory(locator, posix_ipc.O_CREX, mode=location.mode)
        except (posix_ipc.Error, OSError, MemoryError, ValueError) as error:
            raise _as_os_error(error, locator) from error
        try:
            give(memory.fd, size, location.mode, location.gid)
            return cls(locator, memory.fd)
        except BaseException:
            _unlink(locator)
            raise

    @classmethod
    def attach(cls, directory: StoreDirectory, locator: str) -> PosixSegment:
        """See `Segment.attach`."""
        import posix_ipc

        try:
            memory = posix_ipc.SharedMemory(locator)
        except (posix_ipc.Error, OSError, MemoryError, ValueError) as error:
            raise _as_os_error(error, locator) from error
        return cls(locator, memory.fd)

    @classmethod
    def left(cls) -> list[str]:
        """See `Segment.left`: known where shared memory is files in a folder."""
        found = []
        with contextlib.suppress(OSError), os.scandir(SHM) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    mine = entry.stat(follow_symlinks=False).st_uid == os.geteuid()
                    if mine and _IS_OURS(entry.name):
                        found.append(f"/{entry.name}")
        return sorted(found)

    @staticmethod
    def space(directory: str) -> str:
        """See `Segment.space`."""
        return free_space(SHM) if os.path.isdir(SHM) else "the system's shared memory"

    def may_unlink(self) -> bool:
        """See `Segment.may_unlink`: that folder is sticky."""
        return os.geteuid() in (0, self.owner().uid)

    def unlink(self) -> None:
        """See `Segment.unlink`."""
        if self.is_linked():
            _unlink(self._locator)


def _unlink(locator: str) -> None:
    import posix_ipc

    try:
        posix_ipc.unlink_shared_memory(locator)
    except posix_ipc.ExistentialError:
        pass
    except posix_ipc.Error as error:
        raise _as_os_error(error, locator) from error


def _as_os_error(error: Exception, locator: str) -> OSError:
    """An error of posix_ipc as what it was before; its own have neither number nor file."""
    import posix_ipc

    if isinstance(error, posix_ipc.PermissionsError):
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), locator)
    if isinstance(error, posix_ipc.ExistentialError):
        # One class for "is there already" and "is not there".
        if "already exists" in str(error):
            return FileExistsError(errno.EEXIST, str(error), locator)
        return FileNotFoundError(errno.ENOENT, str(error), locator)
    told = str(error)
    number = next((_OUT_OF[text] for text in _OUT_OF if text in told), errno.ENOMEM)
    if isinstance(error, OSError) and error.errno:
        return error
    return OSError(number, told, locator)


class PosixEngine(SharedMemoryEngine):
    """Engine ``posix``; options as `SharedMemoryEngine`."""

    name = "posix"
    segment = PosixSegment

    @classmethod
    def unavailable(cls) -> str | None:
        """See `Engine.unavailable`."""
        # First: a sub-interpreter can't import what is installed.
        reason = super().unavailable()
        if reason is not None:
            return reason
        try:
            import posix_ipc  # noqa: F401
        except ImportError:
            return "the package posix_ipc is not installed: pip install posix_ipc"
        # Where memory lies elsewhere, or nowhere, only to try tells; where it is a folder,
        # what is wrong with it has a better message when the store is opened.
        return None if os.path.isdir(SHM) else _shm_open_fails()

    @classmethod
    def default_parent(cls) -> str:
        """See `SharedMemoryEngine.default_parent`."""
        # A question of the system's layout, asked of the system and not of its name.
        writable = os.path.isdir(SHM) and os.access(SHM, os.W_OK | os.X_OK)
        return SHM if writable else temporary_folder()


def _shm_open_fails() -> str | None:
    """None if POSIX shared memory can be made, or why not and what to do."""
    import posix_ipc

    name = f"/asgi_ipc.{secrets.token_hex(8)}.t"
    try:
        posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600).close_fd()
        posix_ipc.unlink_shared_memory(name)
    except (posix_ipc.Error, OSError) as error:
        return (
            f"this system offers no POSIX shared memory ({error}): on Linux mount it with "
            f"'mount -t tmpfs tmpfs {SHM}', or take engine 'sysv' or 'mmap'"
        )
    return None
