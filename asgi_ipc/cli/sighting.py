"""What is there where a layer would open its store, without opening or making it: for checks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import NamedTuple

from ..engines.base import ProcessInfo
from ..engines.shm.directory import check_place
from ..engines.shm.engine import SharedMemoryEngine
from ..exceptions import StoreUnavailable
from .choice import StoreChoice
from .finding import Missing, engine_class, is_over_shared_memory
from .joining import joined
from .lock_files import in_use, location_of, record_of


class Sighting(NamedTuple):
    """A store that is there, and the processes that use it, this look left out."""

    directory: str
    #: By the layer's option: ``channel_memory`` and ``group_memory`` as the store was made.
    sizes: Mapping[str, int]
    processes: list[ProcessInfo]


def sight(choice: StoreChoice) -> Sighting | None:
    """Look at the store that a layer of these options would open; None if it would make one.

    ``choice`` names an engine. Returns None for an engine that is not over shared memory, too.
    Raises `StoreUnavailable` if there is a store that the layer could not open, or if its directory
    could not be made. May wait for other processes that hold the store's lock.
    """
    if not is_over_shared_memory(choice):
        return None
    try:
        with joined(choice) as engine:
            if not isinstance(engine, SharedMemoryEngine):
                return None
            session = engine.session
            return Sighting(
                session.location.directory,
                {
                    "channel_memory": session.channels.heap.geometry.size,
                    "group_memory": session.groups.heap.geometry.size,
                },
                [each for each in engine.processes() if each.identity != engine.identity],
            )
    except Missing:
        _check_place(choice)
        return None
    except StoreUnavailable:
        # A store that no process uses is replaced by the first that opens it.
        if _is_unused(choice):
            return None
        raise


def _check_place(choice: StoreChoice) -> None:
    factory = engine_class(choice.engine)
    assert factory is not None
    check_place(location_of(factory, choice.prefix, choice.engine_options))


def _is_unused(choice: StoreChoice) -> bool:
    factory = engine_class(choice.engine)
    assert factory is not None
    location = location_of(factory, choice.prefix, choice.engine_options)
    record = record_of(location)
    return record is None or not in_use(location, record)


def directory_of(choice: StoreChoice) -> str | None:
    """Return the directory of the store that a layer would open; None if it would have none.

    Raises what opening it would for bad options.
    """
    if not is_over_shared_memory(choice):
        return None
    factory = engine_class(choice.engine)
    assert factory is not None
    return location_of(factory, choice.prefix, choice.engine_options).directory


def folder_of(pid: int) -> str | None:
    """Return the working directory of a process, a hint for people; None if it can't be seen."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd") if pid else None
    return None


__all__ = ["Sighting", "directory_of", "folder_of", "sight"]
