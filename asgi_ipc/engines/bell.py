"""A bell for engines that live in one process: a pipe that a selector can wait for.

Any engine may use it that learns of a push by other means than the kernel's (a thread
that listens to a server, say): such a thread calls `PipeBell.ring`.
"""

from __future__ import annotations

import os
import threading


class PipeBell:
    """A `asgi_ipc.engines.base.Bell` over a pipe, good for the process that made it.

    In a forked child it is mute: child and parent share the pipe, so the child would
    wake the parent for nothing, or swallow a ring that was meant for it.
    """

    def __init__(self) -> None:
        # os.pipe gives close-on-exec descriptors; a program we start has no business here.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._process = os.getpid()
        # Held around each use of a descriptor: the number of one that another thread has
        # just closed may belong to somebody's socket by now.
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """The readable end, or -1 once closed."""
        return self._reader

    def ring(self) -> None:
        """Make it readable; on a closed bell do nothing."""
        self.try_ring()

    def try_ring(self) -> bool:
        """Ring and say whether somebody can hear it: False once closed, or after a fork."""
        if self._process != os.getpid():
            return False
        with self._lock:
            if self._writer < 0:
                return False
            try:
                os.write(self._writer, b"\0")
            except BlockingIOError:
                pass  # Full of rings that nobody has cleared: it is readable, which is all.
            return True

    def clear(self) -> None:
        """Forget the rings so far."""
        if self._process != os.getpid():
            return
        with self._lock:
            if self._reader < 0:
                return
            try:
                while len(os.read(self._reader, 4096)) == 4096:
                    pass
            except BlockingIOError:
                pass

    def close(self) -> None:
        """Give the descriptors back. May be called twice, and in a forked child."""
        if self._process != os.getpid():
            # The lock may have been held by a thread that does not exist here.
            self._lock = threading.Lock()
        with self._lock:
            for descriptor in (self._reader, self._writer):
                if descriptor >= 0:
                    os.close(descriptor)
            self._reader = self._writer = -1

    def __del__(self) -> None:
        # os.pipe may have failed, and then there is nothing to close.
        if hasattr(self, "_lock"):
            self.close()
