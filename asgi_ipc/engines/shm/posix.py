"""Engine ``posix``: POSIX shared memory (``shm_open``). The default.

The two calls come from the extension module of `multiprocessing.shared_memory`, not from that
module: its resource tracker would remove memory that other processes still use.

On Linux locks and wake-ups lie beside the memory, under /dev/shm, so that containers
which share it share all of a store.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets

from .directory import StoreDirectory
from .engine import SharedMemoryEngine
from .files import SHM, FileMemory, free_space, give
from .options import temporary_folder

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
        location = directory.location
        descriptor = _shm_open(locator, os.O_RDWR | os.O_CREAT | os.O_EXCL, location.mode)
        try:
            give(descriptor, size, location.mode, location.gid)
            return cls(locator, descriptor)
        except BaseException:
            _unlink(locator)
            raise

    @classmethod
    def attach(cls, directory: StoreDirectory, locator: str) -> PosixSegment:
        """See `Segment.attach`."""
        return cls(locator, _shm_open(locator, os.O_RDWR))

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


def _shm_open(locator: str, flags: int, mode: int = 0) -> int:
    """Open memory and return its descriptor, which no started program inherits."""
    # Imported late: a Python may have been built without it.
    import _posixshmem

    descriptor: int = _posixshmem.shm_open(locator, flags, mode)
    return descriptor


def _unlink(locator: str) -> None:
    import _posixshmem

    with contextlib.suppress(FileNotFoundError):
        _posixshmem.shm_unlink(locator)


class PosixEngine(SharedMemoryEngine):
    """Engine ``posix``; options as `SharedMemoryEngine`."""

    name = "posix"
    segment = PosixSegment
    needs = "_posixshmem"
    missing = (
        "this Python was built without POSIX shared memory (it has no module _posixshmem): choose"
        " engine 'mmap', or take another Python"
    )

    @classmethod
    def unavailable(cls) -> str | None:
        """See `Engine.unavailable`."""
        reason = super().unavailable()
        # Where memory lies elsewhere, or nowhere, only to try tells; where it is a folder,
        # what is wrong with it has a better message when the store is opened.
        return reason if reason or os.path.isdir(SHM) else _shm_open_fails()

    @classmethod
    def default_parent(cls) -> str:
        """See `SharedMemoryEngine.default_parent`."""
        # A question of the system's layout, asked of the system and not of its name.
        writable = os.path.isdir(SHM) and os.access(SHM, os.W_OK | os.X_OK)
        return SHM if writable else temporary_folder()


def _shm_open_fails() -> str | None:
    """None if POSIX shared memory can be made, or why not and what to do."""
    name = f"/asgi_ipc.{secrets.token_hex(8)}.t"
    try:
        os.close(_shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        _unlink(name)
    except OSError as error:
        return (
            f"this system offers no POSIX shared memory ({error}): on Linux mount it with "
            f"'mount -t tmpfs tmpfs {SHM}', or take engine 'sysv' or 'mmap'"
        )
    return None
