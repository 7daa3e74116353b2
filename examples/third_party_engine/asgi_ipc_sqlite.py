"""An asgi_ipc engine on SQLite: messages and memberships that outlive a reboot.

No shared memory and no server: a store is one database file. Numbers in the comments are
the clauses of `asgi_ipc.engines.base`. What SQLite can't do well is declined: it signals no
bells in other processes (layers then look again every 20 ms) and does not
notice that a process has died (what it owned goes at its deadline).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import ClassVar

from asgi_ipc.engines import guards
from asgi_ipc.engines.base import (
    IDENTITY_BYTES,
    MAX_NAME,
    MAX_PAYLOAD,
    NODE_BYTES,
    SHARE,
    Bell,
    Capabilities,
    Members,
    Popped,
    Record,
    Refused,
)
from asgi_ipc.engines.bell import PipeBell, signal_for
from asgi_ipc.engines.guards import OwnLock, WeakBag, own_lock
from asgi_ipc.exceptions import OptionError, Reentered, StoreCorrupt, StoreFull, StoreUnavailable

#: Seconds to wait for another process that is writing.
PATIENCE = 30.0
#: Seconds to wait for a thread that forks. It may wait itself, with all engines locked: in what
#: other modules do before a fork, for a lock of theirs. If that is held by this very thread, in
#: whose middle a finalizer uses the engine, neither would ever go on. The first number is for
#: what layers do later if they have to, the second for what has an answer, and begins when all
#: engines are locked. A thread's waits for one fork are counted together, or each finalizer of a
#: collection would wait so long; in turns, so that a machine that pauses costs no more than one.
FORK_PATIENCE = (1.0, 10.0)
TURN = 0.1
#: Bytes that a record or member counts besides its own.
OVERHEAD = 64
#: Nanoseconds after which the counts of a queue that nobody uses are forgotten.
IDLE = 600 * 10**9
COUNTS = (
    "pushed", "popped", "expired", "refused", "store_full", "orphaned", "flushed", "high_water"
)  # fmt: skip

# The queue named by no byte keeps the counts of the store.
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS store (
    id BLOB, flushes INTEGER, changes INTEGER DEFAULT 0, destroyed INTEGER DEFAULT 0,
    record_bytes INTEGER DEFAULT 0, member_bytes INTEGER DEFAULT 0,
    channel_memory INTEGER, group_memory INTEGER);
CREATE TABLE IF NOT EXISTS queues (
    name BLOB PRIMARY KEY, pending INTEGER DEFAULT 0, bytes INTEGER DEFAULT 0,
    used INTEGER DEFAULT 0,
    {", ".join(f"{name} INTEGER DEFAULT 0" for name in COUNTS)}) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY, queue BLOB, payload BLOB, deadline INTEGER, pushed INTEGER);
CREATE INDEX IF NOT EXISTS records_of_queue ON records (queue, seq);
CREATE INDEX IF NOT EXISTS records_by_deadline ON records (deadline);
CREATE TABLE IF NOT EXISTS tables (
    name BLOB PRIMARY KEY, version INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members (
    tab BLOB, name BLOB, deadline INTEGER, PRIMARY KEY (tab, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS members_by_deadline ON members (deadline);
CREATE TRIGGER IF NOT EXISTS record_came AFTER INSERT ON records BEGIN
    INSERT OR IGNORE INTO queues (name) VALUES (NEW.queue);
    UPDATE queues SET pending = pending + 1, high_water = max(high_water, pending + 1),
        bytes = bytes + length(NEW.payload) + {OVERHEAD},
        used = NEW.pushed WHERE name IN (NEW.queue, x'');
    UPDATE store SET record_bytes = record_bytes + length(NEW.payload) + {OVERHEAD};
END;
CREATE TRIGGER IF NOT EXISTS record_went AFTER DELETE ON records BEGIN
    UPDATE queues SET pending = pending - 1, bytes = bytes - length(OLD.payload) - {OVERHEAD}
        WHERE name IN (OLD.queue, x'');
    UPDATE store SET record_bytes = record_bytes - length(OLD.payload) - {OVERHEAD};
END;
CREATE TRIGGER IF NOT EXISTS member_came AFTER INSERT ON members BEGIN
    UPDATE store SET changes = changes + 1,
        member_bytes = member_bytes + length(NEW.name) + {OVERHEAD};
    INSERT OR REPLACE INTO tables SELECT NEW.tab, changes FROM store;
END;
CREATE TRIGGER IF NOT EXISTS member_went AFTER DELETE ON members BEGIN
    UPDATE store SET changes = changes + 1,
        member_bytes = member_bytes - length(OLD.name) - {OVERHEAD};
    INSERT OR REPLACE INTO tables SELECT OLD.tab, changes FROM store;
    DELETE FROM tables WHERE name = OLD.tab
        AND NOT EXISTS (SELECT 1 FROM members WHERE tab = OLD.tab);
END;
"""


