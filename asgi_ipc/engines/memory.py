"""The readable engine: dicts and deques under one lock, for one process.

Read this first to see what the clauses of `asgi_ipc.engines.base` mean; the comments cite them by
number. It is also a test double for applications: no file, no shared memory, and a clock that a
test may set. All engines of one prefix in a process share one store, which is removed when the last
of them is closed. A call in the middle of another one of the same thread raises `Reentered` (E25).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from ..exceptions import OptionError, Reentered, StoreFull, StoreUnavailable
from .base import (
    COUNTERS,
    GAUGES,
    IDENTITY_BYTES,
    LOOK_BYTES,
    LOOK_RECORDS,
    MAX_NAME,
    MAX_PAYLOAD,
    NODE_BYTES,
    ROLES,
    SHARE,
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
from .bell import PipeBell, signal_for
from .deferred import tell_outside
from .guards import OwnLock, WeakBag, own_lock
from .own_counts import OwnCounts
from .process_hints import readable, start_ticks, start_time

_log = logging.getLogger(__name__)

#: The sizes stay while any layer has the store open.
_ENLARGE = "enlarge {0}: close() all layers on the store, which drops it, and open it larger"
#: A deadline that no clock reaches.
_NEVER = 1 << 63
#: Versions of tables. None is used twice, so an old answer never passes for a new one (E11).
_versions = itertools.count(1)


class _Entry(NamedTuple):
    payload: bytes
    deadline: int
    pushed: int


class _Queue:
    """Records, oldest first, and the bells of receivers that wait for more."""

    def __init__(self, name: bytes = b"") -> None:
        self.name = name
        self.entries: deque[_Entry] = deque()
        self.bytes = 0
        self.soonest = _NEVER  # No entry dies before this.
        self.in_order = True  # No entry dies before one in front of it.
        self.bells: deque[PipeBell] = deque()  # First armed first; none twice.
        self.owner = b""
        self.counts: Counter[str] = Counter()

    def age(self, now: int) -> int:
        """Return the age of the oldest record."""
        return now - min((entry.pushed for entry in self.entries), default=now)


class _Table:
    """Members and their deadlines."""

    def __init__(self) -> None:
        self.members: dict[bytes, int] = {}
        self.soonest = _NEVER
        self.version = next(_versions)


class _Store:
    """The store that all engines of one prefix share. Call every method with `lock` held."""

    def __init__(self, channel_memory: int, group_memory: int, clock: Callable[[], int]) -> None:
        self.channel_memory, self.group_memory, self.clock = channel_memory, group_memory, clock
        #: By engine: called with a queue and how many of its records have expired. One is enough.
        self.watchers: dict[int, Callable[[bytes, int], object]] = {}
        self.flushes = 0
        #: How often it was made anew.
        self.made = 0
        self._reset()

    def after_fork_in_child(self) -> None:
        """Reset the store in a forked child, where no other thread can be inside."""
        self._reset()

    def _reset(self) -> None:
        #: That of all stores of the process: with one for each, two threads could each wait for
        #: the other's, as a finalizer in the middle of one store's methods uses another store.
        self.lock = _lock
        #: With these the identities of its engines begin (E17).
        self.node = os.urandom(NODE_BYTES)
        #: The engines that hold roles (E32).
        self.roles: weakref.WeakValueDictionary[int, MemoryEngine] = weakref.WeakValueDictionary()
        self.flushes += 1
        self.forget()

    def exclusive(self) -> OwnLock:
        """Return the lock, to be held with ``with``.

        Raises `Reentered` if this thread holds it already: then Python runs other code in the
        middle of a method, and half of a change is made.
        """
        lock = self.lock
        if lock._is_owned():
            raise Reentered
        return lock

    def engines(self) -> list[MemoryEngine]:
        """Return the engines that have it open."""
        return [engine for engine in _engines.alive() if engine._opened is self]

    def noted(self) -> Counter[str]:
        """Return the sums of what engines have noted, those that are closed included (E31)."""
        while self.closed_notes:
            noted = self.closed_notes.popleft()
            self.left_counts.update({kind: noted[kind] for kind in COUNTERS})
        total = self.left_counts.copy()
        for engine in self.engines():
            total.update(engine.noted())
        return total

    def forget(self) -> None:
        """Drop all records, members, bells and counts."""
        self.made += 1
        self.queues: dict[bytes, _Queue] = {}
        self.tables: dict[bytes, _Table] = {}
        self.counts: Counter[str] = Counter()
        #: What engines that are closed have noted (E31): the sums, and what is to be added yet.
        self.left_counts: Counter[str] = Counter()
        self.closed_notes: deque[dict[str, int]] = deque()
        self.record_bytes = self.member_bytes = self.pending = 0
        self.sweep_at = 64  # See `queue`.
        # A change that has begun and not ended; if no thread is inside, an exception ended it.
        self.changing = False

    def repair(self) -> None:
        """Make the sums agree with records and members, after an exception amid a change."""
        self.record_bytes = self.member_bytes = self.pending = 0
        for queue in self.queues.values():
            queue.bytes = sum(len(entry.payload) for entry in queue.entries)
            queue.soonest = min((entry.deadline for entry in queue.entries), default=_NEVER)
            self.record_bytes += queue.bytes
            self.pending += len(queue.entries)
        for table in self.tables.values():
            table.version = next(_versions)
            table.soonest = min(table.members.values(), default=_NEVER)
            self.member_bytes += sum(map(len, table.members))
        self.changing = False

    def queue(self, name: bytes, now: int) -> _Queue:
        """Return the queue of that name, made if need be, without dead records (E4)."""
        if self.changing:
            self.repair()
        found = self.queues.get(name)
        if found is None:
            # Idle queues are kept for their counts, but not for ever: each name of a
            # closed connection would stay. To sweep at each doubling costs next to nothing.
            if len(self.queues) >= self.sweep_at:
                for each in self.queues.values():
                    if each.bells:
                        each.bells = deque(bell for bell in each.bells if bell.fileno() >= 0)
                self.queues = {n: q for n, q in self.queues.items() if q.entries or q.bells}
                self.sweep_at = max(64, 2 * len(self.queues))
            found = self.queues[name] = _Queue(name)
        self.bury(found, now)
        return found

    def bury(self, queue: _Queue, now: int) -> None:
        """Remove the records whose deadline has passed, wherever in the queue they are."""
        if now < queue.soonest:
            return
        self.changing = True
        entries = queue.entries
        if queue.in_order:
            # A long queue may lose an entry at each look, so the others are not looked at.
            dead = list(itertools.takewhile(lambda entry: entry.deadline <= now, entries))
            self.count(queue, "expired", len(dead))
            self.left(queue, dead)
            for _ in dead:
                entries.popleft()
            queue.soonest = entries[0].deadline if entries else _NEVER
        else:
            live = deque(entry for entry in entries if entry.deadline > now)
            dead = [entry for entry in entries if entry.deadline <= now]
            self.count(queue, "expired", len(dead))
            self.left(queue, dead)
            queue.entries = live  # In one step: `peek` takes no lock.
            queue.soonest = min((entry.deadline for entry in live), default=_NEVER)
            queue.in_order = not live
        self.changing = False
        for tell in list(self.watchers.values())[:1] if dead else ():
            tell(queue.name, len(dead))

    def left(self, queue: _Queue, entries: Sequence[_Entry]) -> None:
        """Count what these records took as free."""
        size = sum(len(entry.payload) for entry in entries)
        queue.bytes -= size
        self.record_bytes -= size
        self.pending -= len(entries)

    def insert(self, queue: _Queue, entry: _Entry, front: bool = False) -> None:
        """Add a record."""
        self.changing = True
        if not queue.entries:
            queue.in_order = True
        elif front:
            queue.in_order &= entry.deadline <= queue.entries[0].deadline
        else:
            queue.in_order &= entry.deadline >= queue.entries[-1].deadline
        if front:
            queue.entries.appendleft(entry)
        else:
            queue.entries.append(entry)
        queue.soonest = min(queue.soonest, entry.deadline)
        queue.bytes += len(entry.payload)
        self.record_bytes += len(entry.payload)
        self.pending += 1
        self.changing = False

    def drop(self, queue: _Queue) -> None:
        """Take all records out."""
        self.changing = True
        self.left(queue, queue.entries)
        queue.entries.clear()
        queue.soonest = _NEVER
        self.changing = False

    def room(self, queue: _Queue, size: int, now: int) -> tuple[bool, bool]:
        """Return whether a record fits and its queue may have it, without dead records (E4)."""

        def look() -> tuple[bool, bool]:
            free = self.channel_memory - self.record_bytes - size
            return free >= 0, queue.bytes + size <= SHARE * free  # E7

        if not all(look()):
            for each in self.queues.values():
                self.bury(each, now)
        return look()

    def signal(self, name: bytes, queue: _Queue) -> None:
        """Signal the bell armed first, skipping closed ones (E13)."""
        while queue.bells:
            if queue.bells.popleft().try_signal(signal_for(name)):
                return

    def count(self, queue: _Queue, what: str, number: int = 1) -> None:
        """Count for the queue and for the store (E20)."""
        queue.counts[what] += number
        self.counts[what] += number

    def table(self, name: bytes, now: int) -> _Table | None:
        """Return the table of that name without dead members, or None if it has no others (E9)."""
        if self.changing:
            self.repair()
        found = self.tables.get(name)
        if found is not None and now >= found.soonest:
            dead = [member for member, deadline in found.members.items() if deadline <= now]
            for member in dead:
                self.take_out(name, found, member)
            found.soonest = min(found.members.values(), default=_NEVER)
        return found if found is not None and found.members else None

    def take_out(self, name: bytes, table: _Table, member: bytes) -> None:
        """Remove a member, and its table with the last one."""
        self.changing = True
        del table.members[member]
        table.version = next(_versions)
        self.member_bytes -= len(member)
        if not table.members:
            del self.tables[name]
        self.changing = False


#: The stores of this process. Weak: a store lives as long as an engine has it open.
_stores: weakref.WeakValueDictionary[str, _Store] = weakref.WeakValueDictionary()
#: One that a finalizer may take again: what it guards is one look and one entry.
_stores_lock = threading.RLock()
_lock = own_lock()


def _after_fork_in_child() -> None:
    """Give a forked child new stores (E17, E18), as another thread may have been inside these."""
    global _lock, _stores_lock
    _lock, _stores_lock = own_lock(), threading.RLock()
    for store in list(_stores.values()):
        store.after_fork_in_child()
    for engine in _engines.alive():
        opened = engine._opened
        engine._identity = _new_identity(opened.node if opened is not None else b"")
        engine._notes.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


_engines: WeakBag[MemoryEngine] = WeakBag()


class MemoryEngine:
    """Queues and tables in the memory of one process. See `asgi_ipc.engines.base.Engine`.

    ``channel_memory`` and ``group_memory`` bound the bytes of payloads and of member
    names. ``clock`` gives nanoseconds; a test may pass its own.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        crosses_processes=False,
        survives_exit=False,
        wakes=True,
        owners=False,
        bounded=True,
        roles=True,
        inspects=True,
    )

    def __init__(
        self,
        prefix: str,
        *,
        channel_memory: int,
        group_memory: int,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        for option, value in (("channel_memory", channel_memory), ("group_memory", group_memory)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"{option} is {value!r}; it must be a positive number of bytes")
        if not callable(clock):
            raise OptionError(f"clock is {clock!r}; it must be callable and return nanoseconds")
        self._bells: WeakBag[PipeBell] = WeakBag()
        #: What was last noted. A deque, as two threads that close an engine pop it once.
        self._notes: deque[dict[str, int]] = deque(maxlen=1)
        self._own_counts = OwnCounts()
        # Not to be made while the lock is held: a collection may come between.
        made = _Store(channel_memory, group_memory, clock)
        with _stores_lock:
            store = _stores.get(prefix)
            if store is None:
                store = _stores[prefix] = made
        self._opened: _Store | None = store
        self._prefix = prefix
        self._identity = _new_identity(store.node)
        tell_outside(
            _log.info, "%s the memory store %r", "made" if store is made else "opened", prefix
        )
        self._joined = store.clock()
        _engines.add(self)
        if (channel_memory, group_memory) != (store.channel_memory, store.group_memory):
            _log.warning(
                "memory store %r keeps channel_memory=%d, group_memory=%d, with which it was made; "
                "to change them, close() all layers on it and open it again",
                prefix,
                store.channel_memory,
                store.group_memory,
            )

    @classmethod
    def unavailable(cls) -> str | None:
        """Return None: it works on every machine."""
        return None

    @property
    def _store(self) -> _Store:
        store = self._opened
        if store is None:
            raise StoreUnavailable("this memory engine is closed; open another")  # E21
        return store

    def watch_expiry(self, tell: Callable[[bytes, int], object] | None) -> None:
        """Call ``tell`` with the queue and number of records that expire."""
        store = self._opened
        if store is not None and tell is not None:
            store.watchers[id(self)] = tell
        elif store is not None:
            store.watchers.pop(id(self), None)

    @property
    def identity(self) -> bytes:
        """Of this engine: another one of the same prefix has the same first bytes alone (E17)."""
        self._store  # noqa: B018 (raises once it is closed)
        return self._identity

    def inside(self) -> bool:
        """Return whether the calling thread is in the middle of a method."""
        store = self._opened
        return store is not None and store.lock._is_owned()

    @property
    def flushes(self) -> int:
        """How often the store was emptied: by `flush`, `destroy`, or by being forked."""
        return self._store.flushes

    def clock(self) -> int:
        """Return the time in nanoseconds."""
        return self._store.clock()

    def push(self, records: Sequence[Record]) -> list[Refused]:
        """Store what there is room for, and say what there is not."""
        for record in records:
            _check_name("queue", record.queue)
            if len(record.payload) > MAX_PAYLOAD:
                raise ValueError(
                    f"a record has {len(record.payload)} bytes; push at most {MAX_PAYLOAD}"
                )
        refused = []
        store = self._store
        with store.exclusive():
            now = store.clock()
            for index, record in enumerate(records):
                queue = store.queue(record.queue, now)
                if len(queue.entries) >= record.capacity:
                    detail = f"the queue holds {len(queue.entries)} of {record.capacity} records"
                    refused.append(Refused(index, False, detail))
                    store.count(queue, "refused")
                elif not all(room := store.room(queue, len(record.payload), now)):
                    detail = (
                        f"there is no room for {len(record.payload)} bytes: channel_memory has"
                        f" {store.record_bytes} of {store.channel_memory} in use, {queue.bytes} by"
                        f" this queue, which may have {SHARE} times what it leaves free; read it"
                        f" faster, or {_ENLARGE.format('channel_memory')}"
                    )
                    refused.append(Refused(index, True, detail, over_share=room[0]))
                    store.count(queue, "refused")
                    store.count(queue, "store_full")
                else:
                    queue.owner = record.owner or queue.owner
                    store.insert(queue, _Entry(bytes(record.payload), record.deadline, now))
                    store.count(queue, "pushed")
                    for counts, pending in (
                        (queue.counts, len(queue.entries)),
                        (store.counts, store.pending),
                    ):
                        counts["high_water"] = max(counts["high_water"], pending)
                    store.signal(record.queue, queue)
        return refused

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """Take the oldest records; if they are fewer than asked, arm the bell."""
        store = self._store
        with store.exclusive():
            found = store.queue(queue, store.clock())
            store.changing = True
            taken = [found.entries.popleft() for _ in range(min(limit, len(found.entries)))]
            store.left(found, taken)
            store.changing = False
            store.count(found, "popped", len(taken))
            # Still under the lock: no push comes between this look and the arming (E12).
            if bell is not None and len(taken) < limit and bell not in found.bells:
                found.bells.append(_ours(bell))
        return [Popped(entry.payload, entry.deadline) for entry in taken]

    def peek(self, queue: bytes) -> bool:
        """Return whether there is a record, dead or alive (E24)."""
        found = self._store.queues.get(queue)
        return found is not None and bool(found.entries)

    def restore(self, queue: bytes, record: Popped) -> None:
        """Put a record back in front; it counts as never popped."""
        store = self._store
        with store.exclusive():
            now = store.clock()
            found = store.queue(queue, now)
            store.insert(found, _Entry(record.payload, record.deadline, now), front=True)
            store.count(found, "popped", -1)
            store.count(found, "restored", 1)
            store.bury(found, now)  # It may have died in the caller's hands.
            if found.entries:
                store.signal(queue, found)

    def disarm(self, queue: bytes, bell: Bell) -> None:
        """Take a bell off a queue; pass a signal on that it has had already (E14)."""
        store = self._store
        with store.exclusive():
            found = store.queue(queue, store.clock())
            if bell in found.bells:
                found.bells.remove(_ours(bell))
            elif found.entries:
                store.signal(queue, found)  # E14

    def bell(self) -> Bell:
        """Return a pipe."""
        self._store  # noqa: B018 (raises once it is closed)
        bell = PipeBell()
        self._bells.add(bell)
        if self._opened is None:
            bell.close()  # By another thread, just now.
        return bell

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        """Add or renew a member. Its owner is this process or none, which makes no difference."""
        _check_name("table", table)
        _check_name("member", member)
        store = self._store
        with store.exclusive():
            now = store.clock()
            found = store.table(table, now)
            if found is None or member not in found.members:
                if store.member_bytes + len(member) > store.group_memory:
                    for name in list(store.tables):
                        store.table(name, now)  # Which drops the dead.
                if store.member_bytes + len(member) > store.group_memory:
                    raise StoreFull(
                        f"{store.member_bytes} of {store.group_memory} bytes of group_memory are in"
                        f" use, with no room for {len(member)} more;"
                        f" {_ENLARGE.format('group_memory')}"
                    )
                store.changing = True
                found = store.tables.setdefault(table, _Table())
                found.version = next(_versions)
                store.member_bytes += len(member)
            found.members[member] = deadline
            found.soonest = min(found.soonest, deadline)
            store.changing = False

    def remove(self, table: bytes, member: bytes) -> bool:
        """Take a member out."""
        store = self._store
        with store.exclusive():
            found = store.table(table, store.clock())
            if found is None or member not in found.members:
                return False
            store.take_out(table, found, member)
            return True

    def members(self, table: bytes, known: Members | None = None) -> Members:
        """Return the members, or the caller's ``known`` if they are unchanged."""
        store = self._store
        with store.exclusive():
            found = store.table(table, store.clock())
            version = found.version if found is not None else 0
            if known is not None and known.version == version:
                return known
            return Members(tuple(found.members) if found is not None else (), version)

    def hold(self, role: int) -> bool:
        """Take a role, unless another engine has it (E32)."""
        role, store = checked_role(role), self._store
        with store.exclusive():
            holder = store.roles.get(role)
            if holder is None:
                store.roles[role] = holder = self
            return holder is self

    def release(self, role: int) -> None:
        """Give up a role (E32)."""
        role, store = checked_role(role), self._store
        with store.exclusive():
            if store.roles.get(role) is self:
                del store.roles[role]

    def is_held(self, role: int) -> bool:
        """Return whether an engine has a role (E32)."""
        return checked_role(role) in self._store.roles

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        """Return the counts of `asgi_ipc.engines.base.Engine.statistics`, and two more."""
        store = self._store
        with store.exclusive():
            now = store.clock()
            if store.changing:
                store.repair()
            for each in store.queues.values():
                store.bury(each, now)
            if queue is None:
                queues, counts = list(store.queues.values()), store.counts
            else:
                one = store.queues.get(queue, _Queue())
                queues, counts = [one], one.counts
            kinds = ("pushed", "popped", "expired", "refused", "store_full", "orphaned")
            more = ("high_water", "flushed", "restored")
            result = {kind: counts[kind] for kind in (*kinds, *more)}
            result["pending"] = sum(len(each.entries) for each in queues)
            result["oldest_age"] = max((each.age(now) for each in queues), default=0)
            if queue is not None:
                result["bytes"] = queues[0].bytes
            else:
                for name in list(store.tables):
                    store.table(name, now)
                result["queues"] = sum(1 for each in queues if each.entries)
                result["members"] = sum(len(table.members) for table in store.tables.values())
                result["bytes_used"] = store.record_bytes + store.member_bytes
                result["bytes_total"] = store.channel_memory + store.group_memory
                result["recoveries"] = 0  # Who is killed in here takes the store along.
                for memory, used, total in (
                    ("channel", store.record_bytes, store.channel_memory),
                    ("group", store.member_bytes, store.group_memory),
                ):
                    result[f"{memory}_bytes_used"] = result[f"{memory}_bytes_reserved"] = used
                    result[f"{memory}_bytes_total"] = total
                result["processes"] = len(store.engines())
                noted = store.noted()
                result |= {kind: noted[kind] for kind in (*COUNTERS, *GAUGES)}
        return result

    def queues(self) -> Iterator[QueueInfo]:
        """Yield the queues that there are now, each as it is when its turn comes."""
        store = self._store
        with store.exclusive():
            names = list(store.queues)
        return self._queues_named(names)

    def _queues_named(self, names: list[bytes]) -> Iterator[QueueInfo]:
        for name in names:
            store = self._store
            with store.exclusive():
                now = store.clock()
                if name not in store.queues:
                    continue
                queue = store.queue(name, now)
                counts = queue.counts
                info = QueueInfo(
                    name=name,
                    pending=len(queue.entries),
                    bytes=queue.bytes,
                    oldest_age=queue.age(now),
                    high_water=counts["high_water"],
                    pushed=counts["pushed"],
                    popped=counts["popped"],
                    expired=counts["expired"],
                    refused=counts["refused"],
                    waiting=any(bell.fileno() >= 0 for bell in queue.bells),
                    owner=queue.owner,
                )
            yield info  # With the lock released (E30).

    def tables(self) -> Iterator[TableInfo]:
        """Yield the tables that there are now, each as it is when its turn comes."""
        store = self._store
        with store.exclusive():
            names = list(store.tables)
        return self._tables_named(names)

    def _tables_named(self, names: list[bytes]) -> Iterator[TableInfo]:
        for name in names:
            store = self._store
            with store.exclusive():
                found = store.table(name, store.clock())
                members = len(found.members) if found is not None else 0
            if members:
                yield TableInfo(name, members)

    def processes(self) -> Iterator[ProcessInfo]:
        """Yield the engines on the store: each has an identity, as a process has elsewhere."""
        store = self._store
        found = []
        with store.exclusive():
            now = store.clock()
            for engine in store.engines():
                bells = engine._bells.alive()
                found.append(
                    ProcessInfo(
                        identity=engine._identity,
                        pid=os.getpid(),
                        started=start_time(start_ticks()),
                        command=readable(" ".join(sys.orig_argv)),
                        joined_age=now - engine._joined,
                        waits_for=tuple(
                            name
                            for name, queue in store.queues.items()
                            if any(bell in queue.bells for bell in bells)
                        ),
                        counts={
                            **engine.noted(),
                            "fetched": sum(
                                queue.counts["popped"]
                                for queue in store.queues.values()
                                if queue.owner == engine._identity
                            ),
                        },
                    )
                )
        return iter(found)

    def look(self, queue: bytes, limit: int = LOOK_RECORDS) -> list[Popped]:
        """Return the oldest records, which stay."""
        store = self._store
        found: list[Popped] = []
        with store.exclusive():
            if queue in store.queues:
                room = LOOK_BYTES
                entries = store.queue(queue, store.clock()).entries
                for entry in itertools.islice(entries, max(0, min(limit, LOOK_RECORDS))):
                    room -= len(entry.payload)
                    if found and room < 0:
                        break
                    found.append(Popped(entry.payload, entry.deadline))
        return found

    def note(self, counts: Mapping[str, int]) -> None:
        """Keep the counts until the engine is closed, and its counters longer (E31)."""
        store = self._store
        noted = {kind: counts.get(kind, 0) for kind in (*COUNTERS, *GAUGES)}
        with store.exclusive():
            store.noted()  # Adds up what closed engines left.
            self._notes.append(self._own_counts.in_store(store.made, noted))

    def noted(self) -> dict[str, int]:
        """Return what this engine has noted of itself."""
        return next(iter(self._notes), dict.fromkeys((*COUNTERS, *GAUGES), 0))

    def flush(self) -> None:
        """Drop records and members. The bells stay armed, so receivers go on waiting."""
        store = self._store
        with store.exclusive():
            for queue in store.queues.values():
                store.count(queue, "flushed", len(queue.entries))
                store.drop(queue)
            store.changing = True
            store.tables.clear()
            store.repair()
            store.flushes += 1

    def close(self) -> None:
        """Release the store, the roles held and the bells made here."""
        store, self._opened = self._opened, None
        if store is not None:
            # One step for each, without the lock: a finalizer may be the caller.
            for role in range(ROLES):
                if store.roles.get(role) is self:
                    store.roles.pop(role, None)
            if self._notes:
                with contextlib.suppress(IndexError):  # Another thread closes it, too.
                    store.closed_notes.append(self._notes.pop())
            tell_outside(_log.info, "left the memory store %r", self._prefix)
        for bell in self._bells.alive():
            bell.close()

    def destroy(self) -> None:
        """Empty the store, wake the receivers of other engines on it, and close."""
        store = self._store
        with store.exclusive():
            for queue in store.queues.values():
                for bell in queue.bells:
                    bell.signal()  # What they are armed on is gone; they must look again.
            store.forget()
            store.flushes += 1
            for engine in store.engines():
                engine._notes.clear()
        self.close()


def _new_identity(node: bytes) -> bytes:
    return node + os.urandom(IDENTITY_BYTES - len(node))


def _check_name(kind: str, name: bytes) -> None:
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"{kind} name {name!r} has {len(name)} bytes; use 1 to {MAX_NAME}")


def _ours(bell: Bell) -> PipeBell:
    if not isinstance(bell, PipeBell):
        raise TypeError(f"{bell!r} is not a bell of this engine; get one from bell()")
    return bell
