"""Check a store in shared memory: every word must be accounted for, and nothing lost.

The check first completes the changes of killed processes, as any process does that uses the store;
it changes nothing else. It looks at a copy of each segment (`snapshot`) that is made without the
lock. Only if that copy is not sound, as processes changed the store meanwhile or it is damaged, is
the copy made again under the lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engines.shm.check import check as check_heap
from ..engines.shm.directory import remove_if_empty
from ..engines.shm.engine import SharedMemoryEngine
from ..engines.shm.heap.layout import CHANNELS, GROUPS, SMALLEST, VERSION
from ..engines.shm.lock_file import READY
from ..engines.shm.locked_segment import LockedSegment
from ..engines.shm.locks.base import Gone
from ..engines.shm.opening import open_store
from ..engines.shm.segment import Location
from ..engines.shm.store import Store
from ..engines.shm.store_memory import Damaged
from ..exceptions import StoreCorrupt, StoreUnavailable
from .finding import shared_memory_engine
from .lock_files import header_of, location_of, remove_store
from .snapshot import Snapshot, TooLarge

_NAMES = {CHANNELS: "channels", GROUPS: "groups"}


def check(
    prefix: str, engine: str = "posix", engine_options: Mapping[str, Any] | None = None
) -> list[str]:
    """Return what is wrong with the store of a prefix, in words; an empty list if nothing is.

    Does not join the store, so that a store that can't be used can be checked. Raises
    `StoreUnavailable` if there is none, `EngineUnavailable` for an engine that has nothing to
    check.
    """
    factory, location = _find(prefix, engine, engine_options or {})
    header = header_of(location)
    if header is None or header.ready != READY:
        raise StoreUnavailable(
            f"there is no store at {location.directory!r}; pass the engine and the engine options "
            "of the processes that use it"
        )
    if header.version != VERSION:
        raise StoreUnavailable(
            f"the store at {location.directory!r} has format {header.version}, and this asgi_ipc "
            f"checks format {VERSION}; use the version of asgi_ipc that made it"
        )
    sizes = dict.fromkeys(_NAMES, SMALLEST)
    try:
        store = open_store(factory.store_options(location, sizes, make=False), lambda: None)
    except Damaged as error:
        return [str(error)]
    found: list[str] = []
    try:
        for locked_segment in store.locked_segments.values():
            try:
                found += _look_at(store, locked_segment)
            except StoreCorrupt as error:
                found.append(str(error))
    except Gone as error:
        raise StoreUnavailable(f"the store at {location.directory!r} was just removed") from error
    finally:
        store.close()
    return found


def _look_at(store: Store, locked_segment: LockedSegment) -> list[str]:
    """Return what is wrong with a segment."""
    run = store.lock_file.section.run
    run(_enter, locked_segment)
    try:
        snapshot = Snapshot(locked_segment)
        try:
            found = check_heap(snapshot.heap)
            if found:
                # Damage; or what processes changed while it was copied.
                run(_copy, locked_segment, snapshot)
                found = check_heap(snapshot.heap)
        finally:
            snapshot.close()
    except (TooLarge, OSError, MemoryError):
        # Under the lock, in slices that need no memory; others wait for all of it.
        found = run(_check_in_place, locked_segment)
    return [f"{_NAMES[locked_segment.kind]}: {text}" for text in found]


def _enter(locked_segment: LockedSegment) -> None:
    with locked_segment:
        pass  # Entering completes the changes of killed processes.


def _copy(locked_segment: LockedSegment, snapshot: Snapshot) -> None:
    with locked_segment:
        snapshot.copy()


def _check_in_place(locked_segment: LockedSegment) -> list[str]:
    with locked_segment as heap:
        return check_heap(heap)


def remove(
    prefix: str,
    engine: str = "posix",
    engine_options: Mapping[str, Any] | None = None,
    *,
    spare_used: bool = False,
) -> list[str]:
    """Remove the store of a prefix, whatever it holds; its processes create a new one.

    For a corrupt store, which can't be opened to be destroyed. Removes only what is provably the
    store's, and returns in words what it left. With ``spare_used`` raises `StoreUnavailable` if any
    process uses the store.
    """
    factory, location = _find(prefix, engine, engine_options or {})
    if header_of(location) is None:
        raise StoreUnavailable(f"there is no store at {location.directory!r}")
    left = remove_store(location, factory, spare_used)
    remove_if_empty(location._replace(private=False))
    return left


def _find(
    prefix: str, engine: str, options: Mapping[str, Any]
) -> tuple[type[SharedMemoryEngine], Location]:
    factory = shared_memory_engine(engine)
    return factory, location_of(factory, prefix, options)


__all__ = ["check", "remove"]
