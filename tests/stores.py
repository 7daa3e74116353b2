"""What the tests of the shared-memory store have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from asgi_ipc.engines.base import Record
from asgi_ipc.engines.mmap import MmapEngine
from asgi_ipc.store.check import check
from asgi_ipc.store.engine import SharedMemoryEngine
from asgi_ipc.store.heap import Pause
from asgi_ipc.store.region import Region
from conformance.forks import in_child, killed_at, start, wait

__all__ = [
    "KIB",
    "assert_meet",
    "assert_sound",
    "in_child",
    "killed_at",
    "open_store",
    "record",
    "start",
    "sweep",
    "sweep_groups",
    "wait",
]

KIB = 1024


def open_store(
    directory: Path, engine: type[SharedMemoryEngine] = MmapEngine, **options: Any
) -> SharedMemoryEngine:
    """A small store in a directory of the test's own."""
    sizes = {"channel_memory": 512 * KIB, "group_memory": 256 * KIB}
    return engine("store", directory=directory, **(sizes | options))


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


def sweep(engine: SharedMemoryEngine, now: int, everything: bool = False) -> None:
    """End the round under way in the channels, or make one, over as many holds as it takes."""
    _in_holds(
        engine,
        engine._channels,
        lambda: engine._queues.upkeep.sweep(now, everything=everything),
    )


def sweep_groups(engine: SharedMemoryEngine, now: int) -> None:
    """The same in the groups."""
    _in_holds(engine, engine._groups, lambda: engine._tables.sweep(now))


def _in_holds(engine: SharedMemoryEngine, region: Region, action: Callable[[], None]) -> None:
    is_done, holds = False, 0
    while not is_done:
        try:
            with region:
                action()
            is_done = True
        except Pause:
            holds += 1
            engine._pause(region, holds)


def assert_sound(engine: SharedMemoryEngine) -> None:
    """The full check finds nothing."""
    for region in (engine._channels, engine._groups):
        with region as heap:
            assert check(heap) == [], check(heap)


def assert_meet(first: SharedMemoryEngine, second: SharedMemoryEngine) -> None:
    """What one pushes the other pops, both ways, once each has had its regular look."""
    for engine in (first, second):
        engine._next_look = 0
        engine.statistics()
    for giver, taker in ((first, second), (second, first)):
        giver.push([record(giver, b"meet", b"here")])
        assert [each.payload for each in taker.pop(b"meet")] == [b"here"]
