"""Memory that has a file descriptor: what the posix and mmap segments share."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat

from asgi_ipc.exceptions import StoreUnavailable

from .file_systems import granule, mount_of, refusal
from .location import Owner

#: Where Linux has POSIX shared memory and semaphores as files. Elsewhere there is no such folder.
SHM = "/dev/shm"
#: How much is written at a time where a file system can't reserve.
_STEP = 1024 * 1024
#: What posix_fallocate answers where the system forbids it to this process, ...
_FORBIDDEN = {errno.ENOSYS, errno.EPERM}
#: ... and where the file system does not offer it. EBADF: see `_fallocate`.
_NOT_OFFERED = {errno.EBADF, errno.EINVAL, errno.ENODEV, errno.ENOTSUP, errno.EOPNOTSUPP}
#: What writing answers where shared memory is no file (macOS): sizing it has reserved it.
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
        self._known_granule = 0
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
                except ValueError as error:
                    raise OSError(errno.EIO, "it was cut while it was opened") from error
        except BaseException:
            os.close(descriptor)
            raise
        self.view = memoryview(self._map if self._map is not None else b"")

    def owner(self) -> Owner:
        """See `Segment.owner`."""
        return Owner.of(os.fstat(self._descriptor))

    @property
    def _granule(self) -> int:
        # No `cached_property`: before Python 3.12 it has a lock, which a forked child finds taken
        # for ever if another thread of the parent had it.
        if not self._known_granule:
            self._known_granule = granule(self._descriptor)
        return self._known_granule

    def head(self, length: int) -> bytes:
        """See `Segment.head`."""
        try:
            if self._map is not None and not hasattr(os, "posix_fallocate"):
                # As on OpenBSD, where a file does not show yet what was stored in a mapping.
                with contextlib.suppress(OSError):
                    self._map.flush()
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

    def is_stretched(self, length: int) -> bool:
        """Whether the file has fewer blocks than `reserve` of its first bytes must have taken.

        False where the system does not tell.
        """
        taken = os.fstat(self._descriptor).st_blocks * 512
        return 0 < taken < length and mount_of(self._descriptor) is not None

    def reserve(self, offset: int, length: int) -> None:
        """Have the file system set these bytes aside: a later touch can't raise SIGBUS.

        Whole granules are reserved, see `file_systems`. Never writes to the file: the bytes
        around may be live, and not every system shows a mapping what is written to its file.
        """
        first = offset // self._granule * self._granule
        last = -(-(offset + length) // self._granule) * self._granule
        refused = _fallocate(self._descriptor, first, min(last, self.view.nbytes) - first)
        if refused in _FORBIDDEN:
            status = os.fstat(self._descriptor)
            if status.st_blocks * 512 < status.st_size:
                raise OSError(
                    refused,
                    "posix_fallocate is forbidden to this process, but not to the one that "
                    "made the store",
                )

    def give_back(self, offset: int, length: int) -> bool:
        """See `Segment.give_back`: on a file system in memory, whose pages are given one by one."""
        remove, page = getattr(mmap, "MADV_REMOVE", None), mmap.PAGESIZE
        first, last = -(-offset // page) * page, (offset + length) // page * page
        try:
            # A page that is reserved already tells whether any can be.
            if (
                remove is None
                or self._map is None
                or self._granule != page
                or _fallocate(self._descriptor, 0, 1)
            ):
                return False
            if first < last:
                self._map.madvise(remove, first, last - first)
        except (
            OSError,
            ValueError,
            OverflowError,
        ):  # the system refuses, or another thread has closed it
            return False
        return True

    def close(self) -> None:
        """Release the mapping and the descriptor."""
        if self._descriptor < 0:
            return
        self.view.release()
        if self._map is not None:
            # A frame of an exception that is being handled may have a part of the memory in hand.
            # The mapping then goes with that.
            with contextlib.suppress(BufferError):
                self._map.close()
            self._map = None
        os.close(self._descriptor)
        self._descriptor = -1


def too_large(size: int) -> OSError:
    """Return the error for more memory than the platform has addresses for."""
    return OSError(errno.EFBIG, f"{size:,} bytes are more than this platform can map")


def give(descriptor: int, size: int, mode: int, gid: int | None) -> None:
    """Size a new, empty file and set its rights whatever the umask said.

    Where nothing can be reserved, all of it is written now: later that would be too late, as
    a mapped file must not be written to. Raises OSError, and `StoreUnavailable` where a file
    system takes back what it reserved; closes the file if it raises.
    """
    try:
        reason = refusal(descriptor)
        if reason is not None:
            raise StoreUnavailable(reason)
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
        if _fallocate(descriptor, 0, 1):
            _write_whole(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise


def _fallocate(descriptor: int, offset: int, length: int) -> int:
    """Reserve blocks; 0, or the error number where that is forbidden or not offered.

    Where the file system has no such call the GNU C library writes a zero into each block
    that looks empty, and so over what another process stores at that moment. It refuses to
    do so (EBADF) on a file opened for appending.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS, OpenBSD
        return errno.EOPNOTSUPP
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
    try:
        os.posix_fallocate(descriptor, offset, length)
    except OSError as error:
        if error.errno in _FORBIDDEN | _NOT_OFFERED:
            return error.errno
        raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return 0


def _write_whole(descriptor: int, size: int) -> None:
    """Take all blocks of a file by writing zeros, on the disk too: a cache may promise more."""
    try:
        offset = 0
        while offset < size:
            offset += os.pwrite(descriptor, bytes(min(size - offset, _STEP)), offset)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise OSError(
                error.errno,
                f"{error.strerror}; as posix_fallocate is not to be had here, all of the "
                "memory is taken at once",
            ) from error
