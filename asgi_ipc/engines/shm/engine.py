"""The Engine contract over a shared-memory store; what posix, sysv and mmap have in common."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, TypeVar

from asgi_ipc.exceptions import (
    EngineUnavailable,
    OptionError,
    StoreCorrupt,
    StoreFull,
)

from ..base import (
    LOOK_RECORDS,
    MAX_NAME,
    MAX_PAYLOAD,
    Bell,
    Capabilities,
    Members,
    Popped,
    ProcessInfo,
    QueueInfo,
    Record,
    Refused,
    TableInfo,
    checked_role,
)
from ..choice import BUILT_IN, find, names
from ..own_counts import OwnCounts
from .bells import FifoBell
from .heap import layout
from .heap.heap import Heap, NoRoom, OverShare, Pause
from .heap.journal import Change
from .heap.layout import CHANGES, CHANNELS, DEATHS, FLUSHES, GROUPS
from .inspection import Inspection
from .location import Location
from .locks.base import Gone
from .machine import unsuitable
from .operation import operation, step
from .options import check_name, in_pages, location_for, removal, temporary_folder
from .queues.queues import AtCapacity
from .queues.statistics import Survey
from .refusals import at_capacity, no_room
from .segment import Segment
from .session import Session
from .spread import DIRECT
from .store import StoreOptions
from .tables import Reading
from .upkeep import Upkeep

_Self = TypeVar("_Self", bound="SharedMemoryEngine")
_Info = TypeVar("_Info")

#: Records that are pushed in one hold of the lock.
_BATCH = 25


class _Version:
    """What a list of members was true for; see `SharedMemoryEngine.members`."""

    __slots__ = ("table", "total", "until")

    def __init__(self, table: tuple[bytes, int], total: tuple[int, int, int], until: int) -> None:
        self.table = table
        self.total = total
        self.until = until


_NO_VERSION = _Version((b"", 0), (0, 0, 0), 0)


class SharedMemoryEngine:
    """An engine over a `Segment`. Options (all optional):

    ``directory``  where locks, wake-ups and (mmap) memory lie; default: a directory of
                   this user's own. Processes with the same directory and prefix share a store.
                   An absolute path.
    ``group``      name or number of a group whose members may use the store too.
    ``mode``       permission bits of what is made; 0o600, with ``group`` 0o660, and no other.
    ``clock``      for tests: callable that returns nanoseconds.

    Raises `OptionError` for others.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        crosses_processes=True,
        survives_exit=True,
        wakes=True,
        owners=True,
        bounded=True,
        roles=True,
        inspects=True,
    )
    #: The memory: the one thing in which the engines differ.
    segment: ClassVar[type[Segment]]
    #: Written into the lock file: 1 to `LONGEST_NAME` printable ASCII characters.
    name: ClassVar[str]
    #: A module that it can't work without, if any; and the reason and remedy where it is missing.
    needs: ClassVar[str | None] = None
    missing: ClassVar[str] = ""

    @classmethod
    def unavailable(cls) -> str | None:
        """See `Engine.unavailable`."""
        # First: a sub-interpreter can't import what is installed.
        reason = unsuitable()
        if reason is None and cls.needs is not None:
            try:
                import_module(cls.needs)
            except ImportError:
                return cls.missing
        return reason

    @classmethod
    def default_parent(cls) -> str:
        """Return the folder in which a user's own directory is made."""
        return temporary_folder()

    @classmethod
    def check_options(
        cls,
        directory: object = None,
        group: object = None,
        mode: object = None,
        clock: object = None,
    ) -> None:
        """Refuse values of engine options that the constructor would. Raises `OptionError`."""
        location_for("", "", directory, group, mode)

    @classmethod
    def argument(cls) -> str:
        """Return what ``--engine`` of the commands takes for this engine."""
        path = f"{cls.__module__}:{cls.__qualname__}"
        return cls.name if BUILT_IN.get(cls.name) == path else path

    @classmethod
    def store_options(
        cls, location: Location, sizes: Mapping[int, int], make: bool = True
    ) -> StoreOptions:
        """Return what opens a store of this engine: of these ``sizes`` if it is made."""
        return StoreOptions(
            location,
            sizes,
            engine=cls.name,
            segment=cls.segment,
            segment_of=_segment_of,
            removal=lambda: removal(cls.argument(), location),
            make=make,
        )

    #: False for an engine that looks at a store: it never makes, replaces or removes one.
    _makes = True

    @classmethod
    def of_existing(cls: type[_Self], prefix: str, **options: Any) -> _Self:
        """Join a store that is there, for commands that look at it.

        Raises `StoreUnavailable` if there is none, and also later, once it is gone.
        """
        engine = cls.__new__(cls)
        engine._makes = False
        engine.__init__(prefix, **options)  # type: ignore[misc]
        return engine

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
        kind = type(self)
        check_name(kind)
        reason = unsuitable()
        if reason is not None:
            raise EngineUnavailable(f"engine {kind.name!r} can't work here: {reason}")
        if not callable(clock):
            raise OptionError(
                f"engine_options['clock']={clock!r}: it must be callable and return nanoseconds, "
                "as time.monotonic_ns does"
            )
        sizes = {
            CHANNELS: in_pages("channel_memory", channel_memory),
            GROUPS: in_pages("group_memory", group_memory),
        }
        # Where a directory is named, a machine without any other will do.
        parent = self.default_parent() if directory is None else ""
        location = location_for(parent, prefix, directory, group, mode)
        self.clock = clock
        #: For the commands and tests of this package: the store, and this process in it.
        self.session = Session(kind.store_options(location, sizes, self._makes), clock)
        self.upkeep = Upkeep(self.session)
        self._inspection = Inspection(self.session)
        self._own_counts = OwnCounts()

    # ---- the process

    def watch_expiry(self, tell: Callable[[bytes, int], object] | None) -> None:
        """See `Engine`."""
        self.upkeep.on_expired = tell

    @property
    def identity(self) -> bytes:
        """See `Engine.identity`."""
        self.session.joined()
        return self.session.identity

    @property
    def flushes(self) -> int:
        """See `Engine.flushes`."""
        try:
            return self.session.words[FLUSHES]
        except ValueError:  # closed, or another thread is just letting go of the memory
            self.session.joined()
            return self.flushes

    def inside(self) -> bool:
        """See `Engine.inside`."""
        return self.session.is_inside()

    def bell(self) -> FifoBell:
        """See `Engine.bell`."""
        return self.session.bell()

    def close(self) -> None:
        """See `Engine.close`."""
        self.session.close()

    def destroy(self) -> None:
        """See `Engine.destroy`."""
        self.session.destroy(self.upkeep.reap)

    # ---- queues

    def push(self, records: Sequence[Record]) -> list[Refused]:
        """See `Engine.push`."""
        for name, payload, _, _, _ in records:
            if not 0 < len(name) <= MAX_NAME or len(payload) > MAX_PAYLOAD:
                raise ValueError(
                    f"a queue name has 1 to {MAX_NAME} bytes and a payload at most {MAX_PAYLOAD}, "
                    f"not {len(name)} and {len(payload)}"
                )
        refused: list[Refused] = []
        bells: list[tuple[bytes, int]] = []
        done = holds = 0
        now = 0
        session = self.session
        while True:
            store = session.store
            if session.slot < 0:
                store = session.joined()
            if not now:
                # Before, as other processes wait for what is done inside.
                now = self.clock()
                if now >= self.upkeep.due:
                    self.upkeep.maintain(now)
                    continue
            left, push = records[done : done + _BATCH], session.queues.push
            try:
                try:
                    with session.channels:
                        for record in left:
                            try:
                                bell = push(record, now)
                                if bell:
                                    bells.append((record.queue, bell))
                            except AtCapacity:
                                refused.append(Refused(done, False, at_capacity(session, record)))
                            except NoRoom as full:
                                detail = no_room(session, CHANNELS, full, len(record.payload))
                                is_share = isinstance(full, OverShare)
                                refused.append(Refused(done, True, detail, is_share))
                            done += 1
                    if done >= len(records):
                        break
                # As `CriticalSection.run`, and twice for the same reason.
                except BaseException:
                    session.let_go(store)
                    raise
            except Pause as pause:
                if records[done] is left[0]:  # Else some were pushed, and others come as it is.
                    holds += 1
                    session.pause(pause.heap, holds)
            except Gone:
                session.reopen(store)
            except BaseException:
                session.let_go(store)
                raise
        if done > DIRECT:
            bells = session.spread(bells)
        for name, bell in bells:
            session.signal(name, bell)
        if session.recovered:
            session.signal_all()
        return refused

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """See `Engine.pop`."""
        taken: list[Popped] = []
        holds = safe = 0
        session = self.session
        while True:
            store = session.store
            if session.slot < 0:
                store = session.joined()
            # Before, as other processes wait for what is done inside.
            word = session.bell_word(bell) if bell is not None else 0
            try:
                try:
                    with session.channels:
                        now = self.clock()
                        session.queues.pop(taken, queue, limit, word, now)
                    break
                except BaseException:
                    session.let_go(store)
                    raise
            except Pause as pause:
                safe = len(taken)
                if safe >= limit:
                    break
                holds += 1
                session.pause(pause.heap, holds)
            except Gone:
                session.reopen(store)
            except NoRoom:
                # No room for an empty queue to wait on: the receiver polls anyway.
                break
            except StoreCorrupt:
                # What was taken in an earlier hold is not in the store any more.
                del taken[safe:]
                if not taken:
                    raise
                break
            except BaseException:
                session.let_go(store)
                raise
        if session.recovered:
            session.signal_all()
        if not taken and now >= self.upkeep.due:
            # Not with records in hand: nothing may come between them and their receiver.
            self.upkeep.maintain(now)
        return taken

    def peek(self, queue: bytes) -> bool:
        """See `Engine.peek`."""
        try:
            return self.session.queues.peek(queue)
        except (ValueError, IndexError):  # closed, or changed meanwhile
            self.session.joined()
            return True

    def restore(self, queue: bytes, record: Popped) -> None:
        """See `Engine.restore`."""
        bell = self._put_back(queue, record, self.clock())
        if bell:
            self.session.signal(queue, bell)

    @operation
    def _put_back(self, queue: bytes, record: Popped, now: int) -> int:
        try:
            with self.session.channels:
                return self.session.queues.restore(queue, record, now)
        except NoRoom as full:
            raise StoreFull(no_room(self.session, CHANNELS, full, len(record.payload))) from full

    def disarm(self, queue: bytes, bell: Bell) -> None:
        """See `Engine.disarm`."""
        following = self._disarm(queue, bell)
        if following:
            self.session.signal(queue, following)

    @step
    def _disarm(self, queue: bytes, bell: Bell) -> int:
        session = self.session
        with session.channels:
            return session.queues.disarm(queue, session.bell_word(bell))

    # ---- tables

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        """See `Engine.put`."""
        for what in (table, member):
            if not 0 < len(what) <= MAX_NAME:
                raise ValueError(f"a table and a member have 1 to {MAX_NAME} bytes: {what!r}")
        self._put(table, member, deadline, owner, self.clock())

    @operation
    def _put(self, table: bytes, member: bytes, deadline: int, owner: bytes, now: int) -> None:
        try:
            with self.session.groups:
                self.session.follow_flush()
                word = self.session.processes.owner_word(owner) if owner else 0
                self.session.tables.put(table, member, deadline, word, now)
        except NoRoom as full:
            raise StoreFull(no_room(self.session, GROUPS, full, len(member))) from full

    @operation
    def remove(self, table: bytes, member: bytes) -> bool:
        """See `Engine.remove`."""
        with self.session.groups:
            self.session.follow_flush()
            return self.session.tables.remove(table, member, self.clock())

    def members(self, table: bytes, known: Members | None = None) -> Members:
        """See `Engine.members`."""
        session = self.session
        while True:
            store = session.joined()
            now = self.clock()
            if now >= self.upkeep.due:
                self.upkeep.maintain(now)
            # Read without the lock, and before the members: what changes meanwhile
            # makes the next call look again.
            try:
                words = session.words
                total = session.groups.words[CHANGES], words[FLUSHES], words[DEATHS]
            except ValueError:  # another thread is just letting go of the memory
                session.reopen(store)
                continue
            version = known.version if known else _NO_VERSION
            fresh = now < version.until
            if known and fresh and version.total == total:
                return known
            return self._members(table, known, fresh, total, now, Reading())

    @operation
    def _members(
        self,
        table: bytes,
        known: Members | None,
        fresh: bool,
        total: tuple[int, int, int],
        now: int,
        reading: Reading,
    ) -> Members:
        version = known.version if known else _NO_VERSION
        session = self.session
        with session.groups:
            session.follow_flush()
            # Of the store that this is: its id tells it from the one of ``total``.
            marks = (session.store_id, session.tables.version(table))
            if known and fresh and version.table == marks and version.total[1:] == total[1:]:
                version.total = total
                return known
            session.tables.read(table, reading, now)
        return Members(tuple(reading.names), _Version(marks, total, reading.until))

    # ---- roles

    def hold(self, role: int) -> bool:
        """See `Engine.hold`."""
        return self.session.hold(checked_role(role))

    def release(self, role: int) -> None:
        """See `Engine.release`."""
        self.session.release_role(checked_role(role))

    def is_held(self, role: int) -> bool:
        """See `Engine.is_held`."""
        return self.session.is_held(checked_role(role))

    # ---- upkeep

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        """See `Engine.statistics`."""
        self.session.joined()
        now = self.clock()
        if now >= self.upkeep.due:
            self.upkeep.maintain(now)
        return self._statistics(queue, Survey(now), now)

    @operation
    def _statistics(self, queue: bytes | None, survey: Survey, now: int) -> dict[str, int]:
        session = self.session
        with session.channels:
            if queue is not None:
                return session.queues.of_queue(queue, now)
            session.queues.statistics.survey(survey)
            counts = session.queues.statistics.of_store()
            counts["processes"] = len(session.processes.used())
            counts["oldest_age"] = survey.oldest
            counts |= session.processes.sums()
            counts |= _bytes("channel", session.channels.heap)
        with session.groups as heap:
            session.follow_flush()
            counts |= {"members": heap.words[layout.MEMBERS], "tables": heap.words[layout.NAMED]}
            counts |= _bytes("group", heap)
            for what in ("bytes_used", "bytes_total"):
                counts[what] = counts[f"channel_{what}"] + counts[f"group_{what}"]
            counts["recoveries"] += heap.words[layout.RECOVERIES]
        return counts

    # ---- inspection

    def queues(self) -> Iterator[QueueInfo]:
        """See `Engine.queues`."""
        return self._after_upkeep(self._inspection.queues)

    def tables(self) -> Iterator[TableInfo]:
        """See `Engine.tables`."""
        return self._after_upkeep(self._inspection.tables)

    def processes(self) -> Iterator[ProcessInfo]:
        """See `Engine.processes`."""
        return self._after_upkeep(self._inspection.processes)

    def _after_upkeep(self, listing: Callable[[], Iterator[_Info]]) -> Iterator[_Info]:
        """Begin a listing. Raises now, rather than at its first item, if the engine is closed."""
        self.session.joined()
        now = self.clock()
        if now >= self.upkeep.due:
            self.upkeep.maintain(now)
        return listing()

    @operation
    def look(self, queue: bytes, limit: int = LOOK_RECORDS) -> list[Popped]:
        """See `Engine.look`."""
        now = self.clock()
        with self.session.channels:
            return self.session.queues.look(queue, limit, now)

    def note(self, counts: Mapping[str, int]) -> None:
        """See `Engine.note`."""
        store = self.session.joined()
        # Of a store that was removed no count is wanted, and none is made for its sake: a process
        # that only closes its layer would leave a new store behind.
        with contextlib.suppress(Gone):
            store.lock_file.section.run(self._note, counts)

    def _note(self, counts: Mapping[str, int]) -> None:
        session = self.session
        with session.channels:
            slot = session.slot
            if slot >= 0:  # Else another thread is just leaving.
                counts = self._own_counts.in_store(session.store_id, counts)
                session.processes.note(slot, counts)

    # ---- everything

    def flush(self) -> None:
        """See `Engine.flush`."""
        self._flush()
        # Armed bells were forgotten with their queues.
        self.session.signal_all()

    @operation
    def _flush(self) -> None:
        with self.session.channels as heap:
            words = heap.words
            pending = words[layout.PUSHED] - words[layout.GONE]
            change: Change = {
                layout.GONE: words[layout.PUSHED],
                layout.FLUSHED: words[layout.FLUSHED] + pending,
                FLUSHES: words[FLUSHES] + 1,
            }
            heap.commit(change, after=layout.FORMATTING)
            self.session.channels.format()
        with self.session.groups:
            self.session.follow_flush()


def _bytes(memory: str, heap: Heap) -> dict[str, int]:
    """Return what of a memory is in use, reserved and the limit, in bytes."""
    used, total = heap.usage()
    return {
        f"{memory}_bytes_used": used,
        f"{memory}_bytes_reserved": heap.reserved(),
        f"{memory}_bytes_total": total,
    }


def _segment_of(engine: str) -> type[Segment] | None:
    """Return the class of another engine's memory; of a registered engine alone.

    The name is read from a lock file: it must not lead to the import of anything else.
    """
    try:
        factory: Any = find(engine) if engine in names() else None
        if getattr(factory, "name", None) == engine and not factory.unavailable():
            found: type[Segment] = factory.segment
            return found
    except Exception:  # whatever is wrong with it, its memory is not to be had here
        pass
    return None
