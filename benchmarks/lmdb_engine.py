"""An engine on LMDB, to see what a store that was written by hand is worth.

It keeps the contract of `asgi_ipc.engines.base` (numbers in comments are its clauses), but for
what LMDB gives no means to know: that an owner has died (capability ``owners``). LMDB commits a
change whole or not at all, and its lock is a robust mutex, so a killed process harms nobody.
Wake-ups are FIFOs, as LMDB has none. It is a peer of the benchmarks and no engine to deploy: its
map is reserved no byte at a time, so a full ``/dev/shm`` ends a process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import lmdb

from asgi_ipc.engines.base import (
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
from asgi_ipc.exceptions import OptionError, StoreFull, StoreUnavailable

_NEVER = (1 << 63) - 1
#: The first number of a queue; records that are put back get lower ones.
_MIDDLE = 1 << 62
_DATABASES = (b"store", b"queues", b"records", b"bells", b"tables", b"members")
#: The key of what the store itself keeps.
_STORE = b"s"
_COUNTS = ("pushed", "popped", "expired", "refused", "orphaned", "flushed", "high_water", "pending")
_GONE = (errno.ENXIO, errno.ENOENT, errno.EPIPE)


class _Fields:
    """Named numbers that are stored as one value."""

    NAMES: ClassVar[tuple[str, ...]]
    _packed: ClassVar[struct.Struct]

    def __init_subclass__(cls) -> None:
        cls._packed = struct.Struct(f"<{len(cls.NAMES)}q")

    def __init__(self, value: bytes | None) -> None:
        numbers = self._packed.unpack(value) if value else (0,) * len(self.NAMES)
        self.__dict__.update(zip(self.NAMES, numbers, strict=True))

    def pack(self) -> bytes:
        """As it is stored."""
        return self._packed.pack(*(self.__dict__[name] for name in self.NAMES))

    def __getattr__(self, name: str) -> int:  # For the type checker: all are in __dict__.
        raise AttributeError(name)


class _Queue(_Fields):
    NAMES = (*_COUNTS, "soonest", "front", "back", "bells")


class _Table(_Fields):
    NAMES = ("version", "soonest", "count")


class _Store(_Fields):
    NAMES = (
        *_COUNTS,
        *("flushes", "changes", "destroyed", "made"),
        *("record_bytes", "member_bytes", "channel_memory", "group_memory"),
    )


class _Change:
    """One write transaction: what it has read and must write back at its end."""

    def __init__(self, transaction: Any, databases: dict[bytes, Any], now: int) -> None:
        self.transaction, self.databases, self.now = transaction, databases, now
        self.store = _Store(transaction.get(_STORE, db=databases[b"store"]))
        self._queues: dict[bytes, _Queue] = {}
        #: Paths of the bells to ring once this is committed, by queue.
        self.ringing: list[tuple[bytes, str]] = []

    def cursor(self, name: bytes) -> Any:
        """A cursor of a database."""
        return self.transaction.cursor(db=self.databases[name])

    def queue(self, name: bytes) -> _Queue:
        """A queue, with nothing dead in it (E4)."""
        found = self._queues.get(name)
        if found is None:
            value = self.transaction.get(_key(name), db=self.databases[b"queues"])
            found = self._queues[name] = _Queue(value)
            if value is None:
                found.front = found.back = _MIDDLE
                found.soonest = _NEVER
        if self.now >= found.soonest:
            self._bury(name, found)
        return found

    def records(self, name: bytes) -> Iterator[tuple[Any, Popped, int]]:
        """A queue's records in order; what is yielded first can delete the record."""
        cursor, key = self.cursor(b"records"), _key(name)
        more = cursor.set_range(key)
        while more and cursor.key().startswith(key) and len(cursor.key()) == len(key) + 8:
            value, at = bytes(cursor.value()), bytes(cursor.key())
            deadline, pushed = struct.unpack_from("<qq", value)
            yield cursor, Popped(value[16:], deadline), pushed
            # Deleting moves on to the next.
            more = cursor.next() if bytes(cursor.key()) == at else bool(cursor.key())

    def took(self, queue: _Queue, record: Popped) -> None:
        """Account for a record that has been deleted."""
        queue.pending -= 1
        self.store.pending -= 1
        self.store.record_bytes -= len(record.payload)

    def insert(self, name: bytes, number: int, payload: bytes, deadline: int) -> None:
        """Store a record."""
        queue = self.queue(name)
        value = struct.pack("<qq", deadline, self.now) + payload
        key = _key(name) + number.to_bytes(8, "big")
        self.transaction.put(key, value, db=self.databases[b"records"])
        queue.soonest = min(queue.soonest, deadline)
        self.store.record_bytes += len(payload)
        for counts in (queue, self.store):
            counts.pending += 1
            counts.high_water = max(counts.high_water, counts.pending)

    def count(self, queue: _Queue, what: str, number: int = 1) -> None:
        """Count for the queue and the store (E20)."""
        for counts in (queue, self.store):
            counts.__dict__[what] += number

    def ring(self, name: bytes) -> None:
        """Take the bell armed first off a queue, to be rung (E13)."""
        queue = self.queue(name)
        if queue.bells:
            cursor = self.cursor(b"bells")
            if cursor.set_range(_key(name)) and cursor.key()[:-8] == _key(name):
                self.ringing.append((name, bytes(cursor.value()).decode()))
                cursor.delete()
            queue.bells -= 1

    def take_bell(self, name: bytes, path: str) -> bool:
        """Disarm a bell; whether it was armed."""
        cursor, key = self.cursor(b"bells"), _key(name)
        more = cursor.set_range(key)
        while more and cursor.key()[:-8] == key:
            if cursor.value() == path.encode():
                cursor.delete()
                return True
            more = cursor.next()
        return False

    def table(self, name: bytes) -> _Table | None:
        """A table, with nothing dead in it (E9); None if nothing is left."""
        value = self.transaction.get(_key(name), db=self.databases[b"tables"])
        table = _Table(value) if value else None
        if table is not None and self.now >= table.soonest:
            table.soonest, dead = _NEVER, []
            for member, deadline in self.members(name):
                if deadline <= self.now:
                    dead.append(member)
                else:
                    table.soonest = min(table.soonest, deadline)
            for member in dead:
                self.take_out(name, table, member)
            self.keep(name, table)
        return table if table is not None and table.count else None

    def members(self, name: bytes) -> Iterator[tuple[bytes, int]]:
        """Members and their deadlines."""
        cursor, key = self.cursor(b"members"), _key(name)
        more = cursor.set_range(key)
        while more and cursor.key().startswith(key):
            yield bytes(cursor.key())[len(key) :], struct.unpack("<q", cursor.value())[0]
            more = cursor.next()

    def take_out(self, name: bytes, table: _Table, member: bytes) -> None:
        """Remove a member."""
        self.transaction.delete(_key(name) + member, db=self.databases[b"members"])
        table.count -= 1
        self.store.member_bytes -= len(member)
        table.version = self.changed()

    def keep(self, name: bytes, table: _Table) -> None:
        """Write a table back."""
        if table.count:
            self.transaction.put(_key(name), table.pack(), db=self.databases[b"tables"])
        else:
            self.transaction.delete(_key(name), db=self.databases[b"tables"])

    def changed(self) -> int:
        """A number that is used once (E11)."""
        self.store.changes += 1
        return self.store.changes

    def names(self, database: bytes) -> list[bytes]:
        """All queues or tables."""
        return [bytes(key)[1:] for key in self.cursor(database).iternext(values=False)]

    def write_back(self) -> None:
        """Write what has changed, as the last of the transaction."""
        for name, queue in self._queues.items():
            self.transaction.put(_key(name), queue.pack(), db=self.databases[b"queues"])
        self.transaction.put(_STORE, self.store.pack(), db=self.databases[b"store"])

    def _bury(self, name: bytes, queue: _Queue) -> None:
        queue.soonest = _NEVER
        for cursor, record, _ in self.records(name):
            if record.deadline <= self.now:
                cursor.delete()
                self.took(queue, record)
                self.count(queue, "expired")
            else:
                queue.soonest = min(queue.soonest, record.deadline)


