"""FIFOs, which any process can ring that knows their path."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref

_GONE = (errno.ENXIO, errno.ENOENT, errno.EPIPE)


class FifoBell:
    """A bell that any process can ring that knows its path."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        #: Lest end-of-file comes.
        self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        self._lock = threading.Lock()
        _bells.add(self)

    def fileno(self) -> int:
        """See `asgi_ipc.engines.base.Bell`, here and below."""
        return self._reader

    def clear(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            while os.read(self._reader, 4096):
                pass

    def ring(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            os.write(self._writer, b"!")

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._reader >= 0:
                os.close(self._reader)
                os.close(self._writer)
                self._reader = self._writer = -1
                os.unlink(self.path)

    def leave_to_parent(self) -> None:
        """Close a forked child's descriptors: a bell is heard by the process that made it."""
        self._lock = threading.Lock()
        with contextlib.suppress(OSError):
            os.close(self._reader)
            os.close(self._writer)
        self._reader = self._writer = -1

    def __del__(self) -> None:
        # The constructor may have failed before there was anything to close.
        if hasattr(self, "_lock"):
            self.close()


#: Of this process.
_bells: weakref.WeakSet[FifoBell] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for bell in list(_bells):
        bell.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)


def ring(path: str) -> bool:
    """Ring a bell; False if nobody hears it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        return error.errno not in _GONE
    try:
        os.write(descriptor, b"!")
    except OSError as error:
        return error.errno not in _GONE
    finally:
        os.close(descriptor)
    return True
