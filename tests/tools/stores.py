"""What the tests of the shared-memory store have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.cli.lock_files import header_of
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.shm.check import check
from asgi_ipc.engines.shm.directory import StoreDirectory, remove_if_empty
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap.heap import Pause
from asgi_ipc.engines.shm.heap.layout import CHANNELS, GROUPS, NAMED, NEXT_SWEEP, WORD
from asgi_ipc.engines.shm.locked_segment import LockedSegment
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.queues import ring_extents
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from asgi_ipc.engines.shm.segment import Location
from asgi_ipc.engines.shm.store_memory import locators
from asgi_ipc.engines.shm.sysv import SysVEngine
from conformance.forks import in_child, killed_at, start, wait

__all__ = [
    "ENGINES",
    "HOT",
    "KIB",
    "assert_gone",
    "assert_meet",
    "assert_sound",
    "give_rings_after",
    "has_open_writers",
    "in_child",
    "killed_at",
    "locators_in",
    "maintain",
    "open_store",
    "record",
    "room",
    "spoil",
    "start",
    "sweep",
    "sweep_groups",
    "unlink_memory",
    "wait",
]

KIB = 1024
ENGINES: list[type[SharedMemoryEngine]] = [PosixEngine, SysVEngine, MmapEngine]


def open_store(
    directory: Path, engine: type[SharedMemoryEngine] = MmapEngine, **options: Any
) -> SharedMemoryEngine:
    """A small store in a directory of the test's own."""
    sizes = {"channel_memory": 512 * KIB, "group_memory": 256 * KIB}
    return engine("store", directory=directory, **(sizes | options))


def room(engine: SharedMemoryEngine) -> int:
    """The bytes of channel_memory that records may take; its tables take the others."""
    heap = engine.session.channels.heap
    return (heap.end - heap.geometry.first_extent) * WORD


def give_rings_after(patch: pytest.MonkeyPatch, uses: int) -> None:
    """Let a queue get a ring once it was used so often, and not `HOT` times."""
    patch.setattr(ring_extents, "HOT", uses)


def has_open_writers(engine: SharedMemoryEngine) -> bool:
    """Whether the engine keeps a writer to another process's bell open."""
    return bool(engine.session.signaller._writers)


def spoil(engine: SharedMemoryEngine) -> None:
    """Let the store count one queue too many, which a check finds and no operation does."""
    engine.session.channels.words[NAMED] += 1


def record(
    engine: SharedMemoryEngine,
    queue: bytes,
    payload: bytes = b"x" * 100,
    capacity: int = 10**6,
    owner: bytes = b"",
    lifetime: int = 10**12,
) -> Record:
    """A record that lives for ``lifetime`` nanoseconds."""
    return Record(queue, payload, engine.clock() + lifetime, capacity, owner)


def locators_in(location: Location, kind: type[SharedMemoryEngine]) -> list[str]:
    """What the memory of the store there is called, as far as its creator got."""
    record = header_of(location)
    return list(locators(kind.segment, record.store_id).values()) if record else []


def unlink_memory(engine: SharedMemoryEngine, *kinds: int) -> None:
    """Remove memory of a store as if by hand: of both kinds, or of these."""
    assert engine.session.store is not None
    for kind in kinds or (CHANNELS, GROUPS):
        locator = locators(engine.segment, engine.session.store.store_id)[kind]
        segment = engine.segment.attach(engine.session.store.directory, locator)
        segment.unlink()
        segment.close()


def assert_gone(location: Location, kind: type[SharedMemoryEngine], locators: list[str]) -> None:
    """There is no memory of these names any more."""
    directory = StoreDirectory.open(location)
    for locator in locators:
        with pytest.raises(FileNotFoundError):
            kind.segment.attach(directory, locator)
    directory.close()
    remove_if_empty(location)


def sweep(engine: SharedMemoryEngine, now: int, everything: bool = False) -> None:
    """End the round under way in the channels, or make one, over as many holds as it takes."""
    _in_holds(
        engine,
        engine.session.channels,
        lambda: engine.session.queues.sweeper.sweep(now, everything=everything),
    )


def sweep_groups(engine: SharedMemoryEngine, now: int) -> None:
    """The same in the groups."""
    _in_holds(engine, engine.session.groups, lambda: engine.session.tables.sweep(now))


def _in_holds(
    engine: SharedMemoryEngine, locked_segment: LockedSegment, action: Callable[[], None]
) -> None:
    is_done, holds = False, 0
    while not is_done:
        try:
            with locked_segment:
                action()
            is_done = True
        except Pause:
            holds += 1
            engine.session.pause(locked_segment.heap, holds)


def assert_sound(engine: SharedMemoryEngine) -> None:
    """The full check finds nothing."""
    for locked_segment in (engine.session.channels, engine.session.groups):
        with locked_segment as heap:
            assert check(heap) == [], check(heap)


def assert_meet(first: SharedMemoryEngine, second: SharedMemoryEngine) -> None:
    """What one pushes the other pops, both ways, once each has had its regular look."""
    for engine in (first, second):
        engine.upkeep.due = 0
        engine.statistics()
    for giver, taker in ((first, second), (second, first)):
        giver.push([record(giver, b"meet", b"here")])
        assert [each.payload for each in taker.pop(b"meet")] == [b"here"]


def maintain(engine: SharedMemoryEngine) -> None:
    """Do now what comes once a second."""
    engine.upkeep.due = 0
    engine.session.channels.words[NEXT_SWEEP] = 0
    engine.statistics()