class _Fifo:
    """A bell that any process can ring that knows its path."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        #: Lest end-of-file comes.
        self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """See `asgi_ipc.engines.base.Bell`, here and below."""
        return self._reader

    def clear(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            while os.read(self._reader, 4096):
                pass

    def ring(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            os.write(self._writer, b"!")

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._reader >= 0:
                os.close(self._reader)
                os.close(self._writer)
                self._reader = self._writer = -1
                os.unlink(self.path)

    def __del__(self) -> None:
        # The constructor may have failed before there was anything to close.
        if hasattr(self, "_lock"):
            self.close()


class _Opened:
    """What all engines of one store in this process share: LMDB allows one environment."""

    def __init__(self, folder: str, sizes: tuple[int, int]) -> None:
        self.folder, self.sizes, self.users = folder, sizes, 0
        self.identity = os.urandom(IDENTITY_BYTES)
        #: Held by a thread that uses the environment, so that no other one closes it.
        self.lock = threading.RLock()
        self.environment, self.databases = self._open()

    def _open(self) -> tuple[Any, dict[bytes, Any]]:
        os.makedirs(self.folder, 0o700, exist_ok=True)
        environment = lmdb.open(
            self.folder,
            # Pages are not full, and a payload may take a page more than it needs.
            map_size=4 * sum(self.sizes) + (64 << 20),
            max_dbs=len(_DATABASES),
            max_readers=1024,
            writemap=True,
            map_async=True,
            sync=False,
            metasync=False,
        )
        databases = {name: environment.open_db(name) for name in _DATABASES}
        with environment.begin(write=True) as transaction:
            if transaction.get(_STORE, db=databases[b"store"]) is None:
                store = _Store(None)
                store.channel_memory, store.group_memory = self.sizes
                store.made = time.time_ns()
                transaction.put(_STORE, store.pack(), db=databases[b"store"])
        return environment, databases

    def again(self) -> None:
        """Open the store that has come after one that was destroyed."""
        self.environment.close()
        self.environment, self.databases = self._open()


#: By folder, of this process.
_opened: dict[str, _Opened] = {}
_lock = threading.RLock()


class LMDBEngine:
    """See the module. Options: ``directory``, the folder of the stores."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        crosses_processes=True, survives_exit=True, wakes=True, owners=False, bounded=True
    )

    def __init__(
        self,
        prefix: str,
        *,
        channel_memory: int,
        group_memory: int,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        for option, value in (("channel_memory", channel_memory), ("group_memory", group_memory)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"{option} is {value!r}; it must be a positive number of bytes")
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
        folder = os.path.join(directory or memory, f"lmdb-{prefix.encode().hex()}")
        self._bells: weakref.WeakSet[_Fifo] = weakref.WeakSet()
        self._numbers = 0
        self._closed = False
        with _lock, _alone(folder):
            try:
                self._shared = _opened.get(folder) or _Opened(
                    folder, (channel_memory, group_memory)
                )
            except (lmdb.Error, OSError) as error:
                raise StoreUnavailable(f"the LMDB store {folder}: {error}") from error
            _opened[folder] = self._shared
            self._shared.users += 1

    @classmethod
    def unavailable(cls) -> str | None:
        """None: without its module this one is not imported."""
        return None

    @contextlib.contextmanager
    def _change(self) -> Iterator[_Change]:
        """Be alone in the store; all that is changed or nothing. Rings after that."""
        shared = self._shared
        while True:
            with shared.lock:
                self._check()
                with shared.environment.begin(write=True) as transaction:
                    change = _Change(transaction, shared.databases, self.clock())
                    if not change.store.destroyed:
                        yield change
                        change.write_back()
                        break
            with _lock, _alone(shared.folder), shared.lock:
                shared.again()
        for name, path in change.ringing:
            if not _ring(path) and not change.store.destroyed:
                with self._change() as next_one:
                    next_one.ring(name)

    @contextlib.contextmanager
    def _look(self) -> Iterator[_Change]:
        """Read, whatever other processes write meanwhile."""
        shared = self._shared
        with shared.lock:
            self._check()
            with shared.environment.begin() as transaction:
                yield _Change(transaction, shared.databases, 0)

    def _check(self) -> None:
        if self._closed:
            raise StoreUnavailable("this LMDB engine is closed; open another")  # E21

    @property
    def identity(self) -> bytes:
        """See `asgi_ipc.engines.base.Engine`, here and below."""
        self._check()
        return self._shared.identity

    @property
    def flushes(self) -> int:
        with self._look() as look:
            return look.store.flushes

    def clock(self) -> int:
        return time.monotonic_ns()

    def push(self, records: Sequence[Record]) -> list[Refused]:
        for record in records:
            _check_name(record.queue)
            if len(record.payload) > MAX_PAYLOAD:
                raise ValueError(f"a record of {len(record.payload)} bytes; at most {MAX_PAYLOAD}")
        refused = []
        with self._change() as change:
            for at, (name, payload, deadline, capacity, _) in enumerate(records):
                queue, store = change.queue(name), change.store
                if queue.pending >= capacity:
                    detail = f"the queue holds its capacity of {capacity} records"
                    refused.append(Refused(at, False, detail))
                elif not _has_room(change, len(payload)):
                    detail = f"{store.record_bytes} of {store.channel_memory} bytes are in use"
                    refused.append(Refused(at, True, detail))
                else:
                    change.insert(name, queue.back, payload, deadline)
                    queue.back += 1
                    change.count(queue, "pushed")
                    change.ring(name)
                    continue
                change.count(queue, "refused")
        return refused

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        taken = []
        with self._change() as change:
            found = change.queue(queue)
            if found.pending:
                for cursor, record, _ in change.records(queue):
                    cursor.delete()
                    change.took(found, record)
                    taken.append(record)
                    if len(taken) == limit:
                        break
            change.count(found, "popped", len(taken))
            # No push comes between this look and the arming (E12).
            if isinstance(bell, _Fifo) and len(taken) < limit:
                if change.take_bell(queue, bell.path):
                    found.bells -= 1
                key = _key(queue) + change.changed().to_bytes(8, "big")
                change.transaction.put(key, bell.path.encode(), db=change.databases[b"bells"])
                found.bells += 1
        return taken

    def peek(self, queue: bytes) -> bool:
        with self._look() as look:
            value = look.transaction.get(_key(queue), db=look.databases[b"queues"])
            return value is not None and _Queue(value).pending > 0

    def restore(self, queue: bytes, record: Popped) -> None:
        with self._change() as change:
            found = change.queue(queue)
            found.front -= 1
            change.insert(queue, found.front, record.payload, record.deadline)
            change.count(found, "popped", -1)
            if change.queue(queue).pending:
                change.ring(queue)

    def disarm(self, queue: bytes, bell: Bell) -> None:
        with self._change() as change:
            found = change.queue(queue)
            if isinstance(bell, _Fifo) and change.take_bell(queue, bell.path):
                found.bells -= 1
            elif found.pending:
                change.ring(queue)  # E14

    def bell(self) -> Bell:
        self._check()
        with _lock:
            self._numbers += 1
            name = f"bell.{self._shared.identity.hex()}.{id(self):x}.{self._numbers}"
            bell = _Fifo(os.path.join(self._shared.folder, name))
            self._bells.add(bell)
        return bell

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        _check_name(table)
        _check_name(member)
        with self._change() as change:
            found = change.table(table)
            key, members = _key(table) + member, change.databases[b"members"]
            if found is None or change.transaction.get(key, db=members) is None:
                store = change.store
                if store.member_bytes + len(member) > store.group_memory:
                    for name in change.names(b"tables"):
                        change.table(name)
                    found = change.table(table)
                if store.member_bytes + len(member) > store.group_memory:
                    raise StoreFull(
                        f"{store.member_bytes} of {store.group_memory} bytes of group_memory are"
                        " in use; destroy() the store and open it larger"
                    )
                if found is None:
                    found = _Table(None)
                    found.soonest = _NEVER
                found.version = change.changed()
                found.count += 1
                store.member_bytes += len(member)
            found.soonest = min(found.soonest, deadline)
            change.transaction.put(key, struct.pack("<q", deadline), db=members)
            change.keep(table, found)

    def remove(self, table: bytes, member: bytes) -> bool:
        with self._change() as change:
            found, key = change.table(table), _key(table) + member
            if (
                found is None
                or change.transaction.get(key, db=change.databases[b"members"]) is None
            ):
                return False
            change.take_out(table, found, member)
            change.keep(table, found)
            return True

    def members(self, table: bytes, known: Members | None = None) -> Members:
        with self._look() as look:
            value = look.transaction.get(_key(table), db=look.databases[b"tables"])
            found = _Table(value) if value else None
            if not look.store.destroyed and (found is None or self.clock() < found.soonest):
                return _members(look, table, found, known)
        with self._change() as change:
            return _members(change, table, change.table(table), known)

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        with self._change() as change:
            names = change.names(b"queues") if queue is None else [queue]
            queues = {name: change.queue(name) for name in names}
            pushed = [
                next(change.records(name))[2] for name, each in queues.items() if each.pending
            ]
            counts = change.store if queue is None else queues[queue]
            result = {name: counts.__dict__[name] for name in _COUNTS}
            result["oldest_age"] = change.now - min(pushed, default=change.now)
            if queue is None:
                tables = [change.table(name) for name in change.names(b"tables")]
                store = change.store
                result["queues"] = sum(1 for each in queues.values() if each.pending)
                result["members"] = sum(each.count for each in tables if each is not None)
                result["bytes_used"] = store.record_bytes + store.member_bytes
                result["bytes_total"] = store.channel_memory + store.group_memory
                result["recoveries"] = 0
        return result

    def flush(self) -> None:
        with self._change() as change:
            for name in change.names(b"queues"):
                queue = change.queue(name)
                change.count(queue, "flushed", queue.pending)
                queue.pending, queue.soonest = 0, _NEVER
            for database in (b"records", b"tables", b"members"):
                change.transaction.drop(change.databases[database], delete=False)
            store = change.store
            store.pending = store.record_bytes = store.member_bytes = 0
            store.flushes += 1

    def close(self) -> None:
        with _lock, self._shared.lock:
            if self._closed:
                return
            self._closed = True
            for bell in list(self._bells):
                bell.close()
            self._shared.users -= 1
            if not self._shared.users and _opened.get(self._shared.folder) is self._shared:
                del _opened[self._shared.folder]
                self._shared.environment.close()

    def destroy(self) -> None:
        folder = self._shared.folder
        with _lock, _alone(folder):
            with self._change() as change:
                change.store.destroyed = 1
                change.store.flushes += 1
                for name in change.names(b"queues"):
                    for _ in range(change.queue(name).bells):
                        change.ring(name)
            # Others go on to hear their bells, until they look and find another store.
            shutil.rmtree(folder, ignore_errors=True)
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(folder + ".lock")


def _members(change: _Change, name: bytes, table: _Table | None, known: Members | None) -> Members:
    version = (change.store.made, table.version if table is not None and table.count else 0)
    if known is not None and known.version == version:
        return known
    names = tuple(member for member, _ in change.members(name)) if version[1] else ()
    return Members(names, version)


def _has_room(change: _Change, size: int) -> bool:
    """Whether a record fits, once the dead have made room for it (E4)."""
    if change.store.record_bytes + size > change.store.channel_memory:
        for name in change.names(b"queues"):
            change.queue(name)
    return change.store.record_bytes + size <= change.store.channel_memory


def _ring(path: str) -> bool:
    """Ring a bell; False if nobody hears it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        return error.errno not in _GONE
    try:
        os.write(descriptor, b"!")
    except OSError as error:
        return error.errno not in _GONE
    finally:
        os.close(descriptor)
    return True


def _key(name: bytes) -> bytes:
    """A name as the head of a key, none of which begins another."""
    return bytes((len(name),)) + name


def _check_name(name: bytes) -> None:
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"name {name!r} has {len(name)} bytes; 1 to {MAX_NAME} are allowed")


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep others from making or removing the store."""
    descriptor = os.open(folder + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _after_fork_in_child() -> None:
    """Open anew: an environment must not be used, nor closed, by a child."""
    global _lock
    _lock = threading.RLock()
    for shared in _opened.values():
        shared.identity = os.urandom(IDENTITY_BYTES)
        shared.lock = threading.RLock()
        _inherited.append(shared.environment)
        shared.environment, shared.databases = shared._open()


_inherited: list[Any] = []
os.register_at_fork(after_in_child=_after_fork_in_child)
