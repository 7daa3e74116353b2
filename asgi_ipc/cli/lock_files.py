"""Where a store lies, and the header of its lock file; remove a store. Nothing here joins one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..engines import find
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
    """Return where the store of a prefix lies. Raises what the engine would."""
    directory = options.get("directory")
    parent = factory.default_parent() if directory is None else ""
    return location_for(parent, prefix, directory, options.get("group"), options.get("mode"))


def is_absent(engine: Any, prefix: str, options: Mapping[str, Any]) -> bool:
    """Return whether there is certainly no store; only engines over a `Segment` can tell.

    ``engine`` is a name, path, class or function. Raises what the engine would.
    """
    factory = find(engine)
    if not (isinstance(factory, type) and issubclass(factory, SharedMemoryEngine)):
        return False
    return not os.path.lexists(location_of(factory, prefix, options).directory)


def header_of(location: Location) -> LockFileHeader | None:
    """Return the lock file's header; None if there is no store. Raises what opening it would."""
    with _lock_file(location) as lock_file:
        return lock_file.read() if lock_file else None


def in_use(location: Location, header: LockFileHeader) -> bool:
    """Return whether any process uses the store of that header. Waits for `OPENING`."""
    with _lock_file(location) as lock_file:
        if lock_file is None:
            return False
        with lock_file.opening():
            return lock_file.in_use(header.store_id)


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
            header = lock_file.read()
            left = []
            if header and spare_used and lock_file.in_use(header.store_id):
                raise StoreUnavailable(f"processes use the store at {location.directory!r}")
            if header:
                if header.engine != factory.name:
                    raise StoreUnavailable(
                        f"the store at {location.directory!r} was made by engine "
                        f"{header.engine!r}, not {factory.name!r}; pass that engine"
                    )
                # For a newcomer, if this process is killed now.
                lock_file.write(header._replace(ready=REMOVED))
                try:
                    left = remove_memory(factory.segment, lock_file.directory, header.store_id)
                except PermissionError as error:
                    lock_file.write(header)
                    raise StoreUnavailable(
                        f"can't remove the memory of the store at {location.directory!r} "
                        f"({error.strerror}); run this as that user or root"
                    ) from error
                lock_file.remove_locks(header.store_id)
            lock_file.unlink()
    return left


__all__ = ["directory_of", "header_of", "in_use", "is_absent", "location_of", "remove_store"]
