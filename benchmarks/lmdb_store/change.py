"""One change of the store: a write transaction, and what it does with queues and tables."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from asgi_ipc.engines.base import SHARE, Popped

from .rows import MIDDLE, NEVER, OVERHEAD, STORE, QueueRow, StoreRow, TableRow, head_of


class Change:
    """One write transaction: what it has read and must write back at its end."""

    def __init__(self, transaction: Any, databases: dict[bytes, Any], now: int) -> None:
        self.transaction, self.databases, self.now = transaction, databases, now
        self.store = StoreRow(transaction.get(STORE, db=databases[b"store"]))
        self._queues: dict[bytes, QueueRow] = {}
        #: Paths of the bells to signal once this is committed, by queue.
        self.ringing: list[tuple[bytes, str]] = []

    def cursor(self, name: bytes) -> Any:
        """A cursor of a database."""
        return self.transaction.cursor(db=self.databases[name])

    def queue(self, name: bytes) -> QueueRow:
        """A queue, with nothing dead in it (E4)."""
        found = self._queues.get(name)
        if found is None:
            value = self.transaction.get(head_of(name), db=self.databases[b"queues"])
            found = self._queues[name] = QueueRow(value)
            if value is None:
                found.front = found.back = MIDDLE
                found.soonest = NEVER
        if self.now >= found.soonest:
            self._bury(name, found)
        return found

    def records(self, name: bytes) -> Iterator[tuple[Any, Popped, int]]:
        """A queue's records in order; what is yielded first can delete the record."""
        cursor, key = self.cursor(b"records"), head_of(name)
        more = cursor.set_range(key)
        while more and cursor.key().startswith(key) and len(cursor.key()) == len(key) + 8:
            value, at = bytes(cursor.value()), bytes(cursor.key())
            deadline, pushed = struct.unpack_from("<qq", value)
            yield cursor, Popped(value[16:], deadline), pushed
            # Deleting moves on to the next.
            more = cursor.next() if bytes(cursor.key()) == at else bool(cursor.key())

    def took(self, queue: QueueRow, record: Popped) -> None:
        """Account for a record that has been deleted."""
        queue.pending -= 1
        self.store.pending -= 1
        queue.bytes -= len(record.payload) + OVERHEAD
        self.store.record_bytes -= len(record.payload) + OVERHEAD

    def insert(self, name: bytes, number: int, payload: bytes, deadline: int) -> None:
        """Store a record."""
        queue = self.queue(name)
        value = struct.pack("<qq", deadline, self.now) + payload
        key = head_of(name) + number.to_bytes(8, "big")
        self.transaction.put(key, value, db=self.databases[b"records"])
        queue.soonest = min(queue.soonest, deadline)
        queue.bytes += len(payload) + OVERHEAD
        self.store.record_bytes += len(payload) + OVERHEAD
        for counts in (queue, self.store):
            counts.pending += 1
            counts.high_water = max(counts.high_water, counts.pending)

    def count(self, queue: QueueRow, what: str, number: int = 1) -> None:
        """Count for the queue and the store (E20)."""
        queue.count(what, number)
        self.store.count(what, number)

    def signal(self, name: bytes) -> None:
        """Take the bell armed first off a queue, to be signalled (E13)."""
        queue = self.queue(name)
        if queue.bells:
            cursor = self.cursor(b"bells")
            if cursor.set_range(head_of(name)) and cursor.key()[:-8] == head_of(name):
                self.ringing.append((name, bytes(cursor.value()).decode()))
                cursor.delete()
            queue.bells -= 1

    def is_armed(self, name: bytes, path: str) -> bool:
        """Whether a bell is armed on a queue."""
        return self._find_bell(name, path) is not None

    def take_bell(self, name: bytes, path: str) -> bool:
        """Disarm a bell; whether it was armed."""
        found = self._find_bell(name, path)
        if found is not None:
            found.delete()
        return found is not None

    def _find_bell(self, name: bytes, path: str) -> Any:
        cursor, key = self.cursor(b"bells"), head_of(name)
        more = cursor.set_range(key)
        while more and cursor.key()[:-8] == key:
            if cursor.value() == path.encode():
                return cursor
            more = cursor.next()
        return None

    def table(self, name: bytes) -> TableRow | None:
        """A table, with nothing dead in it (E9); None if nothing is left."""
        value = self.transaction.get(head_of(name), db=self.databases[b"tables"])
        table = TableRow(value) if value else None
        if table is not None and self.now >= table.soonest:
            table.soonest, dead = NEVER, []
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
        cursor, key = self.cursor(b"members"), head_of(name)
        more = cursor.set_range(key)
        while more and cursor.key().startswith(key):
            yield bytes(cursor.key())[len(key) :], struct.unpack("<q", cursor.value())[0]
            more = cursor.next()

    def take_out(self, name: bytes, table: TableRow, member: bytes) -> None:
        """Remove a member."""
        self.transaction.delete(head_of(name) + member, db=self.databases[b"members"])
        table.count -= 1
        self.store.member_bytes -= len(member) + OVERHEAD
        table.version = self.changed()

    def keep(self, name: bytes, table: TableRow) -> None:
        """Write a table back."""
        if table.count:
            self.transaction.put(head_of(name), table.pack(), db=self.databases[b"tables"])
        else:
            self.transaction.delete(head_of(name), db=self.databases[b"tables"])

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
            self.transaction.put(head_of(name), queue.pack(), db=self.databases[b"queues"])
        self.transaction.put(STORE, self.store.pack(), db=self.databases[b"store"])

    def _bury(self, name: bytes, queue: QueueRow) -> None:
        queue.soonest = NEVER
        for cursor, record, _ in self.records(name):
            if record.deadline <= self.now:
                cursor.delete()
                self.took(queue, record)
                self.count(queue, "expired")
            else:
                queue.soonest = min(queue.soonest, record.deadline)


def has_room(change: Change, queue: QueueRow, payload: bytes) -> bool:
    """Whether a record fits beside all others and in its queue's share (E7).

    The dead make room for it first (E4).
    """
    if not _fits(change.store, queue, len(payload) + OVERHEAD):
        for name in change.names(b"queues"):
            change.queue(name)
    return _fits(change.store, queue, len(payload) + OVERHEAD)


def _fits(store: StoreRow, queue: QueueRow, size: int) -> bool:
    free = store.channel_memory - store.record_bytes - size
    return free >= 0 and queue.bytes + size <= SHARE * free
