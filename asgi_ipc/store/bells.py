"""Wake-ups: one FIFO for each event loop or thread that waits, in the store's directory.

A bell is named by its process's identity and a number, so it outlives neither. The
reader keeps a writer of its own, so that end-of-file never comes; when it dies, the
next ringer gets EPIPE or ENXIO and knows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Collection

from ..engines.base import IDENTITY_BYTES
from ..engines.bell import ANY, AT_ONCE, rung_for
from ..engines.guards import own_lock
from ..exceptions import StoreUnavailable
from .segment import Place

#: Open writers to other processes' bells that are kept.
_KEPT = 128
#: Seconds for which a FIFO without a reader may just be in the making.
_NEWBORN = 10
_NAME = re.compile(r"bell\.([0-9a-f]{28})\.\d+")
_GONE = {errno.EPIPE, errno.ENXIO, errno.ENOENT}


def bell_path(place: Place, identity: bytes, number: int) -> str:
    """Where the bell of that number of that process is."""
    return os.path.join(place.directory, f"bell.{identity.hex()}.{number}")


def bells_in(place: Place) -> list[tuple[bytes, str]]:
    """Identity and path of each bell that hangs in the store's directory."""
    # Rung are they as far as that goes: who waits looks again by himself.
    with contextlib.suppress(OSError):
        names = filter(None, map(_NAME.fullmatch, os.listdir(place.directory)))
        return [(bytes.fromhex(m[1]), os.path.join(place.directory, m[0])) for m in names]
    return []


def is_abandoned(path: str) -> bool:
    """Whether nobody hears a bell, and has not for a while: it was its process's last trace.

    For those whose process was killed, and so was the process that should have taken them down.
    """
    try:
        if time.time() < os.lstat(path).st_ctime + _NEWBORN:
            return False
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def check_fifos(place: Place) -> None:
    """Raise `StoreUnavailable` if no FIFO can be made in the store's directory.

    Better when the store is opened than at the first wait; and without wake-ups every
    message would be a second late. The name is that of no bell and of no process, and always
    the same: what somebody leaves who is killed at this goes with the next.
    """
    path = bell_path(place, bytes(IDENTITY_BYTES), 0)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, place.mode)
        os.unlink(path)
    except FileNotFoundError:
        pass  # another was faster, or the directory was removed and will be made again
    except OSError as error:
        raise _no_fifo(path, error) from error


def _no_fifo(path: str, error: OSError) -> StoreUnavailable:
    remedies = {
        errno.EMFILE: "raise this process's limit of open files (ulimit -n)",
        errno.ENFILE: "raise the system's limit of open files",
        errno.ENOSPC: "free some space there, or name another engine_options['directory']",
    }
    return StoreUnavailable(
        f"can't make the wake-up FIFO {path!r} ({error.strerror}): "
        + remedies.get(
            error.errno or 0,
            "the store's directory must be on a file system with FIFOs where this user may write;"
            " name one with engine_options['directory']",
        )
    )


