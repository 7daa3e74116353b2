"""What the store keeps of itself, of each queue and of each table: named numbers in one value."""

from __future__ import annotations

import inspect
import struct
from typing import ClassVar

#: Bytes that a record or member counts besides its own.
OVERHEAD = 64
#: A deadline that no clock reaches.
NEVER = (1 << 63) - 1
#: The first number of a queue; records that are put back get lower ones.
MIDDLE = 1 << 62
#: The key of what the store itself keeps.
STORE = b"s"


class Row:
    """Numbers that are stored as one value: those that a subclass annotates."""

    _names: ClassVar[tuple[str, ...]]
    _packed: ClassVar[struct.Struct]

    def __init_subclass__(cls) -> None:
        classes = [each for each in reversed(cls.__mro__) if issubclass(each, Row)]
        cls._names = tuple(
            name for each in classes if each is not Row for name in inspect.get_annotations(each)
        )
        cls._packed = struct.Struct(f"<{len(cls._names)}q")

    def __init__(self, value: bytes | None) -> None:
        numbers = self._packed.unpack(value) if value else (0,) * len(self._names)
        self.__dict__.update(zip(self._names, numbers, strict=True))

    def pack(self) -> bytes:
        """As it is stored."""
        return self._packed.pack(*(self.__dict__[name] for name in self._names))


class Counts(Row):
    """What became of records (E20)."""

    pushed: int
    popped: int
    expired: int
    refused: int
    store_full: int
    orphaned: int
    flushed: int
    high_water: int
    pending: int

    def counts(self) -> dict[str, int]:
        """These numbers alone, by name."""
        return {name: self.__dict__[name] for name in Counts._names}

    def count(self, what: str, number: int) -> None:
        """Count."""
        self.__dict__[what] += number


class QueueRow(Counts):
    """A queue."""

    soonest: int
    bytes: int
    front: int
    back: int
    bells: int


class TableRow(Row):
    """A table."""

    version: int
    soonest: int
    count: int


class StoreRow(Counts):
    """The store."""

    flushes: int
    changes: int
    destroyed: int
    made: int
    record_bytes: int
    member_bytes: int
    channel_memory: int
    group_memory: int


def head_of(name: bytes) -> bytes:
    """A name as the head of a key, none of which begins another."""
    return bytes((len(name),)) + name
