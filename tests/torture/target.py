"""A store for forgeries, with something of everything in it, and where that is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from asgi_ipc.engines.base import Record
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.heap import Heap
from asgi_ipc.engines.shm.mmap import MmapEngine

from .world import fast

MIB = 1 << 20
FAR = 1 << 62
SECOND = 1_000_000_000
#: Where what identifies a segment ends.
_SAVED = layout.STATE * layout.WORD


class Target:
    """A store with something of everything in it, and where that is."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="forged-", dir=fast()))
        self.now = 10**15
        self.engine = self.open()
        self.engine._next_look = FAR
        self.bells = [self.engine.bell() for _ in range(3)]
        self.heap = self.engine._channels.heap
        self.groups = self.engine._groups.heap
        self._fill()
        self.saved = [heap.bytes[_SAVED:].tobytes() for heap in (self.heap, self.groups)]
        self.slot = self.engine._slot

    def open(self) -> MmapEngine:
        return MmapEngine(
            "store",
            directory=self.directory,
            channel_memory=8 * MIB,
            group_memory=4 * MIB,
            clock=lambda: self.now,
        )

    def record(self, queue: bytes, payload: bytes, lifetime: int = 10**13) -> Record:
        return Record(queue, payload, self.now + lifetime, 10**6)

    def _fill(self) -> None:
        engine, rings = self.engine, self.engine._queues._rings
        most = rings._most, rings._most_unread
        rings._most = rings._most_unread = 0
        engine.push([self.record(b"listed", b"x" * 50) for _ in range(50)])
        engine.push([self.record(b"large", bytes(MIB)) for _ in range(2)])
        engine.push([self.record(b"old", b"x" * 50, SECOND) for _ in range(50)])
        engine.push([self.record(b"many %d" % number, b"") for number in range(2000)])
        rings._most, rings._most_unread = most
        engine.push([self.record(b"ring", b"x" * 500) for _ in range(400)])
        engine.push([self.record(b"old ring", b"x" * 500, SECOND) for _ in range(400)])
        for bell in self.bells:
            engine.pop(b"waited for", 1, bell)
        for number in range(500):
            engine.put(b"t", b"member %d" % number, FAR)
            engine.put(b"old", b"member %d" % number, self.now + SECOND)
        self.now += 2 * SECOND

    def restore(self) -> None:
        """Put everything back, this process's place in it too."""
        for heap, saved in zip((self.heap, self.groups), self.saved, strict=True):
            heap.bytes[_SAVED:] = saved
        self.engine._slot = self.slot
        self.engine._processes._known.clear()
        self.engine._queues._known.clear()

    # ---- where things are

    def queue(self, name: bytes) -> int:
        """The address of a queue."""
        return self.engine._queues.find(name)

    def table(self, name: bytes) -> int:
        """The address of a table."""
        tables = self.engine._tables
        handle = tables._find(tables._bucket(name), layout.TABLE, name)
        return self.groups.words[self.groups.end - handle]

    def first(self, name: bytes) -> int:
        """The handle of the first message in a queue's list."""
        return self.heap.words[self.queue(name) + layout.Q_HEADS] & layout.LINK_MASK

    def member(self, name: bytes) -> int:
        """The handle of a table's first member."""
        return self.groups.words[self.table(name) + layout.T_FIRST]


def at(heap: Heap, handle: int) -> int:
    """The address of a record."""
    return heap.words[heap.end - handle]


def full_lives(heap: Heap) -> None:
    """Let every extent say that it holds more than could ever be freed."""
    geometry = heap.geometry
    for extent in range(geometry.extents):
        heap.words[geometry.extent_live + extent] = 1 << 62
