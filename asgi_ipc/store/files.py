"""Memory that has a file descriptor: what the posix and mmap segments share."""

from __future__ import annotations

import errno
import mmap
import os
import stat

from .segment import Owner

#: Where Linux has POSIX shared memory and semaphores as files. Elsewhere there is no such folder.
SHM = "/dev/shm"
#: How much is written at a time where a file system can't reserve.
_STEP = 64 * 1024
#: What posix_fallocate answers where it isn't offered, or forbidden as a system call.
_NOT_OFFERED = {
    errno.EINVAL,
    errno.ENODEV,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EPERM,
}
#: What reading answers where shared memory is no file (macOS): sizing it has reserved it.
_NO_FILE = {errno.ENXIO, errno.ENODEV, errno.ESPIPE}


def free_space(path: str) -> str:
    """For people: the file system that holds ``path`` and what is free on it."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        return f"{path} ({error.strerror})"
    free, total = (n * status.f_frsize // 1024 for n in (status.f_bavail, status.f_blocks))
    return f"{path} ({free:,} KiB free of {total:,} KiB)"


class FileMemory:
    """A mapping of a whole file, which is sparse until reserved."""

    def __init__(self, descriptor: int) -> None:
        """Takes over ``descriptor``, also if it raises."""
        self._descriptor = descriptor
        try:
            size = os.fstat(descriptor).st_size
            if not size:
                # Its creator died before it gave it a size.
                raise FileNotFoundError(errno.ENOENT, "the memory was never completed")
            self._map = mmap.mmap(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
        self.view = memoryview(self._map)

    def owner(self) -> Owner:
        """Who made it."""
        return Owner.of(os.fstat(self._descriptor))

    def reserve(self, offset: int, length: int) -> None:
        """Have the file system set these bytes aside: a later touch can't raise SIGBUS."""
        try:
            os.posix_fallocate(self._descriptor, offset, length)
            return
        except AttributeError:  # not on this system: macOS
            pass
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
        # Written over with what is there: zeros, the first time.
        try:
            while length:
                there = os.pread(self._descriptor, min(length, _STEP), offset)
                written = os.pwrite(self._descriptor, there, offset)
                offset, length = offset + written, length - written
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise

    def close(self) -> None:
        """Let go of the mapping and the descriptor."""
        if self._descriptor < 0:
            return
        self.view.release()
        self._map.close()
        os.close(self._descriptor)
        self._descriptor = -1


def give(descriptor: int, size: int, mode: int, gid: int | None) -> None:
    """Size a new file, and set its rights whatever the umask said; closes it if that fails."""
    try:
        status = os.fstat(descriptor)
        if gid is not None and status.st_gid != gid:
            os.fchown(descriptor, -1, gid)
        # Asked first: macOS refuses it on shared memory, whose mode is mostly right.
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(descriptor, mode)
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
