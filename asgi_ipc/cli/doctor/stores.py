"""The folders that the doctor looks into, and the removal of its own stores."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from asgi_ipc.engines.shm.bells import bells_in
from asgi_ipc.engines.shm.directory import StoreDirectory, remove_if_empty
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.exceptions import OptionError, StoreUnavailable

from ..finding import importable_engine
from ..lock_files import directory_of, header_of, location_of, remove_store


def directories(engines: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the folders in which stores are made, each with the engines that use it."""
    found: dict[str, list[str]] = {}
    for name, options in sorted(engines.items()):
        factory = importable_engine(name)
        if factory is None:
            continue
        with contextlib.suppress(StoreUnavailable, OptionError):
            found.setdefault(directory_of(factory, options), []).append(name)
    return found


def clear_away(factory: type[SharedMemoryEngine], prefix: str, options: Mapping[str, Any]) -> None:
    """Remove a store of the doctor's own that an attempt, killed or crashed, has left.

    Nothing else: where a group may write, a member may have put another folder in its place.
    """
    location = location_of(factory, prefix, options)
    with contextlib.suppress(OSError, StoreUnavailable):
        if header_of(location):
            remove_store(location, factory)
    with contextlib.suppress(OSError, StoreUnavailable):
        directory = StoreDirectory.open(location, make=False)
        try:
            for _, name in bells_in(directory):
                directory.unlink(name)
        finally:
            directory.close()
    remove_if_empty(location)
