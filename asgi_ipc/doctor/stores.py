"""What the doctor needs to know of engines over shared memory: where their stores lie."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from ..engines import find
from ..exceptions import OptionError, StoreUnavailable
from ..store.attachment import Attachment
from ..store.bells import bells_in
from ..store.belongings import remove_memory
from ..store.directory import StoreDirectory, remove_if_empty
from ..store.place import named_folder, place_for, unusable
from ..store.segment import Place
from ..store.sidecar import REMOVED, Record, Sidecar, open_sidecar
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
            found.setdefault(directory_of(factory, options), []).append(name)
    return found


def directory_of(factory: type[Attachment], options: Mapping[str, Any]) -> str:
    """Return the folder in which an engine makes its stores. Raises what the engine would."""
    directory = options.get("directory")
    return factory.default_parent() if directory is None else named_folder(directory)


def place_of(factory: type[Attachment], prefix: str, options: Mapping[str, Any]) -> Place:
    """Where the store of a prefix lies. Raises what the engine would."""
    directory = options.get("directory")
    parent = factory.default_parent() if directory is None else ""
    return place_for(parent, prefix, directory, options.get("group"), options.get("mode"))


def record_of(place: Place) -> Record | None:
    """Return what the lock file says; None if there is no store. Raises what opening it would."""
    with _lock_file(place) as sidecar:
        return sidecar.read() if sidecar else None


def in_use(place: Place, record: Record) -> bool:
    """Tell whether any process uses the store of that record."""
    with _lock_file(place) as sidecar:
        if sidecar is None:
            return False
        with sidecar.opening():
            return sidecar.in_use(record.store_id)


@contextlib.contextmanager
def _lock_file(place: Place) -> Iterator[Sidecar | None]:
    """Open a store's lock file, if there is one, and make nothing."""
    with contextlib.ExitStack() as stack:
        sidecar = None
        try:
            directory = StoreDirectory.open(place, make=False)
            stack.callback(directory.close)
            sidecar = open_sidecar(directory, make=False)
            stack.callback(sidecar.close)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unusable("open the lock file in", place.directory, error) from error
        yield sidecar


def remove_store(place: Place, factory: type[Attachment]) -> list[str]:
    """Remove a store, whatever it holds, all but its directory; return what was left, in words.

    Only what is provably the store's is removed: memory and locks whose names follow from its id,
    of an owner who may use it, and with its id inside. Raises OSError, `StoreUnavailable`.
    """
    with _lock_file(place) as sidecar:
        if sidecar is None:
            raise StoreUnavailable(f"there is no store at {place.directory!r}")
        with sidecar.opening():
            if not sidecar.is_at(os.path.join(place.directory, sidecar.name)):
                # At its path there may be the lock file of a fresh store by now.
                raise StoreUnavailable(
                    f"the store at {place.directory!r} was just removed by another process"
                )
            record = sidecar.read()
            left = []
            if record:
                if record.engine != factory.name:
                    raise StoreUnavailable(
                        f"the store at {place.directory!r} was made by engine {record.engine!r}, "
                        f"this is {factory.name!r}; name that engine"
                    )
                # For a newcomer, if this process is killed now.
                sidecar.write(record._replace(ready=REMOVED))
                try:
                    left = remove_memory(factory.segment, sidecar.directory, record.store_id)
                except PermissionError as error:
                    sidecar.write(record)
                    raise StoreUnavailable(
                        f"can't remove the memory of the store at {place.directory!r} "
                        f"({error.strerror}); let that user or root do it"
                    ) from error
                sidecar.remove_locks(record.store_id)
            sidecar.unlink()
    return left


def clear_away(factory: type[Attachment], prefix: str, options: Mapping[str, Any]) -> None:
    """Remove a store of the doctor's own that an attempt, killed or crashed, has left.

    Nothing else: where a group may write, a member may have put another folder in its place.
    """
    place = place_of(factory, prefix, options)
    with contextlib.suppress(OSError, StoreUnavailable):
        if record_of(place):
            remove_store(place, factory)
    with contextlib.suppress(OSError, StoreUnavailable):
        directory = StoreDirectory.open(place, make=False)
        try:
            for _, name in bells_in(directory):
                directory.unlink(name)
        finally:
            directory.close()
    remove_if_empty(place)
