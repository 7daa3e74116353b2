"""A store for the tests of queues, and what stands in a queue: a ring, a list, records in front."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from tests.tools.clocks import Clock
from tests.tools.stores import (
    KIB,
    assert_sound,
    open_store,
    record,
)

SECOND = 1_000_000_000
#: Of these, 16 fill an extent.
SIZE = 1_000
FULL = 16


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> Iterator[SharedMemoryEngine]:
    """A store with extents of 16 KiB, and so with rings of that; it must be sound afterwards."""
    engine = open_store(tmp_path, channel_memory=2048 * KIB, clock=clock)
    engine.upkeep.due = 1 << 63
    yield engine
    assert_sound(engine)
    engine.destroy()


def push(engine: SharedMemoryEngine, *payloads: bytes, queue: bytes = b"q", **more: int) -> None:
    assert engine.push([record(engine, queue, each, **more) for each in payloads]) == []  # type: ignore[arg-type]


def pop(engine: SharedMemoryEngine, limit: int = 1, queue: bytes = b"q") -> list[bytes]:
    return [each.payload for each in engine.pop(queue, limit)]


def word(engine: SharedMemoryEngine, offset: int, queue: bytes = b"q") -> int:
    with engine.session.channels as heap:
        found: int = heap.words[engine.session.queues.find(queue) + offset]
        return found


def give_ring(engine: SharedMemoryEngine, queue: bytes = b"q") -> None:
    push(engine, *[b"%d" % number for number in range(HOT - 1)], queue=queue)
    assert not word(engine, layout.Q_RING_IN, queue)
    push(engine, b"one more", queue=queue)
    assert word(engine, layout.Q_RING_IN, queue)
    assert len(pop(engine, HOT, queue)) == HOT


def in_list(engine: SharedMemoryEngine) -> bool:
    return bool(word(engine, layout.Q_HEADS) & layout.LINK_MASK)


def in_front(engine: SharedMemoryEngine, queue: bytes = b"q") -> bool:
    return word(engine, layout.Q_HEADS, queue) >> layout.FRONT_SHIFT > 0


def payloads(count: int, size: int = SIZE) -> list[bytes]:
    return [b"%d:" % number + bytes(size - 4) for number in range(count)]


def extents(engine: SharedMemoryEngine) -> int:
    """Those of the one ring that there is."""
    words = engine.session.channels.words
    found: int = words[layout.RINGS] + words[layout.BACKLOG]
    return found
