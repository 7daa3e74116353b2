"""A bell for engines that live in one process, and what rings say.

`PipeBell` is a pipe that a selector can wait for. Any engine may use it that learns of a push
by other means than the kernel's (a thread that listens to a server, say): such a thread calls
`PipeBell.ring`.

A ring is `RING_BYTES` bytes: the `hint` of the queue that was pushed to, or zeros, for "any
queue". So a receiver of thousands of queues looks at one of them, and not at all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from zlib import crc32

from ..exceptions import StoreUnavailable
from .guards import own_lock

#: Length of a ring.
RING_BYTES = 4
#: A ring that does not say for which queue.
ANY = bytes(RING_BYTES)
#: Bytes that are read from a bell at once. Pipes hold as many at least, so rings can only have
#: been lost for want of room if as many are read.
AT_ONCE = 4096
_ring, _hints = struct.Struct("=I").pack, struct.Struct("=I").unpack


def hint(queue: bytes) -> int:
    """A number for a queue; another queue seldom has the same, and none has 0."""
    return crc32(queue) or 1


def ring_for(queue: bytes) -> bytes:
    """What to write to a bell for a queue."""
    return _ring(hint(queue))


def rung_for(rings: bytes) -> Collection[int] | None:
    """The hints of the queues that rings are for; None: look at all."""
    if len(rings) == RING_BYTES:
        return None if rings == ANY else _hints(rings)
    if len(rings) >= AT_ONCE or len(rings) % RING_BYTES:
        return None
    hints = set(memoryview(rings).cast("I"))
    return None if 0 in hints else hints


class PipeBell:
    """A `asgi_ipc.engines.base.Bell` over a pipe, good for the process that made it.

    In a forked child it is mute: child and parent share the pipe, so the child would
    wake the parent for nothing, or swallow a ring that was meant for it.
    """

    def __init__(self) -> None:
        # os.pipe gives close-on-exec descriptors; a program we start has no business here.
        try:
            self._reader, self._writer = os.pipe()
        except OSError as error:
            raise StoreUnavailable(
                f"can't make a wake-up pipe ({error.strerror}); raise this process's limit of open"
                " files (ulimit -n)"
            ) from error
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._process = os.getpid()
        # Held around each use of a descriptor: the number of one that another thread has
        # just closed may belong to somebody's socket by now.
        self._lock = own_lock()
        # It was closed by code that interrupted one of its methods, which will do it.
        self._closing = False

    def fileno(self) -> int:
        """The readable end, or -1 once closed."""
        return -1 if self._closing else self._reader

    def ring(self) -> None:
        """Make it readable; on a closed bell do nothing."""
        self.try_ring()

    def try_ring(self, ring: bytes = ANY) -> bool:
        """Ring, and return whether the bell can be heard: False once closed, or after a fork."""
        if self._process != os.getpid():
            return False
        with self._lock:
            if self._writer < 0:
                return False
            try:
                os.write(self._writer, ring)
            except BlockingIOError:
                pass  # Full of rings that nobody has cleared: it is readable, which is all.
        if self._closing:
            self.close()
        return True

    def clear(self) -> Collection[int] | None:
        """Forget the rings so far, and return what they were for (`rung_for`)."""
        if self._process != os.getpid():
            return ()
        rings = b""
        with self._lock:
            if self._reader >= 0:
                try:
                    rings = rest = os.read(self._reader, AT_ONCE)
                    while len(rest) == AT_ONCE:
                        rest = os.read(self._reader, AT_ONCE)
                except BlockingIOError:
                    pass
        if self._closing:
            self.close()
        return rung_for(rings)

    def close(self) -> None:
        """Give the descriptors back. May be called twice, and in a forked child."""
        if self._process != os.getpid():
            # The lock may have been held by a thread that does not exist here.
            self._lock = own_lock()
        elif self._lock._is_owned():
            self._closing = True
            return
        with self._lock:
            for descriptor in (self._reader, self._writer):
                if descriptor >= 0:
                    os.close(descriptor)
            self._reader = self._writer = -1
            self._closing = False

    def __del__(self) -> None:
        # os.pipe may have failed, and then there is nothing to close.
        if hasattr(self, "_closing"):
            self.close()


__all__ = ["ANY", "AT_ONCE", "PipeBell", "hint", "ring_for", "rung_for"]
