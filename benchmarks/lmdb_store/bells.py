"""FIFOs, which any process can signal that knows their path."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection

from asgi_ipc.engines.bell import ANY, read_signals, signal_for, signalled_for
from asgi_ipc.engines.guards import Descriptors, WeakBag

_GONE = (errno.ENXIO, errno.ENOENT, errno.EPIPE)


class FifoBell:
    """A bell that any process can signal that knows its path."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Its path went with a store that was destroyed: nobody can signal it any more.
        self.is_lost = False
        self._process = os.getpid()
        self._descriptors = Descriptors()
        os.mkfifo(path, 0o600)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # The writer is there lest end-of-file comes.
        self._descriptors.set(reader, os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        _bells.add(self)

    def fileno(self) -> int:
        """See `asgi_ipc.engines.base.Bell`, here and below."""
        return -1 if self.is_lost else self._descriptors.reader()

    def clear(self) -> Collection[int] | None:
        return signalled_for(self._descriptors.use(read_signals, b""))

    def signal(self) -> None:
        def write(_: int, writer: int) -> None:
            with contextlib.suppress(OSError):
                os.write(writer, ANY)

        self._descriptors.use(write, None)

    def close(self) -> None:
        if self._process == os.getpid() and not self._descriptors.is_closing:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self._descriptors.close()

    def leave_to_parent(self) -> None:
        """Close a forked child's descriptors: a bell is heard by the process that made it."""
        self._descriptors.after_fork_in_child()

    def __del__(self) -> None:
        # The constructor may have failed before there was anything to close.
        if hasattr(self, "_descriptors"):
            self.close()


#: Of this process.
_bells: WeakBag[FifoBell] = WeakBag()


def _after_fork_in_child() -> None:
    for bell in _bells.alive():
        bell.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)


def signal(path: str, queue: bytes) -> bool:
    """Ring a bell for a queue; False if nobody hears it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        return error.errno not in _GONE
    try:
        os.write(descriptor, signal_for(queue))
    except OSError as error:
        return error.errno not in _GONE
    finally:
        os.close(descriptor)
    return True
