"""Memory that has a file descriptor: what the posix and mmap segments share."""

from __future__ import annotations

import contextlib
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
        """Take over ``descriptor``, also if this raises. An empty file is mapped as no bytes."""
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file, and was left as it is")
            # Some systems give shared memory no number of names.
            self._had_name = status.st_nlink > 0
            if status.st_size:
                try:
                    self._map = mmap.mmap(descriptor, status.st_size)
                except OverflowError as error:
                    raise too_large(status.st_size) from error
        except BaseException:
            os.close(descriptor)
            raise
        self.view = memoryview(self._map if self._map is not None else b"")

    def owner(self) -> Owner:
        """See `Segment.owner`."""
        return Owner.of(os.fstat(self._descriptor))

    def head(self, length: int) -> bytes:
        """See `Segment.head`."""
        try:
            return os.pread(self._descriptor, length, 0)
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
        # Sizing has reserved it.
        return self.view[:length].tobytes()

    def is_linked(self) -> bool:
        """See `Segment.is_linked`."""
        with contextlib.suppress(OSError):
            return not self._had_name or os.fstat(self._descriptor).st_nlink > 0
        return True

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
        """Release the mapping and the descriptor."""
        if self._descriptor < 0:
            return
        self.view.release()
        if self._map is not None:
            self._map.close()
        os.close(self._descriptor)
        self._descriptor = -1


def too_large(size: int) -> OSError:
    """Return the error for more memory than the platform has addresses for."""
    return OSError(errno.EFBIG, f"{size:,} bytes are more than this platform can map")


def give(descriptor: int, size: int, mode: int, gid: int | None) -> None:
    """Size a new file, and set its rights whatever the umask said; closes it if that fails."""
    try:
        status = os.fstat(descriptor)
        if gid is not None and status.st_gid != gid:
            os.fchown(descriptor, -1, gid)
        # Asked first: macOS refuses it on shared memory, whose mode is mostly right.
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(descriptor, mode)
        try:
            os.ftruncate(descriptor, size)
        except OverflowError as error:
            raise too_large(size) from error
    except BaseException:
        os.close(descriptor)
        raise
