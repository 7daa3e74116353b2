"""Where a store lies, and what its lock file says: read, and removed, without joining the store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..engines.shm.directory import StoreDirectory
from ..engines.shm.engine import SharedMemoryEngine
from ..engines.shm.errors import unusable
from ..engines.shm.lock_file import REMOVED, LockFile, LockFileHeader, open_lock_file
from ..engines.shm.options import location_for, named_folder
from ..engines.shm.segment import Location
from ..engines.shm.store_memory import remove_memory
from ..exceptions import StoreUnavailable


def directory_of(factory: type[SharedMemoryEngine], options: Mapping[str, Any]) -> str:
    """Return the folder in which an engine makes its stores. Raises what the engine would."""
    directory = options.get("directory")
    return factory.default_parent() if directory is None else named_folder(directory)


def location_of(
    factory: type[SharedMemoryEngine], prefix: str, options: Mapping[str, Any]
) -> Location:
    """Where the store of a prefix lies. Raises what the engine would."""
    directory = options.get("directory")
    parent = factory.default_parent() if directory is None else ""
    return location_for(parent, prefix, directory, options.get("group"), options.get("mode"))


def record_of(location: Location) -> LockFileHeader | None:
    """Return what the lock file says; None if there is no store. Raises what opening it would."""
    with _lock_file(location) as lock_file:
        return lock_file.read() if lock_file else None


def in_use(location: Location, record: LockFileHeader) -> bool:
    """Tell whether any process uses the store of that record."""
    with _lock_file(location) as lock_file:
        if lock_file is None:
            return False
        with lock_file.opening():
            return lock_file.in_use(record.store_id)


@contextlib.contextmanager
def _lock_file(location: Location) -> Iterator[LockFile | None]:
    """Open a store's lock file, if there is one, and make nothing."""
    with contextlib.ExitStack() as stack:
        lock_file = None
        try:
            directory = StoreDirectory.open(location, make=False)
            stack.callback(directory.close)
            lock_file = open_lock_file(directory, make=False)
            stack.callback(lock_file.close)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unusable("open the lock file in", location.directory, error) from error
        yield lock_file


def remove_store(
    location: Location, factory: type[SharedMemoryEngine], spare_used: bool = False
) -> list[str]:
    """Remove a store, whatever it holds, all but its directory; return what was left, in words.

    Only what is provably the store's is removed: memory and locks whose names follow from its id,
    of an owner who may use it, and with its id inside. Raises OSError, `StoreUnavailable`; with
    ``spare_used``, also for a store that any process uses.
    """
    with _lock_file(location) as lock_file:
        if lock_file is None:
            raise StoreUnavailable(f"there is no store at {location.directory!r}")
        with lock_file.opening():
            if not lock_file.is_at(os.path.join(location.directory, lock_file.name)):
                # At its path there may be the lock file of a fresh store by now.
                raise StoreUnavailable(
                    f"the store at {location.directory!r} was just removed by another process"
                )
            record = lock_file.read()
            left = []
            if record and spare_used and lock_file.in_use(record.store_id):
                raise StoreUnavailable(f"processes use the store at {location.directory!r}")
            if record:
                if record.engine != factory.name:
                    raise StoreUnavailable(
                        f"the store at {location.directory!r} was made by engine "
                        f"{record.engine!r}, not {factory.name!r}; pass that engine"
                    )
                # For a newcomer, if this process is killed now.
                lock_file.write(record._replace(ready=REMOVED))
                try:
                    left = remove_memory(factory.segment, lock_file.directory, record.store_id)
                except PermissionError as error:
                    lock_file.write(record)
                    raise StoreUnavailable(
                        f"can't remove the memory of the store at {location.directory!r} "
                        f"({error.strerror}); run this as that user or root"
                    ) from error
                lock_file.remove_locks(record.store_id)
            lock_file.unlink()
    return left


__all__ = ["directory_of", "in_use", "location_of", "record_of", "remove_store"]
