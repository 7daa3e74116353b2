"""The engine: each method is one transaction."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import lmdb

from asgi_ipc.engines.base import (
    MAX_NAME,
    MAX_PAYLOAD,
    Bell,
    Capabilities,
    Members,
    Popped,
    Record,
    Refused,
)
from asgi_ipc.engines.guards import WeakBag, own_lock
from asgi_ipc.exceptions import OptionError, Reentered, StoreCorrupt, StoreFull, StoreUnavailable

from .bells import FifoBell, signal
from .change import Change, has_room
from .opening import Opened, alone, opened
from .rows import NEVER, OVERHEAD, QueueRow, TableRow, head_of

#: Held by a thread that opens or closes an environment; taken before the lock of an `Opened`.
_lock = own_lock()


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
        self._bells: WeakBag[FifoBell] = WeakBag()
        self._numbers = itertools.count()
        self._closed = False
        if self.inside():
            raise Reentered
        try:
            with _lock, alone(folder):
                self._shared = opened.get(folder) or Opened(folder, (channel_memory, group_memory))
                opened[folder] = self._shared
                self._shared.users += 1
        except (lmdb.Error, OSError) as error:
            raise StoreUnavailable(f"the LMDB store {folder}: {error}") from error

    @classmethod
    def unavailable(cls) -> str | None:
        """None: without its module this one is not imported."""
        return None

    @contextlib.contextmanager
    def _change(self, *, is_alone: bool = False) -> Iterator[Change]:
        """Be alone in the store; all that is changed or nothing. Signals after that.

        With ``is_alone`` the caller, in `alone`, has asked `inside`.
        """
        if not is_alone and self.inside():
            raise Reentered  # E25
        shared = self._shared
        while True:
            with shared.lock, _translated():
                self._check()
                environment = shared.environment
                with shared.environment.begin(write=True) as transaction:
                    change = Change(transaction, shared.databases, self.clock())
                    shared.flushes = change.store.flushes
                    if not change.store.destroyed:
                        yield change
                        change.write_back()
                        shared.flushes = change.store.flushes
                        break
            others_out = contextlib.nullcontext() if is_alone else alone(shared.folder)
            with _lock, others_out, shared.lock, _translated():
                self._check()
                if shared.environment is environment:
                    shared.again()
        for name, path in change.ringing:
            if not signal(path, name) and not change.store.destroyed:
                with self._change() as next_one:
                    next_one.signal(name)

    @contextlib.contextmanager
    def _look(self) -> Iterator[Change]:
        """Read, whatever other processes write meanwhile."""
        if self.inside():
            raise Reentered
        with self._shared.lock, self._glance() as look:
            yield look

    @contextlib.contextmanager
    def _glance(self) -> Iterator[Change]:
        """Read; the caller holds the lock."""
        shared = self._shared
        with _translated():
            self._check()
            with shared.environment.begin() as transaction:
                yield Change(transaction, shared.databases, 0)

    def _check(self) -> None:
        if self._closed:
            raise StoreUnavailable("this LMDB engine is closed; open another")  # E21

    def inside(self) -> bool:
        """See `asgi_ipc.engines.base.Engine`, here and below.

        Of any engine here: two may share an environment.
        """
        everybody = opened.copy().values()
        return _lock._is_owned() or any(each.lock._is_owned() for each in everybody)

    @property
    def identity(self) -> bytes:
        self._check()
        return self._shared.identity

    @property
    def flushes(self) -> int:
        self._check()
        shared = self._shared
        # Who holds the lock may be waiting for another process.
        if not self.inside() and shared.lock.acquire(blocking=False):
            try:
                with self._glance() as look:
                    shared.flushes = max(shared.flushes, look.store.flushes)
            finally:
                shared.lock.release()
        return shared.flushes

    def clock(self) -> int:
        return time.monotonic_ns()

    def push(self, records: Sequence[Record]) -> list[Refused]:
        for record in records:
            _check_name(record.queue)
            if len(record.payload) > MAX_PAYLOAD:
                raise ValueError(f"a record of {len(record.payload)} bytes; at most {MAX_PAYLOAD}")
        try:
            return self._insert(records)
        except StoreFull as error:
            return [Refused(at, True, str(error)) for at in range(len(records))]

    def _insert(self, records: Sequence[Record]) -> list[Refused]:
        refused = []
        with self._change() as change:
            for at, (name, payload, deadline, capacity, _) in enumerate(records):
                queue, store = change.queue(name), change.store
                if queue.pending >= capacity:
                    detail = f"the queue holds its capacity of {capacity} records"
                    refused.append(Refused(at, False, detail))
                elif not has_room(change, queue, payload):
                    free = store.channel_memory - store.record_bytes
                    detail = (
                        f"{free} of {store.channel_memory} bytes of channel_memory are free, and"
                        f" the queue has {queue.bytes}"
                    )
                    over_share = len(payload) + OVERHEAD <= free
                    refused.append(Refused(at, True, detail, over_share))
                    change.count(queue, "store_full")
                else:
                    change.insert(name, queue.back, payload, deadline)
                    queue.back += 1
                    change.count(queue, "pushed")
                    change.signal(name)
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
            # No push comes between this look and the arming. To arm a bell that is armed
            # changes nothing (E12).
            if (
                isinstance(bell, FifoBell)
                and len(taken) < limit
                and not change.is_armed(queue, bell.path)
            ):
                key = head_of(queue) + change.changed().to_bytes(8, "big")
                change.transaction.put(key, bell.path.encode(), db=change.databases[b"bells"])
                found.bells += 1
        return taken

    def peek(self, queue: bytes) -> bool:
        self._check()
        lock = self._shared.lock
        if self.inside() or not lock.acquire(blocking=False):
            return True
        try:
            with self._glance() as look:
                value = look.transaction.get(head_of(queue), db=look.databases[b"queues"])
                # What destroyed a store may have made another one, with records.
                return bool(look.store.destroyed or (value and QueueRow(value).pending))
        finally:
            lock.release()

    def restore(self, queue: bytes, record: Popped) -> None:
        with self._change() as change:
            found = change.queue(queue)
            found.front -= 1
            change.insert(queue, found.front, record.payload, record.deadline)
            change.count(found, "popped", -1)
            if change.queue(queue).pending:
                change.signal(queue)

    def disarm(self, queue: bytes, bell: Bell) -> None:
        with self._change() as change:
            found = change.queue(queue)
            if isinstance(bell, FifoBell) and change.take_bell(queue, bell.path):
                found.bells -= 1
            elif found.pending:
                change.signal(queue)  # E14

    def bell(self) -> Bell:
        with self._change():
            pass  # Not in the folder of a store that has been destroyed.
        shared = self._shared
        with shared.lock:
            self._check()
            name = f"bell.{shared.identity.hex()}.{id(self):x}.{next(self._numbers)}"
            try:
                bell = FifoBell(os.path.join(shared.folder, name))
            except OSError as error:
                raise StoreUnavailable(f"can't make a bell: {error}") from error
            self._bells.add(bell)
            shared.bells.add(bell)
        return bell

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        _check_name(table)
        _check_name(member)
        with self._change() as change:
            found = change.table(table)
            key, members = head_of(table) + member, change.databases[b"members"]
            if found is None or change.transaction.get(key, db=members) is None:
                store = change.store
                size = len(member) + OVERHEAD
                if store.member_bytes + size > store.group_memory:
                    for name in change.names(b"tables"):
                        change.table(name)
                    found = change.table(table)
                if store.member_bytes + size > store.group_memory:
                    raise StoreFull(
                        f"{store.member_bytes} of {store.group_memory} bytes of group_memory are"
                        " in use; destroy() the store and open it larger"
                    )
                if found is None:
                    found = TableRow(None)
                    found.soonest = NEVER
                found.version = change.changed()
                found.count += 1
                store.member_bytes += size
            found.soonest = min(found.soonest, deadline)
            change.transaction.put(key, struct.pack("<q", deadline), db=members)
            change.keep(table, found)

    def remove(self, table: bytes, member: bytes) -> bool:
        with self._change() as change:
            found, key = change.table(table), head_of(table) + member
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
            value = look.transaction.get(head_of(table), db=look.databases[b"tables"])
            found = TableRow(value) if value else None
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
            result = counts.counts()
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
                queue.pending, queue.bytes, queue.soonest = 0, 0, NEVER
            for database in (b"records", b"tables", b"members"):
                change.transaction.drop(change.databases[database], delete=False)
            store = change.store
            store.pending = store.record_bytes = store.member_bytes = 0
            store.flushes += 1

    def close(self) -> None:
        if self.inside():
            raise Reentered
        with _lock, self._shared.lock:
            if self._closed:
                return
            self._closed = True
            for bell in self._bells.alive():
                bell.close()
            self._shared.users -= 1
            if not self._shared.users and opened.get(self._shared.folder) is self._shared:
                del opened[self._shared.folder]
                self._shared.environment.close()

    def destroy(self) -> None:
        self._check()
        if self.inside():
            raise Reentered
        folder = self._shared.folder
        with _lock, alone(folder):
            with self._change(is_alone=True) as change:
                change.store.destroyed = 1
                change.store.flushes += 1
                for name in change.names(b"queues"):
                    for _ in range(change.queue(name).bells):
                        change.signal(name)
            # Others go on to hear their bells, until they look and find another store.
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.unlink(folder + ".lock")
        self.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """LMDB's errors as ours."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise StoreFull(f"the LMDB map is full: {error}") from error
    except lmdb.CorruptedError as error:
        raise StoreCorrupt(f"LMDB: {error}") from error
    except (lmdb.Error, OSError) as error:
        raise StoreUnavailable(f"LMDB: {error}") from error


def _members(change: Change, name: bytes, table: TableRow | None, known: Members | None) -> Members:
    version = (change.store.made, table.version if table is not None and table.count else 0)
    if known is not None and known.version == version:
        return known
    names = tuple(member for member, _ in change.members(name)) if version[1] else ()
    return Members(names, version)


def _check_name(name: bytes) -> None:
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"name {name!r} has {len(name)} bytes; 1 to {MAX_NAME} are allowed")


def _before_fork() -> None:
    """Let no thread be in a transaction, which the child could not end."""
    _lock.acquire()
    for shared in opened.values():
        shared.lock.acquire()


def _after_fork_in_parent() -> None:
    for shared in opened.values():
        shared.lock.release()
    _lock.release()


def _after_fork_in_child() -> None:
    """Open anew: an environment is good for the process that opened it."""
    for shared in opened.values():
        shared.identity = shared.new_identity()  # E17
        shared.again()
    _after_fork_in_parent()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
