"""A bell for engines that live in one process, and what signals say.

`PipeBell` is a pipe that a selector can wait for. Any engine may use it that learns of a push
by other means than the kernel's (a thread that listens to a server, say): such a thread calls
`PipeBell.ring`.

A signal is `SIGNAL_BYTES` bytes: the `hint` of the queue that was pushed to, or zeros, for "any
queue". So a receiver of thousands of queues looks at one of them, and not at all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from zlib import crc32

from ..exceptions import StoreUnavailable
from .guards import Descriptors

#: Length of a signal.
SIGNAL_BYTES = 4
#: A signal that does not say for which queue.
ANY = bytes(SIGNAL_BYTES)
#: Bytes that are read from a bell at once. Pipes hold as many at least, so signals can only have
#: been lost for want of room if as many are read.
AT_ONCE = 4096
_signal, _hints = struct.Struct("=I").pack, struct.Struct("=I").unpack


def hint(queue: bytes) -> int:
    """A number for a queue; another queue seldom has the same, and none has 0."""
    return crc32(queue) or 1


def signal_for(queue: bytes) -> bytes:
    """What to write to a bell for a queue."""
    return _signal(hint(queue))


def signalled_for(signals: bytes) -> Collection[int] | None:
    """The hints of the queues that signals are for; None: look at all."""
    if len(signals) == SIGNAL_BYTES:
        return None if signals == ANY else _hints(signals)
    if len(signals) >= AT_ONCE or len(signals) % SIGNAL_BYTES:
        return None
    hints = set(memoryview(signals).cast("I"))
    return None if 0 in hints else hints


def read_signals(reader: int, _: int) -> bytes:
    """All that can be read from a bell at once."""
    signals = b""
    try:
        signals = rest = os.read(reader, AT_ONCE)
        while len(rest) == AT_ONCE:
            rest = os.read(reader, AT_ONCE)
    except OSError:
        pass  # There is no more.
    return signals


class PipeBell:
    """A `asgi_ipc.engines.base.Bell` over a pipe, good for the process that made it.

    In a forked child it is mute: child and parent share the pipe, so the child would
    wake the parent for nothing, or swallow a signal that was meant for it.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._descriptors = Descriptors()
        # os.pipe gives close-on-exec descriptors; a program we start has no business here.
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
        """The readable end, or -1 once closed."""
        return self._descriptors.reader()

    def signal(self) -> None:
        """Make it readable; on a closed bell do nothing."""
        self.try_signal()

    def try_signal(self, signal: bytes = ANY) -> bool:
        """Ring, and return whether the bell can be heard: False once closed, or after a fork."""
        if self._process != os.getpid():
            return False

        def write(_: int, writer: int) -> bool:
            try:
                os.write(writer, signal)
            except BlockingIOError:
                pass  # Full of signals that nobody has cleared: it is readable, which is all.
            return True

        return self._descriptors.use(write, False)

    def clear(self) -> Collection[int] | None:
        """Forget the signals so far, and return what they were for (`signalled_for`)."""
        if self._process != os.getpid():
            return ()
        return signalled_for(self._descriptors.use(read_signals, b""))

    def close(self) -> None:
        """Give the descriptors back. May be called twice, and in a forked child."""
        if self._process != os.getpid():
            self._descriptors.after_fork()
        else:
            self._descriptors.close()

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()


__all__ = ["ANY", "AT_ONCE", "PipeBell", "hint", "read_signals", "signal_for", "signalled_for"]
