"""Engines that get processes or threads wrong, clauses E15 to E18 and E32: identity, roles, kills.

First those with faults that one process can see, then those with faults that take several
processes or a kill, whatever the clause they break.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from asgi_ipc.engines.base import IDENTITY_BYTES, Bell, Popped, Record, Refused
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.engines.shm.heap.journal import Change, Journal
from asgi_ipc.engines.shm.heap.layout import IDLE, STATE
from asgi_ipc.engines.shm.opening import open_store
from asgi_ipc.engines.shm.session import Session
from asgi_ipc.engines.shm.store import Store, StoreOptions
from asgi_ipc.exceptions import StoreUnavailable
from tests.wrong_engines import (
    Wrong,
    WrongAmongMany,
)


class SaysItCrossesProcesses(Wrong):
    breaks = "E15"
    capabilities = MemoryEngine.capabilities._replace(crosses_processes=True)


class GivesARoleToAll(Wrong):
    breaks = "E32"

    def hold(self, role: int) -> bool:
        super().hold(role)
        return True


class SharesOneIdentity(Wrong):
    breaks = "E17"

    @property
    def identity(self) -> bytes:
        self.clock()  # Raises if closed.
        return b"i" * IDENTITY_BYTES


class GivesItsIdentityToItsChildren(Wrong):
    breaks = "E17"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        self.first = super().identity

    @property
    def identity(self) -> bytes:
        self.clock()  # Raises if closed.
        return self.first


class ChangesItsIdentity(Wrong):
    breaks = "E17"

    @property
    def identity(self) -> bytes:
        self.clock()  # Raises if closed.
        return os.urandom(IDENTITY_BYTES)


class WorksInOneThreadOnly(Wrong):
    """As a connection of `sqlite3` does."""

    breaks = "E18"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        self.thread = threading.get_ident()

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        if self.thread != threading.get_ident():
            return []
        return super().pop(queue, limit, bell)


class DiesInAForkedChild(Wrong):
    breaks = "E18"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        self.process = os.getpid()

    def push(self, records: Sequence[Record]) -> list[Refused]:
        if self.process != os.getpid():
            raise StoreUnavailable("the connection is the parent's")
        return super().push(records)


# ---- faults that take several processes, or a kill


class LocksByAFile(WrongAmongMany):
    """The process that made the file has the lock: a killed one has it forever."""

    breaks = "E16"

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.lock = Path(tempfile.gettempdir()) / f"{prefix}.lock-file"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        until = time.monotonic() + 1
        while True:
            try:
                os.close(os.open(self.lock, os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                if time.monotonic() > until:
                    raise TimeoutError("somebody has the lock, and no end of it") from None
                time.sleep(0.001)
        try:
            time.sleep(0.002)  # Where the kill shall come.
            return super().push(records)
        finally:
            self.lock.unlink()

    def destroy(self) -> None:
        super().destroy()
        self.lock.unlink(missing_ok=True)


class AnswersBeforeItStores(WrongAmongMany):
    """As one would that lets a thread do the writing."""

    breaks = "E16"

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.late: list[Record] = []

    def push(self, records: Sequence[Record]) -> list[Refused]:
        self.late.extend(records)
        return super().push([self.late.pop(0) for _ in range(len(self.late) - 2)])


class TakesAfterItAnswers(WrongAmongMany):
    """As one would that deletes at the next call what it gave with this one."""

    breaks = "E16"
    seen_by = "a_reader_killed"

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.given = 0

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        if self.given:
            super().pop(queue, self.given)
        found = super().pop(queue, limit, bell)
        for popped in reversed(found):
            self.restore(queue, popped)
        self.given = len(found)
        return found


class _HasSession:
    """An engine with another class of session."""

    session_class: type[Session]

    def __init__(self, prefix: str, **options: Any) -> None:
        with mock.patch("asgi_ipc.engines.shm.engine.Session", self.session_class):
            super().__init__(prefix, **options)  # type: ignore[call-arg]


class NamesNoStoreInItsIdentity(_HasSession, WrongAmongMany):
    breaks = "E17"
    seen_by = "begin_with_the_same_bytes"

    class session_class(Session):  # noqa: N801
        def _enter(self, store: Store) -> None:
            self.identity = self.identity or os.urandom(IDENTITY_BYTES)
            super()._enter(store)


class TakesAnotherIdentityInAFreshStore(_HasSession, WrongAmongMany):
    breaks = "E17"
    seen_by = "although_the_store_is_replaced"

    class session_class(Session):  # noqa: N801
        def _open(self) -> None:
            self.identity = b""
            super()._open()


class NamesAFreshStoreAnew(_HasSession, WrongAmongMany):
    breaks = "E17"

    class session_class(Session):  # noqa: N801
        def _open(self) -> None:
            with mock.patch("asgi_ipc.engines.shm.session.open_store", _nameless):
                super()._open()


def _nameless(options: StoreOptions, on_recovery: Callable[[], None], node: bytes) -> Store:
    return open_store(options, on_recovery)


class ForgetsWhoOwnsMembers(WrongAmongMany):
    breaks = "E17"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        super().put(table, member, deadline)


class ForgetsWhoOwnsRecords(WrongAmongMany):
    breaks = "E17"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push([record._replace(owner=b"") for record in records])


class CountsFlushesForItself(WrongAmongMany):
    breaks = "E19"

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.own = 0

    def flush(self) -> None:
        super().flush()
        self.own += 1

    @property
    def flushes(self) -> int:
        self.session.joined()
        return self.own


class SignalsOnlyInItsOwnProcess(WrongAmongMany):
    breaks = "E12"

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.waiting: dict[bytes, list[Bell]] = {}

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        found = super().pop(queue, limit)
        armed = self.waiting.setdefault(queue, [])
        if bell is not None and len(found) < limit and bell not in armed:
            armed.append(bell)
        return found

    def push(self, records: Sequence[Record]) -> list[Refused]:
        refused = super().push(records)
        for record in records:
            if self.waiting.get(record.queue):
                self.waiting[record.queue].pop(0).signal()
        return refused


class TornJournal(Journal):
    """Carries a change out word by word, and writes down nothing."""

    def commit(self, change: Change, after: int = IDLE) -> None:
        pairs = list(change.items())
        # In an order in which it shows if the rest is missing.
        random.shuffle(pairs)
        stop = random.randrange(len(pairs)) if pairs else 0
        for number, (offset, value) in enumerate(pairs):
            self._words[offset] = value
            if number == stop and "pytest" not in sys.modules:
                # Where the kill shall come, to a process that is killed: it is here most of its
                # time, however busy the machine is.
                time.sleep(0.03)
        self._words[STATE] = after


class WritesNoJournal(WrongAmongMany):
    breaks = "E16"
    seen_by = "a_writer_killed"

    def __init__(self, prefix: str, **options: Any) -> None:
        with mock.patch("asgi_ipc.engines.shm.heap.log.Journal", TornJournal):
            super().__init__(prefix, **options)


class SignalsTheDead(WrongAmongMany):
    """And leaves it at that, with others waiting."""

    breaks = "E13"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        with mock.patch.object(self.session, "_next_bell", return_value=0):
            return super().push(records)


class AsksOneForHelp(WrongAmongMany):
    breaks = "E26"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        with mock.patch("asgi_ipc.engines.shm.spread.HELPERS", 1):
            return super().push(records)


class PeeksAtItsOwnOnly(WrongAmongMany):
    breaks = "E24"

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.own: set[bytes] = set()

    def push(self, records: Sequence[Record]) -> list[Refused]:
        self.own |= {record.queue for record in records}
        return super().push(records)

    def peek(self, queue: bytes) -> bool:
        return queue in self.own and super().peek(queue)


class ForgetsWhatComesInBetween(Wrong):
    breaks = "E25"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return [] if self.inside() else super().push(records)
