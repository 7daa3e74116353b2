"""`PipeBell`, a bell within one process, and the content of signals.

`PipeBell` is a pipe that a selector can wait for. It also serves engines that learn of a push from
a thread of their own, which listens to a server, say: that thread calls `PipeBell.signal`.

A signal is `SIGNAL_BYTES` bytes: the `hint` of the queue that was pushed to, or zeros for any
queue. So a receiver of thousands of queues looks at one of them instead of all.

Bells are read and written by the functions of `posix`. Those of `os` are the same until eventlet
replaces them by functions that wait, in other green threads, even on what is non-blocking: a push
would be left in the middle, and an empty bell waited for.
"""

from __future__ import annotations

import os
import posix
import struct
from binascii import crc32
from collections.abc import Collection

from ..exceptions import StoreUnavailable
from .guards import Descriptors

#: Length of a signal, in bytes.
SIGNAL_BYTES = 4
#: A signal for any queue.
ANY = bytes(SIGNAL_BYTES)
#: Bytes read from a bell at once. Every pipe holds at least as many, so unless as many are read, no
#: signal was dropped because the pipe was full.
AT_ONCE = 4096
_signal, _hints = struct.Struct("=I").pack, struct.Struct("=I").unpack


def hint(queue: bytes) -> int:
    """Return a queue's hint: a number that few other queues share, never 0."""
    return crc32(queue) or 1


def signal_for(queue: bytes) -> bytes:
    """Return the signal for a queue, which is written to a bell."""
    return _signal(hint(queue))


def signalled_for(signals: bytes) -> Collection[int] | None:
    """Return the hints of the queues that signals are for, or None for any queue."""
    if len(signals) == SIGNAL_BYTES:
        return None if signals == ANY else _hints(signals)
    if len(signals) >= AT_ONCE or len(signals) % SIGNAL_BYTES:
        return None
    hints = set(memoryview(signals).cast("I"))
    return None if 0 in hints else hints


def read_signals(reader: int, _: int) -> bytes:
    """Return all signals that can be read from a bell now."""
    signals = b""
    try:
        signals = rest = posix.read(reader, AT_ONCE)
        while len(rest) == AT_ONCE:
            rest = posix.read(reader, AT_ONCE)
    except OSError:
        pass  # The pipe is empty.
    return signals


class PipeBell:
    """An `asgi_ipc.engines.base.Bell` over a pipe, for the process that made it.

    In a forked child it is mute: child and parent share the pipe, so the child would wake the
    parent for nothing, or read a signal that was meant for the parent.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._descriptors = Descriptors()
        # os.pipe sets close-on-exec, so programs that this process starts don't inherit these.
        try:
            reader, writer = os.pipe()
        except OSError as error:
            raise StoreUnavailable(
                f"can't make a wake-up pipe ({error.strerror}); raise this process's limit of open"
                " files (ulimit -n)"
            ) from error
        self._descriptors.set(reader, writer)
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)

    def fileno(self) -> int:
        """Return the readable end, or -1 once closed."""
        return self._descriptors.reader()

    def signal(self) -> None:
        """Make it readable. Does nothing on a closed bell."""
        self.try_signal()

    def try_signal(self, signal: bytes = ANY) -> bool:
        """Signal, and return whether a receiver can hear it: False once closed or after a fork."""
        if self._process != os.getpid():
            return False

        def write(_: int, writer: int) -> bool:
            try:
                posix.write(writer, signal)
            except BlockingIOError:
                pass  # The pipe is full of signals, so the bell is readable anyway.
            return True

        return self._descriptors.use(write, False)

    def clear(self) -> Collection[int] | None:
        """Read and drop all signals, and return what they were for (`signalled_for`)."""
        if self._process != os.getpid():
            return ()
        return signalled_for(self._descriptors.use(read_signals, b""))

    def close(self) -> None:
        """Close the descriptors. May be called twice, and in a forked child."""
        if self._process != os.getpid():
            self._descriptors.after_fork_in_child()
        else:
            self._descriptors.close()

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()


__all__ = ["ANY", "AT_ONCE", "PipeBell", "hint", "read_signals", "signal_for", "signalled_for"]
