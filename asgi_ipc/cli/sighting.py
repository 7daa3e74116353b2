"""The store that a layer would open, seen without joining or making it: for checks.

The store is read without the locks of its memory, so a stopped process that holds one delays no
check. What is read so may miss a change that is just being made.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import NamedTuple

from ..engines.process_hints import command
from ..engines.shm.directory import check_place
from ..engines.shm.heap.layout import CHANNELS, GROUPS, SMALLEST
from ..engines.shm.location import Location
from ..engines.shm.opening import open_store
from ..engines.shm.processes import Processes
from ..engines.shm.store import Store
from ..exceptions import StoreUnavailable
from .background import Background
from .choice import StoreChoice
from .finding import NoSuchStore, is_over_shared_memory, locate, shared_memory_engine
from .lock_files import header_of, in_use, location_of

#: Seconds that `sight` takes at most.
PATIENCE = 5.0


class Unanswered(Exception):
    """The store could not be looked at in time."""


class Seen(NamedTuple):
    """A process that uses a store. Both are hints for people; empty, or 0, if unknown."""

    pid: int
    command: str


class Sighting(NamedTuple):
    """A store that is there, and the processes that use it."""

    directory: str
    #: By the layer's option: ``channel_memory`` and ``group_memory`` as the store was made.
    sizes: Mapping[str, int]
    processes: list[Seen]


def sight(choice: StoreChoice) -> Sighting | None:
    """Look at the store that a layer of these options would open; None if it would make one.

    ``choice`` names an engine. Returns None for an engine that is not over shared memory, too.
    Raises `StoreUnavailable` and `StoreCorrupt` if there is a store that the layer could not open,
    `StoreUnavailable` if its directory could not be made, and `Unanswered` if other processes that
    open or remove it take more than `PATIENCE` seconds.
    """
    if not is_over_shared_memory(choice):
        return None
    looking = Background(lambda: _look(choice)).start()
    try:
        return looking.result(PATIENCE)
    except (TimeoutError, futures.TimeoutError):
        if looking.done():
            raise
        raise Unanswered(
            f"no answer from the store of prefix {choice.prefix!r} for {PATIENCE:g} seconds; a "
            "process that opens or removes it may be stopped (state T in ps): continue it (kill "
            "-CONT) or end it"
        ) from None


def _look(choice: StoreChoice) -> Sighting | None:
    try:
        site = locate(choice)
        sizes = {CHANNELS: SMALLEST, GROUPS: SMALLEST}
        options = site.factory.store_options(site.location, sizes, make=False)
        store = open_store(options, lambda: None)
        try:
            heaps = {kind: store.locked_segments[kind].heap for kind in sizes}
            return Sighting(
                site.location.directory,
                {
                    "channel_memory": heaps[CHANNELS].geometry.size,
                    "group_memory": heaps[GROUPS].geometry.size,
                },
                list(_users(store)),
            )
        finally:
            store.close()
    except NoSuchStore:
        _check_place(choice)
        return None
    except StoreUnavailable:
        # A store that no process uses is replaced by the first that opens it.
        if _is_unused(choice):
            return None
        raise


def _users(store: Store) -> Iterator[Seen]:
    """Yield the processes of a store that are alive."""
    processes = Processes(store.locked_segments[CHANNELS].heap, store.lock_file)
    first, is_first = 0, True
    while first or is_first:
        is_first = False
        found, first = processes.present(first)
        for each in found:
            age = max(0, time.monotonic_ns() - each.joined) / 1e9
            yield Seen(each.pid, command(each.pid, each.started, age))


def _check_place(choice: StoreChoice) -> None:
    check_place(_location(choice))


def _is_unused(choice: StoreChoice) -> bool:
    location = _location(choice)
    header = header_of(location)
    return header is None or not in_use(location, header)


def directory_of(choice: StoreChoice) -> str | None:
    """Return the directory of the store that a layer would open; None if it would have none.

    Raises what opening it would for bad options.
    """
    if not is_over_shared_memory(choice):
        return None
    return _location(choice).directory


def _location(choice: StoreChoice) -> Location:
    factory = shared_memory_engine(choice.engine)
    return location_of(factory, choice.prefix, choice.engine_options)


def folder_of(pid: int) -> str | None:
    """Return the working directory of a process, a hint for people; None if it can't be seen."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd") if pid else None
    return None


__all__ = ["PATIENCE", "Seen", "Sighting", "Unanswered", "directory_of", "folder_of", "sight"]
