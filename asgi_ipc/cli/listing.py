"""Every store that this user may see, with what can be read of it without its locks.

Nothing here joins a store or waits for a lock of its memory, so a stopped process that holds one
delays nothing. Numbers read so may miss a change that is just being made.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..encoding.names import INTERNAL_TABLES, RELAY_REPORT, RELAY_ROLE
from ..engines.shm.heap import layout
from ..engines.shm.heap.heap import Heap, Pause
from ..engines.shm.heap.layout import CHANNELS, GROUPS, SMALLEST, VERSION
from ..engines.shm.location import described
from ..engines.shm.lock_file import READY
from ..engines.shm.locked_segment import LockedSegment
from ..engines.shm.locks.base import FIRST_ROLE, FIRST_SLOT
from ..engines.shm.machine import boot_identity
from ..engines.shm.opening import open_store
from ..engines.shm.processes import Processes
from ..engines.shm.store import Store
from ..engines.shm.store_memory import Damaged
from ..engines.shm.tables import Reading, Tables
from ..exceptions import StoreCorrupt, StoreUnavailable
from .attempt import attempt
from .finding import Base, Found, Site, bases, built_in, stores_in
from .lock_files import in_use
from .orphans import Orphan, find_orphans

_STATES = {layout.IDLE, layout.COMMITTED, layout.FORMATTING}


class Entry(NamedTuple):
    """A store, or what is left of one. What can't be read is None; `problem` says why."""

    #: None of a folder that can't be read, and of memory whose store is not known.
    prefix: str | None
    engine: str | None
    #: The folder above the store's own: what the engine option ``directory`` is.
    directory: str | None
    #: Owner of the store's folder.
    user: str | None
    #: Living processes.
    processes: int | None
    #: No living process uses it.
    stale: bool | None
    #: Memory whose store's folder is gone.
    orphaned: bool
    #: ``in use``, ``stale``, ``orphaned``, ``damaged``, ``unusable`` (of another format or boot,
    #: or its memory is gone) or ``no access``.
    state: str
    #: Unread messages, and memberships of all groups.
    messages: int | None = None
    memberships: int | None = None
    channel_bytes_used: int | None = None
    channel_bytes_reserved: int | None = None
    channel_bytes_total: int | None = None
    group_bytes_used: int | None = None
    group_bytes_reserved: int | None = None
    group_bytes_total: int | None = None
    #: Seconds since the store was made.
    age: float | None = None
    #: Version of the byte format.
    format: int | None = None
    #: Names of orphaned memory and locks.
    memory: Sequence[str] = ()
    problem: str | None = None
    #: State of the relay to other machines; None without one.
    relay: str | None = None


class Listed(NamedTuple):
    """An entry, and what removes it."""

    entry: Entry
    site: Site | None
    orphans: tuple[Orphan, ...] = ()


def listed(directory: str | None = None) -> Iterator[Listed]:
    """Yield every store in the default directories, or in one, and then orphaned memory.

    Raises `OptionError` for what can't be a directory.
    """
    for base in bases(directory):
        if base.refusal and not os.geteuid():
            yield from (Listed(entry, None) for entry in _of_another_user(base))
            continue
        for found in stores_in(base):
            yield Listed(entry_of(found), found.site)
    if directory is None:
        yield from listed_orphans()


def _of_another_user(base: Base) -> list[Entry]:
    """Return the entries of a folder of another user, which root reads as that user.

    In a process of its own: what that user wrote could make reading it crash.
    """
    status = os.stat(base.path, follow_symlinks=False)

    def read() -> str:
        os.setgroups([status.st_gid])
        os.setgid(status.st_gid)
        os.setuid(status.st_uid)
        opened = base._replace(refusal="")
        return json.dumps([entry_of(each) for each in stores_in(opened)])

    if status.st_uid:
        # Imported before: that user may have no access to this Python.
        from ..relay import report  # noqa: F401

        for factory in built_in().values():
            factory.unavailable()
        result = attempt(read)
        if result["works"]:
            return [Entry(*fields) for fields in json.loads(result["detail"])]
    return [entry_of(each) for each in stores_in(base)]


def entry_of(found: Found) -> Entry:
    """Return what can be read of a store that was found."""
    about: dict[str, Any] = {
        "prefix": found.prefix or None,
        "engine": found.header.engine if found.header else None,
        "directory": found.base.path,
        "user": _owner(found.path),
        "processes": None,
        "stale": None,
        "orphaned": False,
        "state": "no access",
        "format": found.header.version if found.header else None,
        "problem": found.refusal or None,
    }
    if found.site is not None:
        about |= _looked_at(found.site)
    return Entry(**about)