class SQLiteEngine:
    """See the module. Options: ``directory``, the folder of the databases."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        crosses_processes=True,
        survives_exit=True,
        wakes=False,
        owners=False,
        bounded=True,
        blocking=True,
        inspects=False,  # It knows none of the processes that have its database open.
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
        if not re.fullmatch(r"[\w-][\w.-]*", prefix):
            raise OptionError(f"prefix {prefix!r} makes no file name")
        if directory is None:
            state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
            directory = Path(state).expanduser() / "asgi_ipc_sqlite"
        self._folder = Path(directory).absolute() / prefix
        self._sizes = (channel_memory, group_memory)
        self._identity = self._new_identity()
        self._bells: WeakBag[PipeBell] = WeakBag()
        self._last_clock = 0
        self._closed = False
        self._lock = own_lock()
        # The second is for `flushes`, which must not wait for a thread that writes.
        self._reading = own_lock()
        self._db: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._next_tidy = 0
        # Not while a thread forks, with the locks of all there are: a child would have this one's
        # taken, and the database open.
        if _births._is_owned():
            raise Reentered  # E25
        try:
            if not _births.acquire(False):
                _wait(_births, answers=True)
            _engines.add(self)
        finally:
            with contextlib.suppress(RuntimeError):
                _births.release()
        with self._transaction():
            pass  # Whatever is wrong shows now (E23).

    @classmethod
    def unavailable(cls) -> str | None:
        """None: SQLite comes with Python."""
        return None

    # ---- the database

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only one who makes or removes files of this store; a kill ends it (E16)."""
        while True:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreUnavailable(
                    f"can't use the folder {self._folder} ({error.strerror}); name another"
                    " with engine_options['directory']"
                ) from error
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._folder)):
                    break
            os.close(descriptor)  # Somebody has just removed the store.
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # A forked child may have it open, too.
            os.close(descriptor)

    def _path(self) -> Path:
        """The database. Each has a name of its own: SQLite removes by name what goes with
        one, and must not take away what belongs to its successor (E22)."""
        for path in self._folder.glob("*.sqlite3"):
            return path
        path = self._folder / f"{secrets.token_hex(8)}.sqlite3"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return path

    def _connect(self) -> sqlite3.Connection:
        with self._alone():
            while True:
                path = self._path()
                db = _open(path)
                try:
                    # In this mode nobody who reads waits for who writes, and a commit does
                    # not wait for the disk: power loss may cost the last messages, no more.
                    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")
                    db.executescript(f"BEGIN IMMEDIATE; {SCHEMA}")
                    if not db.execute("SELECT count(*) FROM store").fetchone()[0]:
                        db.execute(
                            "INSERT INTO store (id, flushes, channel_memory, group_memory)"
                            " VALUES (?, ?, ?, ?)",
                            (secrets.token_bytes(16), time.time_ns(), *self._sizes),
                        )
                        db.execute("INSERT INTO queues (name) VALUES (x'')")
                    destroyed = db.execute("SELECT destroyed FROM store").fetchone()[0]
                    db.execute("COMMIT")
                    if not destroyed:
                        self._reader = _open(path)
                        return db
                except BaseException:
                    db.close()
                    raise
                # Who destroyed it was killed before it could remove the files.
                db.close()
                _remove(path)

    @contextlib.contextmanager
    def _locked(self, answers: bool = True) -> Iterator[None]:
        """Be the only thread of this process in the store."""
        if self.inside():
            raise Reentered  # E25
        lock = self._lock
        try:
            if not lock.acquire(False):
                _wait(lock, answers)
            yield
        finally:
            # Not asked whether it was taken: a signal's handler may raise after the answer.
            with contextlib.suppress(RuntimeError):
                lock.release()

    @contextlib.contextmanager
    def _transaction(self, answers: bool = True) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Be alone in the store, with nothing dead in it (E4, E9); all of it or nothing."""
        with self._locked(answers), _translated():
            while True:
                if self._closed:
                    raise StoreUnavailable("this SQLite engine is closed; open another")  # E21
                db = self._db = self._db or self._connect()
                db.execute("BEGIN IMMEDIATE")
                if not db.execute("SELECT destroyed FROM store").fetchone()[0]:
                    break
                db.execute("ROLLBACK")
                self._disconnect()
            try:
                now = self.clock()
                self._bury(db, now)
                yield db, now
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite itself ends one that has run out of space.
                    db.execute("ROLLBACK")
                raise

    def _bury(self, db: sqlite3.Connection, now: int) -> None:
        dead = (
            "SELECT queue, count(*) FROM records INDEXED BY records_by_deadline"
            " WHERE deadline <= ? GROUP BY queue"
        )
        for queue, number in db.execute(dead, (now,)).fetchall():
            _count(db, queue, "expired", number)
            db.execute("DELETE FROM records WHERE queue = ? AND deadline <= ?", (queue, now))
        db.execute("DELETE FROM members WHERE deadline <= ?", (now,))
        if now >= self._next_tidy:
            # Or the name of each connection that ever was would stay.
            self._next_tidy = now + IDLE
            idle = "DELETE FROM queues WHERE pending = 0 AND used < ? AND name != x''"
            db.execute(idle, (now - IDLE,))

    def _disconnect(self) -> None:
        """Close the connections; the caller holds the lock."""
        with self._reading:
            for connection in (self._reader, self._db):
                if connection is not None:
                    connection.close()
            self._reader = self._db = None

    # ---- what the layers see

    def inside(self) -> bool:
        """Whether this thread holds a lock of any engine: two may be on one database (E25)."""
        return _armed_lock._is_owned() or any(
            each._lock._is_owned() or each._reading._is_owned() for each in _engines.alive()
        )

    def _new_identity(self) -> bytes:
        # The first bytes are those of all processes in the store, also if it is made anew (E17).
        path = os.fsencode(os.path.realpath(self._folder))
        node = hashlib.blake2b(path, digest_size=NODE_BYTES).digest()
        return node + secrets.token_bytes(IDENTITY_BYTES - NODE_BYTES)

    @property
    def identity(self) -> bytes:
        """See `asgi_ipc.engines.base.Engine`, here and below."""
        if self._closed:
            raise StoreUnavailable("this SQLite engine is closed; open another")
        return self._identity

    @property
    def flushes(self) -> int:
        """Read past everybody who writes."""
        if self.inside():
            raise Reentered
        with self._reading, _translated():
            if self._reader is not None:
                number: int = self._reader.execute("SELECT flushes FROM store").fetchone()[0]
                return number
        with self._transaction():
            pass  # After a fork: connect.
        return self.flushes

    def clock(self) -> int:
        """The time of day, since deadlines outlive a reboot; it stands still when set back."""
        self._last_clock = now = max(time.time_ns(), self._last_clock)
        return now

    def push(self, records: Sequence[Record]) -> list[Refused]:
        """One transaction a batch."""
        for record in records:
            _check_name(record.queue)
            if len(record.payload) > MAX_PAYLOAD:
                raise ValueError(f"a record of {len(record.payload)} bytes; at most {MAX_PAYLOAD}")
        try:
            with self._transaction(answers=False) as (db, now):
                refused = list(self._insert(db, now, records))
        except StoreFull as error:
            return [Refused(position, True, str(error)) for position in range(len(records))]
        refusals = {refusal.position for refusal in refused}
        for position, record in enumerate(records):
            if position not in refusals:
                self._signal(record.queue)
        return refused

    def _insert(
        self, db: sqlite3.Connection, now: int, records: Sequence[Record]
    ) -> Iterator[Refused]:
        """Insert what fits; yield what does not (E3)."""
        for position, (queue, payload, deadline, capacity, _) in enumerate(records):
            sql = "SELECT pending, bytes FROM queues WHERE name = ?"
            pending, held = db.execute(sql, (queue,)).fetchone() or (0, 0)
            size = len(payload) + OVERHEAD
            used, total = db.execute("SELECT record_bytes, channel_memory FROM store").fetchone()
            if pending >= capacity:
                yield Refused(position, False, f"the queue holds its capacity of {capacity}")
                _count(db, queue, "refused", 1)
            elif used + size > total or held + size > SHARE * (total - used - size):  # E7
                detail = f"{used} of {total} bytes of channel_memory in use, {held} by this queue"
                yield Refused(position, True, detail, over_share=used + size <= total)
                _count(db, queue, "refused", 1)
                _count(db, queue, "store_full", 1)
            else:
                sql = "INSERT INTO records (queue, payload, deadline, pushed) VALUES (?, ?, ?, ?)"
                db.execute(sql, (queue, payload, deadline, now))
                _count(db, queue, "pushed", 1)

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """The bell is armed while pushes are kept out, so that none comes between (E12)."""
        with self._transaction() as (db, _):
            rows = db.execute(
                "SELECT payload, deadline, seq FROM records WHERE queue = ? ORDER BY seq LIMIT ?",
                (queue, limit),
            ).fetchall()
            if rows:
                last = rows[-1][2]
                db.execute("DELETE FROM records WHERE queue = ? AND seq <= ?", (queue, last))
                _count(db, queue, "popped", len(rows))
            if bell is not None and len(rows) < limit:
                with _armed_lock:
                    bells = _armed.setdefault((self._folder, queue), deque())
                    if bell not in bells:
                        bells.append(_ours(bell))
        return [Popped(payload, deadline) for payload, deadline, _ in rows]

    def peek(self, queue: bytes) -> bool:
        """True: the database would have to be asked, and `pop` does that."""
        if self._closed:
            raise StoreUnavailable("this SQLite engine is closed; open another")
        return True

    def restore(self, queue: bytes, record: Popped) -> None:
        """In front of all others."""
        with self._transaction() as (db, now):
            db.execute(
                "INSERT INTO records SELECT coalesce(min(seq), 1) - 1, ?, ?, ?, ? FROM records",
                (queue, record.payload, record.deadline, now),
            )
            _count(db, queue, "popped", -1)
        self._signal(queue)

    def _signal(self, queue: bytes) -> None:
        """Ring the first bell of this process that somebody still hears (E13)."""
        with _armed_lock:
            key = (self._folder, queue)
            bells = _armed.get(key, deque())
            while bells and not bells.popleft().try_signal(signal_for(queue)):
                pass
            if not bells:
                _armed.pop(key, None)

    def disarm(self, queue: bytes, bell: Bell) -> None:
        """If it had been signalled, the next one is."""
        with self._transaction() as (db, _):
            some = db.execute("SELECT 1 FROM records WHERE queue = ?", (queue,)).fetchone()
            with _armed_lock:
                bells = _armed.get((self._folder, queue), deque())
                was_armed = bell in bells
                if was_armed:
                    bells.remove(_ours(bell))
        if some and not was_armed:
            self._signal(queue)  # E14

    def bell(self) -> Bell:
        """A pipe."""
        self.identity  # noqa: B018  # Raises on a closed engine (E21).
        bell = PipeBell()
        self._bells.add(bell)
        return bell

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        """A renewal is an update, which fires no trigger: the members stay the same (E11)."""
        _check_name(table)
        _check_name(member)
        with self._transaction(answers=False) as (db, _):
            found = db.execute(
                "UPDATE members SET deadline = ? WHERE tab = ? AND name = ?",
                (deadline, table, member),
            )
            if not found.rowcount:
                used, total = db.execute("SELECT member_bytes, group_memory FROM store").fetchone()
                if used + len(member) + OVERHEAD > total:
                    raise StoreFull(f"{used} of {total} bytes of group_memory are in use")
                db.execute("INSERT INTO members VALUES (?, ?, ?)", (table, member, deadline))

    def remove(self, table: bytes, member: bytes) -> bool:
        """True if it was there."""
        with self._transaction(answers=False) as (db, _):
            sql = "DELETE FROM members WHERE tab = ? AND name = ?"
            return db.execute(sql, (table, member)).rowcount > 0

    def members(self, table: bytes, known: Members | None = None) -> Members:
        """A version is a store and a number that no table has twice."""
        with self._transaction() as (db, _):
            version = db.execute(
                "SELECT id, (SELECT version FROM tables WHERE name = ?) FROM store", (table,)
            ).fetchone()
            if known is not None and known.version == version:
                return known
            rows = db.execute("SELECT name FROM members WHERE tab = ?", (table,)).fetchall()
        return Members(tuple(name for (name,) in rows), version)

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        """Triggers have counted."""
        with self._transaction() as (db, now):
            names = (*COUNTS, "pending")
            row = db.execute(
                f"SELECT {', '.join(names)} FROM queues WHERE name = ?", (queue or b"",)
            ).fetchone()
            counts = dict(zip(names, row or [0] * len(names), strict=True))
            oldest = db.execute(
                "SELECT min(pushed) FROM records WHERE ? IN (queue, x'')", (queue or b"",)
            ).fetchone()[0]
            counts["oldest_age"] = max(0, now - oldest) if oldest is not None else 0
            if queue is None:
                (
                    counts["queues"],
                    counts["members"],
                    counts["bytes_used"],
                    counts["bytes_total"],
                    counts["recoveries"],
                ) = db.execute(
                    "SELECT (SELECT count(*) FROM queues WHERE pending AND name != x''),"
                    " (SELECT count(*) FROM members), record_bytes + member_bytes,"
                    " channel_memory + group_memory, 0 FROM store"
                ).fetchone()
        return counts

    def flush(self) -> None:
        """Empty it."""
        with self._transaction(answers=False) as (db, _):
            db.execute("UPDATE queues SET flushed = flushed + pending")
            db.execute("DELETE FROM records")
            db.execute("DELETE FROM members")
            db.execute("UPDATE store SET flushes = flushes + 1")

    def close(self) -> None:
        """Let go."""
        with self._locked():
            self._closed = True
            self._disconnect()
        for bell in self._bells.alive():
            bell.close()

    def destroy(self) -> None:
        """Mark it, so that who has it open leaves it; then remove it (E22)."""
        with self._transaction() as (db, _):
            path = Path(db.execute("PRAGMA database_list").fetchone()[2])
            db.execute("UPDATE store SET destroyed = 1, flushes = flushes + 1")
        self.close()
        with self._alone():
            _remove(path)
            with contextlib.suppress(OSError):
                self._folder.rmdir()  # Unless somebody has made a new store in it.


def _wait(lock: OwnLock, answers: bool) -> None:
    """Take the lock, which another thread has. Raises `Reentered` if that one forks, and may wait
    for this one."""
    me = threading.get_ident()
    while not lock.acquire(timeout=TURN):
        if not _forking:
            continue
        waited = _waited_for_fork[me] = _waited_for_fork.get(me, 0.0) + TURN
        patience = FORK_PATIENCE[answers]
        if answers and not _all_locked:
            # What forks waits for a thread in an engine, and that one for another process.
            patience += PATIENCE
        if waited >= patience and _is_called_by_others():
            raise Reentered


def _is_called_by_others() -> bool:
    """Whether code of others is on this thread's stack, and so maybe a lock of others held."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return frame is not None


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)


