"""Which kind of lock a store uses: what its lock file says, or the first that works."""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.exceptions import StoreUnavailable

from ..directory import StoreDirectory
from . import fcntl_locks, flock_locks, semaphore_locks
from .base import FCNTL, FLOCK, NAMES, SEMAPHORE, Locks


def choose(path: str, descriptor: int, directory: StoreDirectory, recorded: int) -> Locks:
    """The locks of a lock file: of the kind that it says, or else of the first that works.

    Nobody in this process may have the file open but as ``descriptor``. Takes tens of
    microseconds. Raises `StoreUnavailable` when what is needed does not work, and
    FileNotFoundError if the file is removed meanwhile.
    """
    location = directory.location
    makers: dict[int, Callable[[], Locks]] = {
        SEMAPHORE: lambda: semaphore_locks.SemaphoreLocks(path, descriptor, location),
        FCNTL: lambda: fcntl_locks.RecordLocks(path, descriptor),
        FLOCK: lambda: flock_locks.FileLocks(path, descriptor, directory),
    }
    trials = {
        SEMAPHORE: semaphore_locks.semaphores_fail,
        FCNTL: fcntl_locks.record_locks_fail,
        FLOCK: flock_locks.flocks_fail,
    }
    wrong = {}
    for kind in [recorded] if recorded in makers else makers:
        reason = trials[kind](path, descriptor)
        if kind == SEMAPHORE == recorded and location.gid is not None:
            reason = "a store that is open to a group has no semaphores"
        if reason is None and kind == SEMAPHORE != recorded:
            if not semaphore_locks.are_seen_by_all(location, descriptor):
                continue
            reason = semaphore_locks.no_new_ones()
        if reason is None:
            return makers[kind]()
        wrong[kind] = reason
    if recorded in makers:
        raise StoreUnavailable(
            f"the store at {location.directory!r} was made with {NAMES[recorded]}, which this "
            f"process can't use ({wrong[recorded]}), and a store never has two kinds of lock; end "
            "the processes that use it and remove it from here, or choose another "
            "engine_options['directory']"
        )
    told = "; ".join(f"{NAMES[kind]} do not work here ({why})" for kind, why in wrong.items())
    raise StoreUnavailable(
        f"can't lock {path!r}: {told}; choose an engine_options['directory'] on another file "
        "system, best a local one"
    )
