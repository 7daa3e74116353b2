"""The protocol of Redis, version 2: commands as bytes, and replies as they come.

The reader is our own, as any program may answer in place of the server: other readers reserve at
once what a header announces, and sixteen bytes of a hostile server then hold the process up for a
quarter of a minute. This one takes only what has come, and no more than `LONGEST`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

#: The longest reply, in bytes; the longest line; the deepest array in arrays; and the most elements
#: of a reply, in all its arrays together: one of three bytes may take a hundred in memory.
LONGEST = 48 * 1024 * 1024
_LONGEST_LINE, _DEEPEST, _MOST = 64 * 1024, 8, 1 << 16
#: Digits of a number.
_DIGITS = 20


class ErrorReply:
    """A server's error. Its text comes from the server, and may be anything."""

    def __init__(self, text: bytes) -> None:
        self.text = text


def pack(commands: Iterable[Sequence[bytes]]) -> bytes:
    """Return commands as bytes."""
    packed: list[bytes] = []
    for command in commands:
        packed.append(b"*%d\r\n" % len(command))
        for word in command:
            packed += (b"$%d\r\n" % len(word), word, b"\r\n")
    return b"".join(packed)


class Reader:
    """Calls ``handle`` with each reply: bytes, an int, a list, None, or an `ErrorReply`."""

    def __init__(self, handle: Callable[[Any], None]) -> None:
        self.handle = handle
        self._buffer = bytearray()
        #: Bytes of the string that is awaited; -1: none is.
        self._string = -1
        #: Arrays that are not whole: what they lack, and what they have.
        self._arrays: list[tuple[int, list[Any]]] = []
        #: Of the reply that is not whole: bytes, as far as they are read, and elements of arrays.
        self._taken = self._elements = 0

    def feed(self, data: bytes) -> None:
        """Take bytes. Raises `ValueError` for what no Redis server sends, and as ``handle``."""
        buffer = self._buffer
        buffer += data
        at = begun = 0
        try:
            while True:
                if self._string >= 0:
                    end = at + self._string
                    if len(buffer) < end + 2:
                        break
                    if buffer[end : end + 2] != b"\r\n":
                        raise ValueError("a string of another length")
                    value: Any = bytes(buffer[at:end])
                    self._string, at = -1, end + 2
                else:
                    end = buffer.find(b"\r\n", at, at + _LONGEST_LINE)
                    if end < 0:
                        if len(buffer) - at >= _LONGEST_LINE:
                            raise ValueError("a line without end")
                        break
                    kind, line = buffer[at : at + 1], bytes(buffer[at + 1 : end])
                    at = end + 2
                    if kind == b"$":
                        self._string = _number(line, LONGEST)
                        if self._string >= 0:
                            continue
                        value = None
                    elif kind == b"*":
                        count = _number(line, _MOST)
                        if count > 0:
                            self._begin_array(count)
                            continue
                        value = None if count < 0 else []
                    elif kind == b":":
                        value = _number(line)
                    elif kind == b"+":
                        value = line
                    elif kind == b"-":
                        value = ErrorReply(line)
                    else:
                        raise ValueError("no reply")
                if self._arrays:
                    value = self._put(value)
                    if value is None:
                        continue
                begun, self._taken, self._elements = at, 0, 0
                self.handle(value)
        finally:
            self._taken += at - begun
            del buffer[:at]
        if self._taken + max(len(buffer), self._string) > LONGEST:
            raise ValueError("a reply without end")

    def _begin_array(self, count: int) -> None:
        self._elements += count
        if len(self._arrays) >= _DEEPEST or self._elements > _MOST:
            raise ValueError("arrays in arrays without end")
        self._arrays.append((count, []))

    def _put(self, value: Any) -> list[Any] | None:
        """Put a value into the innermost array; return the outermost one if it is whole now."""
        while self._arrays:
            left, items = self._arrays[-1]
            items.append(value)
            if left > 1:
                self._arrays[-1] = left - 1, items
                return None
            self._arrays.pop()
            value = items
        return items


def _number(line: bytes, most: int | None = None) -> int:
    """Return a number; if it is a length, from -1 for nothing to ``most``. Raises `ValueError`."""
    if len(line) > _DIGITS:
        raise ValueError("a number without end")
    number = int(line)
    if most is not None and not -1 <= number <= most:
        raise ValueError("a length that can't be")
    return number


__all__ = ["LONGEST", "ErrorReply", "Reader", "pack"]