class FifoBell:
    """A `asgi_ipc.engines.base.Bell` that other processes can ring."""

    def __init__(self, place: Place, identity: bytes, number: int) -> None:
        self.path = bell_path(place, identity, number)
        self.number = number
        # Held around each use of a descriptor: the number of one that another thread has just
        # closed may belong to a stranger's socket by now.
        self._lock = own_lock()
        self._reader = self._writer = -1
        self._lost = False
        # It was closed by code that interrupted one of its methods, which will do it.
        self._closing = False
        try:
            os.mkfifo(self.path, place.mode)
            try:
                self._reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self._writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                if place.gid is not None:
                    os.fchown(self._writer, -1, place.gid)
                os.fchmod(self._writer, place.mode)
            except BaseException:
                os.unlink(self.path)
                self.drop()
                raise
        except OSError as error:
            raise _no_fifo(self.path, error) from error

    def fileno(self) -> int:
        """The descriptor to wait for; -1 once closed, or lost."""
        return -1 if self._lost or self._closing else self._reader

    def look(self) -> None:
        """See whether the FIFO still hangs where others look for it; if not, it is lost.

        A FIFO can't be hung up again. Who waits for it sees that it has no descriptor any
        more and makes another; until it is closed, that stays open and is nobody else's.
        """
        with self._lock:
            if self._reader < 0:
                return
            try:
                self._lost = not os.path.samestat(os.lstat(self.path), os.fstat(self._reader))
            except OSError:
                self._lost = True

    def clear(self) -> Collection[int] | None:
        """Forget the rings so far, and return what they were for (`rung_for`)."""
        rings = b""
        with self._lock:
            if self._reader >= 0:
                try:
                    rings = rest = os.read(self._reader, AT_ONCE)
                    while len(rest) == AT_ONCE:
                        rest = os.read(self._reader, AT_ONCE)
                except OSError:
                    pass  # There was none.
        if self._closing:
            self.close()
        return rung_for(rings)

    def ring(self) -> None:
        """Ring it from this process."""
        with self._lock, contextlib.suppress(OSError):
            if self._writer >= 0:
                os.write(self._writer, ANY)
        if self._closing:
            self.close()

    def close(self) -> None:
        """Take it down."""
        if self._lock._is_owned():
            self._closing = True
            return
        # Once dropped or closed, the path may be another process's.
        if self._writer >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self.drop()
        self._closing = False

    __del__ = close

    def after_fork(self) -> None:
        """In the child: it is the parent's, and so may be the thread that has the lock."""
        self._lock = own_lock()
        self.drop()

    def drop(self) -> None:
        """Close the descriptors and leave the FIFO to the process that owns it."""
        with self._lock:
            for descriptor in (self._reader, self._writer):
                if descriptor >= 0:
                    os.close(descriptor)
            self._reader = self._writer = -1


def ring_once(path: str, ring: bytes = ANY) -> bool:
    """Ring a bell that is seldom rung; False if nobody is there any more. Never blocks."""
    try:
        writer = _open_writer(path)
        try:
            os.write(writer, ring)
        finally:
            os.close(writer)
    except BlockingIOError:
        pass  # full of rings not yet heard
    except OSError as error:
        return error.errno not in _GONE
    return True


class Ringer:
    """Rings the bells of other processes, keeping a writer open for those it rings often.

    A bell is told by its word in the store, which no other bell of that store has.
    """

    def __init__(self) -> None:
        self._writers: OrderedDict[int, int] = OrderedDict()
        self._lock = own_lock()
        self._closing = False

    def ring(self, bell: int, path_of: Callable[[int], str], ring: bytes = ANY) -> bool:
        """Ring once; False if nobody is there any more. Never blocks."""
        if self._lock._is_owned():
            # Python runs other code in the middle of this method; the writers are in its hands.
            return ring_once(path_of(bell), ring)
        with self._lock:
            try:
                writer = self._writers.get(bell, -1)
                if writer < 0:
                    writer = self._open(bell, path_of(bell))
                os.write(writer, ring)
            except BlockingIOError:
                pass  # full of rings not yet heard
            except OSError as error:
                if bell in self._writers:
                    os.close(self._writers.pop(bell))
                # Anything else (out of descriptors, say) must not fail a push that is
                # done: the waiter looks again by itself within a second.
                return error.errno not in _GONE
        if self._closing:
            self.close()
        return True

    def _open(self, bell: int, path: str) -> int:
        self._writers[bell] = writer = _open_writer(path)
        if len(self._writers) > _KEPT:
            os.close(self._writers.popitem(last=False)[1])
        return writer

    def after_fork(self) -> None:
        """In the child: close what was inherited."""
        self._lock = own_lock()
        self.close()

    def close(self) -> None:
        """Close the writers."""
        if self._lock._is_owned():
            self._closing = True
            return
        with self._lock:
            self._closing = False
            while self._writers:
                os.close(self._writers.popitem()[1])


def _open_writer(path: str) -> int:
    """Open a bell for ringing. Raises OSError."""
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(writer).st_mode):
        os.close(writer)
        raise OSError(errno.ENXIO, "not a FIFO")
    return writer