def _owner(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return described(os.stat(path.rstrip("/")).st_uid)
    return None


def _looked_at(site: Site) -> dict[str, Any]:
    about: dict[str, Any] = {"age": _age(site), "state": "unusable"}
    header = site.header
    try:
        about["stale"] = not in_use(site.location, header)
        about["processes"] = 0 if about["stale"] else None
        problem = ""
        if header.version != VERSION:
            problem = f"it has format {header.version}, this asgi_ipc uses format {VERSION}"
        elif header.ready != READY:
            problem = "it is unfinished, or its removal is"
        elif header.boot_id != boot_identity():
            problem = "it is from another boot, machine or container"
        else:
            problem = site.factory.unavailable() or ""
        if problem:
            return about | {"problem": problem}
        store = open_store(
            site.factory.store_options(
                site.location, {CHANNELS: SMALLEST, GROUPS: SMALLEST}, make=False
            ),
            lambda: None,
        )
        try:
            return about | _read(store)
        finally:
            store.close()
    except Damaged as error:
        return about | {"state": "damaged", "problem": str(error)}
    except (StoreUnavailable, StoreCorrupt, OSError) as error:
        return about | {"problem": str(error)}


def _age(site: Site) -> float | None:
    """Return the seconds since the lock file was written: the last step of making a store."""
    with contextlib.suppress(OSError):
        written = os.stat(os.path.join(site.location.directory, "lock")).st_mtime
        return max(0.0, time.time() - written)
    return None


def _read(store: Store) -> dict[str, Any]:
    channels, groups = (store.locked_segments[kind] for kind in (CHANNELS, GROUPS))
    words = channels.words
    is_flushed = groups.words[layout.FLUSHES] != words[layout.FLUSHES]
    found: dict[str, Any] = {
        "processes": living(channels.heap, store),
        "messages": words[layout.PUSHED] - words[layout.GONE],
        "memberships": 0 if is_flushed else groups.words[layout.MEMBERS],
    }
    found["stale"] = not found["processes"]
    found["state"] = "stale" if found["stale"] else "in use"
    internal, found["relay"] = _relay(groups, store)
    found["memberships"] -= min(internal, found["memberships"])
    wrong: list[str] = []
    for name, segment in (("channel", channels), ("group", groups)):
        found |= {f"{name}_{key}": number for key, number in memory_of(segment.heap).items()}
        wrong += _contradictions(name, segment, found)
    if wrong or not 0 <= found["messages"] < 1 << 32 or not 0 <= found["memberships"] < 1 << 32:
        found["state"] = "damaged"
        found["problem"] = "; ".join(
            [*wrong, "it is damaged: 'check' says what is wrong, 'check --remove' removes it"]
        )
    return found


def _relay(groups: LockedSegment, store: Store) -> tuple[int, str | None]:
    """Return how many members the relay has in the store, and its state; None if there is none.

    Read without a lock.
    """
    from ..relay.report import parsed

    tables = Tables(groups.heap, lambda word: True, lambda: 0)
    members: dict[bytes, list[bytes]] = {}
    for table in INTERNAL_TABLES:
        reading = Reading()
        # What is just being changed may look like anything; the next look finds it whole.
        with contextlib.suppress(StoreCorrupt, IndexError, ValueError, Pause):
            tables.read(table, reading, 0)
        members[table] = reading.names
    is_held = store.lock_file.is_held(FIRST_ROLE + RELAY_ROLE)
    if not is_held and not any(members.values()):
        return 0, None
    found = parsed(members[RELAY_REPORT], (), time.monotonic_ns(), is_held)
    state = found.state if found is not None else "unknown" if is_held else "none"
    return sum(map(len, members.values())), state


def living(heap: Heap, store: Store) -> int:
    """Count the processes of a store that are alive."""
    slots = Processes(heap, store.lock_file).used()
    return sum(store.lock_file.is_held(FIRST_SLOT + slot) for slot in slots)


def memory_of(heap: Heap) -> dict[str, int]:
    """Return the bytes of a segment that are used, reserved from the system, and its size."""
    used, total = heap.usage()
    return {"bytes_used": used, "bytes_reserved": heap.reserved(), "bytes_total": total}


def _contradictions(name: str, segment: LockedSegment, found: dict[str, Any]) -> Iterator[str]:
    state = segment.words[layout.STATE]
    if state not in _STATES and not state >> 62:
        yield f"the state of the {name}s is {state}, which is none"
    if not found[f"{name}_bytes_used"] <= found[f"{name}_bytes_total"]:
        yield f"the {name}s use more memory than there is"


def listed_orphans() -> Iterator[Listed]:
    """Yield this user's memory and locks that belong to no store, together by store."""
    by_store: dict[tuple[str, str | None], list[Orphan]] = {}
    # Memory first: locks are of the store whose folder they name, whichever engine that had.
    for orphan in sorted(find_orphans(), key=lambda each: each.engine == "locks"):
        owners = [key for key in by_store if key[1] == orphan.folder is not None]
        is_of_one = orphan.engine == "locks" and len(owners) == 1
        key = owners[0] if is_of_one else (orphan.engine, orphan.folder)
        by_store.setdefault(key, []).append(orphan)
    for (engine, folder), found in by_store.items():
        directory, prefix = os.path.split(folder) if folder else (None, None)
        kept = [each.kept for each in found if each.kept]
        reasons = dict.fromkeys(each.reason for each in found)
        entry = Entry(
            prefix=prefix,
            engine=None if engine == "locks" else engine,
            directory=directory,
            user=described(os.geteuid()),
            processes=None if kept else 0,
            stale=None if kept else True,
            orphaned=True,
            state="orphaned",
            memory=[each.name for each in found],
            problem="; ".join([*reasons, *(f"kept: {each}" for each in dict.fromkeys(kept))]),
        )
        yield Listed(entry, None, tuple(found))


__all__ = ["Entry", "Listed", "entry_of", "listed", "listed_orphans", "living", "memory_of"]
