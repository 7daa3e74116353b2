"""What the doctor needs to know of engines over shared memory: where their stores lie."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from ..engines import find
from ..exceptions import OptionError, StoreUnavailable
from ..store.attachment import Attachment
from ..store.place import named_folder, place_for
from ..store.segment import Place
from ..store.sidecar import Record, open_sidecar, remove_store
from .attempt import attempt


@cache
def factory_of(engine: str) -> type[Attachment] | None:
    """The class of an engine over a `Segment`, or None for others, and for one not to be had."""
    if not attempt(lambda: str(find(engine)))["works"]:
        return None
    with contextlib.suppress(Exception):
        factory = find(engine)
        if isinstance(factory, type) and issubclass(factory, Attachment):
            return factory
    return None


def directories(engines: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The folders in which the engines' stores are made, and which engines' those are."""
    found: dict[str, list[str]] = {}
    for name, options in sorted(engines.items()):
        factory = factory_of(name)
        if factory is None:
            continue
        with contextlib.suppress(StoreUnavailable, OptionError):
            directory = options.get("directory")
            folder = factory.default_parent() if directory is None else named_folder(directory)
            found.setdefault(folder, []).append(name)
    return found


def place_of(factory: type[Attachment], prefix: str, options: Mapping[str, Any]) -> Place:
    """Where the store of a prefix lies. Raises what the engine would."""
    directory = options.get("directory")
    parent = factory.default_parent() if directory is None else ""
    return place_for(parent, prefix, directory, options.get("group"), options.get("mode"))


def record_of(place: Place) -> Record | None:
    """What the lock file says; None if there is no store. Raises what opening it would."""
    if not os.path.lexists(os.path.join(place.directory, "lock")):
        return None
    sidecar = open_sidecar(place)
    try:
        return sidecar.read()
    finally:
        sidecar.close()


def in_use(place: Place, record: Record) -> bool:
    """Whether any process uses the store of that record."""
    sidecar = open_sidecar(place)
    try:
        with sidecar.opening():
            return sidecar.in_use(record.store_id)
    finally:
        sidecar.close()


def clear_away(factory: type[Attachment], prefix: str, options: Mapping[str, Any]) -> None:
    """Remove a store of the doctor's own that an attempt, killed or crashed, has left."""
    place = place_of(factory, prefix, options)
    with contextlib.suppress(OSError, StoreUnavailable):
        if record_of(place):
            remove_store(place, factory.segment)
    shutil.rmtree(place.directory, ignore_errors=True)
    if place.private:
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(place.directory))
