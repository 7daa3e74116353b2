"""Which kind of lock a store uses: what its lock file says, or the first that works."""

from __future__ import annotations

from ..exceptions import StoreUnavailable
from . import file_locks, record_locks
from .locks import FCNTL, FLOCK, NAMES, Locks
from .segment import Place


def choose(path: str, descriptor: int, place: Place, recorded: int) -> Locks:
    """The locks of a lock file: of the kind that it says, or else of the first that works.

    Nobody in this process may have the file open but as ``descriptor``. Takes tens of
    microseconds. Raises `StoreUnavailable` when what is needed does not work, and
    FileNotFoundError if the file is removed meanwhile.
    """
    trials = {FCNTL: record_locks.record_locks_fail, FLOCK: file_locks.flocks_fail}
    wrong = {}
    for kind in [recorded] if recorded in trials else list(trials):
        reason = trials[kind](path, descriptor)
        if reason is None:
            if kind == FCNTL:
                return record_locks.RecordLocks(path, descriptor)
            return file_locks.FileLocks(path, descriptor, place)
        wrong[kind] = reason
    told = "; ".join(f"{NAMES[kind]} do not work here ({why})" for kind, why in wrong.items())
    if recorded in trials:
        other = NAMES[FLOCK if recorded == FCNTL else FCNTL]
        raise StoreUnavailable(
            f"the store at {place.directory!r} was made with {NAMES[recorded]}, which this "
            f"process can't use ({wrong[recorded]}), and a store never has {other} as well; end "
            "the processes that use it and remove it from here, or choose another "
            "engine_options['directory']"
        )
    raise StoreUnavailable(
        f"can't lock {path!r}: {told}; choose an engine_options['directory'] on another file "
        "system, best a local one"
    )
