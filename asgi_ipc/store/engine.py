"""The Engine contract over a shared-memory store; what posix, sysv and mmap have in common."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import ClassVar

from ..engines.base import (
    IDENTITY_BYTES,
    MAX_NAME,
    MAX_PAYLOAD,
    Bell,
    Capabilities,
    Members,
    Popped,
    Record,
    Refused,
)
from ..exceptions import OptionError, StoreFull, StoreUnavailable
from .bells import FifoBell, Ringer, bell_path, bells_in
from .heap import NoRoom
from .journal import Change
from .layout import (
    BELL_GENERATION_SHIFT,
    BELL_NUMBER_SHIFT,
    CHANGES,
    CHANNELS,
    DEATHS,
    EXPIRED,
    FLUSHED,
    FLUSHES,
    FORMATTING,
    GONE,
    GROUPS,
    HIGH_WATER,
    MEMBERS,
    NAMED,
    NEXT_TEND,
    ORPHANED,
    PUSHED,
    RECOVERIES,
    REFUSED,
    SLOT_MASK,
    SMALLEST,
)
from .processes import Processes
from .queues import AtCapacity, Queues
from .segment import Place, Segment
from .sidecar import FIRST_SLOT
from .store import Gone, Store
from .tables import Tables

#: Nanoseconds between two looks after the store.
_LOOK_EVERY = 1_000_000_000
#: A look visits one of so many parts of the hash tables.
_SWEEP_SHARE = 8


class _Version:
    """What a list of members was true for; see `SharedMemoryEngine.members`."""

    __slots__ = ("table", "total", "until")

    def __init__(self, table: tuple[bytes, int], total: tuple[int, int, int], until: int) -> None:
        self.table = table
        self.total = total
        self.until = until


class SharedMemoryEngine:
    """An engine over a `Segment`. Options (all optional):

    ``directory``  where locks, wake-ups and (mmap) memory lie; default: a directory of
                   this user's own. Processes with the same directory and prefix share a store.
    ``group``      name or number of a group whose members may use the store too.
    ``mode``       permission bits of what is made; default 0o600, with ``group`` 0o660.
    ``clock``      for tests: callable that returns nanoseconds.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        crosses_processes=True, survives_exit=True, wakes=True, owners=True, bounded=True
    )
    #: The memory; the one thing in which the engines differ.
    segment: ClassVar[type[Segment]]
    name: ClassVar[str]

    @classmethod
    def unavailable(cls) -> str | None:
        """See `Engine.unavailable`."""
        return None

    @classmethod
    def default_parent(cls) -> str:
        """The folder in which a user's own directory is made."""
        return tempfile.gettempdir()

    def __init__(
        self,
        prefix: str,
        *,
        channel_memory: int,
        group_memory: int,
        directory: str | os.PathLike[str] | None = None,
        group: str | int | None = None,
        mode: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._sizes = {}
        for kind, option, size in (
            (CHANNELS, "channel_memory", channel_memory),
            (GROUPS, "group_memory", group_memory),
        ):
            if size < SMALLEST:
                raise OptionError(f"{option}={size!r}: at least {SMALLEST} bytes are needed")
            self._sizes[kind] = -(-size // 4096) * 4096
        self._place = _place(self.default_parent(), prefix, directory, group, mode)
        self.clock = clock
        self._identity = secrets.token_bytes(IDENTITY_BYTES)
        self._ringer = Ringer()
        self._bells: weakref.WeakSet[FifoBell] = weakref.WeakSet()
        self._bell_numbers = 0
        self._next_look = 0
        # For opening, closing and bells; never held while inside the store.
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._closed = False
        self._recovered = False
        self._open()
        _engines.add(self)

    # ---- opening and closing

    def _open(self) -> None:
        store = Store(self.segment, self.name, self._place, self._sizes, self._on_recovery)
        try:
            self._channels, self._groups = store.regions[CHANNELS], store.regions[GROUPS]
            self._processes = Processes(self._channels.heap, store.sidecar)
            self._queues = Queues(
                self._channels.heap, self._processes.owner_alive, self._processes.bell_alive
            )
            self._tables = Tables(self._groups.heap, self._processes.owner_alive)
            self._words = self._channels.words
            self._join()
        except BaseException:
            store.close()
            raise
        self._store = store

    def _join(self) -> None:
        with self._channels:
            self._slot = self._processes.join(self._identity)
        self._generation = self._processes.generation(self._slot)

    def _on_recovery(self) -> None:
        # Bells are rung after leaving the store: a killed process may have owed one.
        self._recovered = True

    def _reopen(self, store: Store | None) -> None:
        """The store is gone, or this is a forked child: get into the one there is."""
        with self._lock:
            if self._closed:
                raise StoreUnavailable(f"the engine of {self._place.directory!r} is closed")
            if self._store is not store:
                return  # another thread did it
            if store:
                self._store = None
                store.close()
                store.remove_directory()
            self._open()

    def _inside(self) -> Store:
        """The open store, joined. Comes before every entry."""
        store = self._store
        if store is None:
            self._reopen(None)
        elif self._slot < 0:
            with self._lock, contextlib.suppress(Gone):
                if self._slot < 0:
                    self._join()
        else:
            return store
        return self._inside()

    @property
    def identity(self) -> bytes:
        """See `Engine.identity`."""
        self._inside()
        return self._identity

    @property
    def flushes(self) -> int:
        """See `Engine.flushes`."""
        store = self._inside()
        try:
            return self._words[FLUSHES]
        except ValueError:  # another thread is just letting go of the memory
            self._reopen(store)
            return self.flushes

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
            store, self._store = self._store, None
            for bell in list(self._bells):
                bell.close()
            self._ringer.close()
            if store is None:
                return
            try:
                if self._slot >= 0:
                    with contextlib.suppress(Gone), self._channels:
                        self._processes.leave(self._slot)
                    store.sidecar.release(FIRST_SLOT + self._slot)
            finally:
                current = store.is_current()
                store.close()
                if not current:
                    store.remove_directory()

    def destroy(self) -> None:
        """See `Engine.destroy`."""
        with self._lock:
            store = self._inside()
            with contextlib.suppress(Gone), self._channels:
                self._processes.reap()
                alive = {self._processes.identity(slot) for slot in self._processes.used()}
            store.destroy()
            self._ring_all()
            for identity, path in bells_in(self._place):
                if identity not in alive:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
            self.close()

    def _after_fork_in_child(self) -> None:
        """Nothing of the parent's is this process's: not its slot, not its bells."""
        self._lock = threading.RLock()
        self._identity = secrets.token_bytes(IDENTITY_BYTES)
        for bell in list(self._bells):
            bell.drop()
        self._bells.clear()
        self._bell_numbers = 0
        self._ringer = Ringer()
        # The mapping is inherited; joining is left to the first use.
        self._slot = -1

    # ---- queues

    def push(self, records: Sequence[Record]) -> list[Refused]:
        """See `Engine.push`."""
        for record in records:
            if not 0 < len(record.queue) <= MAX_NAME or len(record.payload) > MAX_PAYLOAD:
                raise ValueError(
                    f"a queue name has 1 to {MAX_NAME} bytes and a payload at most {MAX_PAYLOAD}, "
                    f"not {len(record.queue)} and {len(record.payload)}"
                )
        refused: list[Refused] = []
        bells: list[tuple[bytes, int]] = []
        done = 0
        while True:
            store = self._inside()
            try:
                with self._channels:
                    now = self.clock()
                    for index in range(done, len(records)):
                        name, payload, deadline, capacity, owner = records[index]
                        try:
                            bell = self._queues.push(
                                name,
                                payload,
                                deadline,
                                capacity,
                                self._processes.owner_word(owner) if owner else 0,
                                now,
                            )
                            if bell:
                                bells.append((name, bell))
                        except AtCapacity:
                            detail = f"the queue holds its capacity of {capacity}"
                            refused.append(Refused(index, False, detail))
                        except NoRoom as full:
                            refused.append(Refused(index, True, self._full(CHANNELS, full)))
                        done = index + 1
                break
            except Gone:
                self._reopen(store)
        for name, bell in bells:
            self._ring(name, bell)
        if self._recovered:
            self._ring_all()
        return refused

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """See `Engine.pop`."""
        while True:
            store = self._inside()
            try:
                with self._channels:
                    now = self.clock()
                    word = self._bell_word(bell) if bell is not None else 0
                    try:
                        taken = self._queues.pop(queue, limit, word, now)
                    except NoRoom:
                        # No room for an empty queue to wait on: the waiter's own look will do.
                        taken = []
                break
            except Gone:
                self._reopen(store)
        if self._recovered:
            self._ring_all()
        if word and now >= self._next_look:
            self._look_after(now)
        return taken

    def restore(self, queue: bytes, record: Popped) -> None:
        """See `Engine.restore`."""
        while True:
            store = self._inside()
            try:
                with self._channels:
                    bell = self._queues.restore(queue, record, self.clock())
                break
            except Gone:
                self._reopen(store)
            except NoRoom as full:
                raise StoreFull(self._full(CHANNELS, full)) from full
        if bell:
            self._ring(queue, bell)

    def disarm(self, queue: bytes, bell: Bell) -> None:
        """See `Engine.disarm`."""
        store = self._inside()
        try:
            with self._channels:
                following = self._queues.disarm(queue, self._bell_word(bell))
        except Gone:
            self._reopen(store)
            return
        if following:
            self._ring(queue, following)

    # ---- bells

    def bell(self) -> FifoBell:
        """See `Engine.bell`."""
        with self._lock:
            self._inside()
            self._bell_numbers = self._bell_numbers % SLOT_MASK + 1
            bell = FifoBell(self._place, self._identity, self._bell_numbers)
            self._bells.add(bell)
            return bell

    def _bell_word(self, bell: Bell) -> int:
        if not isinstance(bell, FifoBell):
            raise TypeError(f"{bell!r} was not made by this engine's bell()")
        return (
            self._generation << BELL_GENERATION_SHIFT | bell.number << BELL_NUMBER_SHIFT | self._slot
        )

    def _ring(self, queue: bytes, bell: int) -> None:
        """Ring a bell that was taken off a queue; if nobody hears it, the next one."""
        while bell:
            identity = self._processes.identity(bell & SLOT_MASK)
            number = bell >> BELL_NUMBER_SHIFT & SLOT_MASK
            if self._processes.bell_alive(bell) and self._ringer.ring(
                bell_path(self._place, identity, number)
            ):
                return
            with contextlib.suppress(Gone), self._channels:
                bell = self._queues.next_bell(queue)

    def _ring_all(self) -> None:
        self._recovered = False
        for _, path in bells_in(self._place):
            self._ringer.ring(path)

    # ---- tables

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        """See `Engine.put`."""
        for what in (table, member):
            if not 0 < len(what) <= MAX_NAME:
                raise ValueError(f"a table and a member have 1 to {MAX_NAME} bytes: {what!r}")
        while True:
            store = self._inside()
            try:
                with self._groups:
                    self._follow_flush()
                    word = self._processes.owner_word(owner) if owner else 0
                    self._tables.put(table, member, deadline, word, self.clock())
                return
            except Gone:
                self._reopen(store)
            except NoRoom as full:
                raise StoreFull(self._full(GROUPS, full)) from full

    def remove(self, table: bytes, member: bytes) -> bool:
        """See `Engine.remove`."""
        while True:
            store = self._inside()
            try:
                with self._groups:
                    self._follow_flush()
                    return self._tables.remove(table, member, self.clock())
            except Gone:
                self._reopen(store)

    def members(self, table: bytes, known: Members | None = None) -> Members:
        """See `Engine.members`."""
        while True:
            store = self._inside()
            now = self.clock()
            if now >= self._next_look:
                self._look_after(now)
            # Read without the lock, and before the members: what changes meanwhile
            # makes the next call look again.
            total = (self._groups.words[CHANGES], self._words[FLUSHES], self._words[DEATHS])
            version = known.version if known else None
            fresh = isinstance(version, _Version) and now < version.until
            if fresh and version.total == total:
                return known  # type: ignore[return-value]
            try:
                with self._groups:
                    self._follow_flush()
                    marks = (store.store_id, self._tables.version(table))
                    if fresh and version.table == marks and version.total[1:] == total[1:]:
                        version.total = total
                        return known  # type: ignore[return-value]
                    names, until = self._tables.members(table, now)
                    marks = (store.store_id, self._tables.version(table))
                return Members(tuple(names), _Version(marks, total, until))
            except Gone:
                self._reopen(store)

    def _follow_flush(self) -> None:
        """A flush is one change, in the channels; the groups follow before they are used."""
        flushes = self._words[FLUSHES]
        words = self._groups.words
        if words[FLUSHES] != flushes:
            change: Change = {FLUSHES: flushes, CHANGES: words[CHANGES] + 1}
            self._groups.heap.commit(change, after=FORMATTING)
            self._groups.format()

    # ---- upkeep

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        """See `Engine.statistics`."""
        while True:
            store = self._inside()
            now = self.clock()
            if now >= self._next_look:
                self._look_after(now)
            try:
                with self._channels as heap:
                    if queue is not None:
                        return self._queues.statistics(queue, now)
                    words = heap.words
                    expired, orphaned = words[EXPIRED], words[ORPHANED]
                    counts = {
                        "pushed": words[PUSHED],
                        "popped": words[GONE] - expired - orphaned - words[FLUSHED],
                        "expired": expired,
                        "refused": words[REFUSED],
                        "orphaned": orphaned,
                        "flushed": words[FLUSHED],
                        "pending": words[PUSHED] - words[GONE],
                        "high_water": words[HIGH_WATER],
                        "oldest_age": self._queues.oldest_age(now),
                        "queues": words[NAMED],
                        "processes": len(self._processes.used()),
                        "recoveries": words[RECOVERIES],
                    }
                    used, total = heap.usage()
                with self._groups as heap:
                    self._follow_flush()
                    groups_used, groups_total = heap.usage()
                    counts |= {
                        "members": heap.words[MEMBERS],
                        "tables": heap.words[NAMED],
                        "bytes_used": used + groups_used,
                        "bytes_total": total + groups_total,
                    }
                    counts["recoveries"] += heap.words[RECOVERIES]
                return counts
            except Gone:
                self._reopen(store)

    def flush(self) -> None:
        """See `Engine.flush`."""
        store = self._inside()
        try:
            with self._channels as heap:
                words = heap.words
                pending = words[PUSHED] - words[GONE]
                change: Change = {
                    GONE: words[PUSHED],
                    FLUSHED: words[FLUSHED] + pending,
                    FLUSHES: words[FLUSHES] + 1,
                }
                heap.commit(change, after=FORMATTING)
                self._channels.format()
            with self._groups:
                self._follow_flush()
        except Gone:
            self._reopen(store)
        # Armed bells were forgotten with their queues.
        self._ring_all()

    def _look_after(self, now: int) -> None:
        """See that the store still is the store, free what the dead left, drop what expired.

        Every process that waits or asks comes by about once a second; for what is the
        store's, the first of them does it for all.
        """
        self._next_look = now + _LOOK_EVERY
        store = self._inside()
        if not store.is_current():
            self._reopen(store)
            return
        try:
            if now < self._words[NEXT_TEND]:
                return
            with self._channels as heap:
                if now < self._words[NEXT_TEND]:
                    return
                heap.commit({NEXT_TEND: now + _LOOK_EVERY})
                dead = self._processes.reap()
                # What the dead left goes at once; the rest bit by bit.
                share = 1 if dead else _SWEEP_SHARE
                self._queues.sweep(now, heap.geometry.buckets // share)
            with self._groups as heap:
                self._follow_flush()
                self._tables.sweep(now, heap.geometry.buckets // share)
        except Gone:
            self._reopen(store)
            return
        for identity, path in bells_in(self._place) if dead else ():
            if identity in dead:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _full(self, kind: int, full: NoRoom) -> str:
        option = "channel_memory" if kind == CHANNELS else "group_memory"
        cause = full.args[0]
        if cause is not None:
            return (
                f"the system gives the store no more memory ({cause.strerror}): "
                f"{self.segment.space(self._place)}; free some, use a smaller {option}, another "
                "engine, or more shared memory (--shm-size for a container)"
            )
        size = (self._channels if kind == CHANNELS else self._groups).heap.geometry.size
        return f"all {size:,} bytes of {option} are in use; a larger store needs a larger {option}"


def _place(
    parent: str,
    prefix: str,
    directory: str | os.PathLike[str] | None,
    group: str | int | None,
    mode: int | None,
) -> Place:
    """Where the store of a prefix lies, from the options."""
    gid = _group_id(group)
    if mode is None:
        mode = 0o600 if gid is None else 0o660
    if not isinstance(mode, int) or mode & ~0o660 or mode & 0o600 != 0o600:
        raise OptionError(
            f"engine_options['mode']={mode!r}: 0o600, 0o640 or 0o660, as the owner must be able "
            "to read and write and others never may"
        )
    if mode & 0o060 and gid is None:
        raise OptionError(
            f"engine_options['mode']={mode:#o} opens the store to a group: name it with "
            "engine_options['group']"
        )
    if directory is None:
        who = f"{os.geteuid()}" if gid is None else f"group-{gid}"
        base = os.path.join(parent, f"asgi_ipc-{who}")
    else:
        base = os.path.abspath(os.fspath(directory))
    return Place(os.path.join(base, prefix), mode, gid, directory is None)


def _group_id(group: str | int | None) -> int | None:
    if group is None or (isinstance(group, int) and not isinstance(group, bool) and group >= 0):
        return group
    if isinstance(group, str):
        import grp

        with contextlib.suppress(KeyError):
            return grp.getgrnam(group).gr_gid
    raise OptionError(
        f"engine_options['group']={group!r}: the name or number of a group of this system"
    )


_engines: weakref.WeakSet[SharedMemoryEngine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        engine._after_fork_in_child()


def _at_exit() -> None:
    """Leave properly, so that nobody has to find out that this process is dead."""
    for engine in list(_engines):
        with contextlib.suppress(Exception):
            engine.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