def _remove(path: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _count(db: sqlite3.Connection, queue: bytes, what: str, number: int) -> None:
    """Count for the queue and for the store (E20)."""
    db.execute("INSERT OR IGNORE INTO queues (name) VALUES (?)", (queue,))
    db.execute(f"UPDATE queues SET {what} = {what} + ? WHERE name IN (?, x'')", (number, queue))


def _check_name(name: bytes) -> None:
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"name {name!r} has {len(name)} bytes; 1 to {MAX_NAME} are allowed")


def _ours(bell: Bell) -> PipeBell:
    if not isinstance(bell, PipeBell):
        raise TypeError(f"{bell!r} is no bell of this engine; get one from bell()")
    return bell


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise StoreFull(f"the file system of the database is full: {error}") from error
        raise StoreUnavailable(f"SQLite: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(f"SQLite: {error}") from error


#: Bells of this process by store and queue, first armed first.
_armed: dict[tuple[Path, bytes], deque[PipeBell]] = {}
_armed_lock = own_lock()
_engines: WeakBag[SQLiteEngine] = WeakBag()
_forking: list[SQLiteEngine] = []
_fork_lock = threading.Lock()
#: Of a thread that adds an engine, or forks.
_births = own_lock()
#: Where the code lies that holds no lock of others: this, the package, and what runs a thread.
_OURS = (
    __file__,
    os.path.dirname(os.path.dirname(guards.__file__)) + os.sep,
    threading.__file__,
    contextlib.__file__,
)
#: Seconds that threads have waited for the fork that goes on.
_waited_for_fork: dict[int, float] = {}
#: Whether that fork has locked all engines.
_all_locked = False


def _before_fork() -> None:
    """SQLite must not be carried across a fork, not even to close it: so nothing is open."""
    global _all_locked
    _fork_lock.acquire()
    _births.acquire()
    _forking.extend(sorted(_engines.alive(), key=id))
    for engine in _forking:
        engine._lock.acquire()
        engine._disconnect()  # Nobody connects again without the lock.
    _all_locked = True


def _after_fork_in_parent() -> None:
    global _all_locked
    _all_locked = False
    while _forking:
        _forking.pop()._lock.release()
    _waited_for_fork.clear()
    _births.release()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _armed_lock
    _armed_lock = own_lock()
    _armed.clear()  # The parent's bells signal in the parent.
    for engine in _forking:
        engine._reading = own_lock()
        engine._identity = engine._new_identity()  # E17
        for bell in engine._bells.alive():
            bell.close()
    _after_fork_in_parent()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
