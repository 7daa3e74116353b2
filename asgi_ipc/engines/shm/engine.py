"""The Engine contract over a shared-memory store; what posix, sysv and mmap have in common."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from asgi_ipc.exceptions import Reentered, StoreCorrupt, StoreFull, StoreUnavailable

from ..base import (
    MAX_NAME,
    MAX_PAYLOAD,
    READER_GONE,
    SHARE,
    Bell,
    Capabilities,
    Members,
    Popped,
    Record,
    Refused,
)
from ..bell import signal_for
from .bells import bell_name, open_fifo
from .heap.heap import Heap, NoRoom, OverShare, Pause
from .heap.journal import Change
from .heap.layout import (
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
    NO_ROOM,
    NODES,
    ORPHANED,
    PUSHED,
    RECOVERIES,
    REFUSED,
    SLOT_MASK,
)
from .interpreter import unsuitable
from .opening import Gone
from .operation import operation
from .queues.queues import AtCapacity, Survey
from .session import Attachment
from .spread import FEW, LIST, enlist, ring_first, ring_rest, slots_in
from .tables import Reading

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


class SharedMemoryEngine(Attachment):
    """An engine over a `Segment`; options as `Attachment`."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        crosses_processes=True, survives_exit=True, wakes=True, owners=True, bounded=True
    )

    @classmethod
    def unavailable(cls) -> str | None:
        """See `Engine.unavailable`."""
        return unsuitable()

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
        while True:
            store = self._store
            if self._slot < 0:
                store = self._inside()
            if not now:
                # Before, as other processes wait for what is done inside.
                now = self.clock()
                if now >= self._next_look:
                    self._maintain(now)
                    continue
            left, push = records[done : done + _BATCH], self._queues.push
            try:
                try:
                    with self._channels:
                        for record in left:
                            try:
                                bell = push(record, now)
                                if bell:
                                    bells.append((record.queue, bell))
                            except AtCapacity:
                                refused.append(Refused(done, False, self._at_capacity(record)))
                            except NoRoom as full:
                                detail = self._full(CHANNELS, full, len(record.payload))
                                is_share = isinstance(full, OverShare)
                                refused.append(Refused(done, True, detail, is_share))
                            done += 1
                    if done >= len(records):
                        break
                # As `CriticalSection.run`, and twice for the same reason.
                except BaseException:
                    self._let_go(store)
                    raise
            except Pause as pause:
                if records[done] is left[0]:  # Else some were pushed, and others come as it is.
                    holds += 1
                    self._pause(pause.heap, holds)
            except Gone:
                self._reopen(store)
            except BaseException:
                self._let_go(store)
                raise
        if len(bells) > FEW:
            bells = self._spread(bells)
        for name, bell in bells:
            self._signal(name, bell, signal_for(name))
        if self._recovered:
            self._signal_all()
        return refused

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """See `Engine.pop`."""
        taken: list[Popped] = []
        holds = safe = 0
        while True:
            store = self._store
            if self._slot < 0:
                store = self._inside()
            # Before, as other processes wait for what is done inside.
            word = self._bell_word(bell) if bell is not None else 0
            try:
                try:
                    with self._channels:
                        now = self.clock()
                        try:
                            self._queues.pop(taken, queue, limit, word, now)
                        except NoRoom:
                            # No room for an empty queue to wait on: the receiver polls anyway.
                            pass
                    break
                except BaseException:
                    self._let_go(store)
                    raise
            except Pause as pause:
                safe = len(taken)
                if safe >= limit:
                    break
                holds += 1
                self._pause(pause.heap, holds)
            except Gone:
                self._reopen(store)
            except StoreCorrupt:
                # What was taken in an earlier hold is not in the store any more.
                del taken[safe:]
                if not taken:
                    raise
                break
            except BaseException:
                self._let_go(store)
                raise
        if self._recovered:
            self._signal_all()
        if not taken and now >= self._next_look:
            # Not with records in hand: nothing may come between them and their receiver.
            self._maintain(now)
        return taken

    def peek(self, queue: bytes) -> bool:
        """See `Engine.peek`."""
        try:
            return self._queues.peek(queue)
        except (ValueError, IndexError):  # closed, or changed meanwhile
            self._inside()
            return True

    def restore(self, queue: bytes, record: Popped) -> None:
        """See `Engine.restore`."""
        bell = self._put_back(queue, record, self.clock())
        if bell:
            self._signal(queue, bell, signal_for(queue))

    @operation
    def _put_back(self, queue: bytes, record: Popped, now: int) -> int:
        try:
            with self._channels:
                return self._queues.restore(queue, record, now)
        except NoRoom as full:
            raise StoreFull(self._full(CHANNELS, full, len(record.payload))) from full

    def disarm(self, queue: bytes, bell: Bell) -> None:
        """See `Engine.disarm`."""
        store = self._inside()
        try:
            try:
                with self._channels:
                    following = self._queues.disarm(queue, self._bell_word(bell))
            except BaseException:
                self._let_go(store)
                raise
        except Gone:
            self._reopen(store)
            return
        except BaseException:
            self._let_go(store)
            raise
        if following:
            self._signal(queue, following, signal_for(queue))

    def _signal(self, queue: bytes, bell: int, signal: bytes) -> bool:
        """Ring a bell that was taken off a queue; if no process hears it, the next one.

        Returns False if none did.

        What it signals for is done, so no error leaves it: a receiver that misses a signal looks
        again by itself.
        """
        for _ in range(NODES):
            if not bell:
                break
            try:
                if self._processes.bell_alive(bell) and self._signaller.signal(
                    bell, self._open_bell, signal
                ):
                    return True
                bell = self._next_bell(queue)
            except (ValueError, IndexError):
                # Another thread is just letting go of the memory, where the bells have names.
                self._signal_all()
                break
            except (Reentered, StoreCorrupt, StoreUnavailable):
                break
        return False

    def _spread(self, bells: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Have many bells signalled by those that are signalled first; return those that can't be (E26)."""
        owned = self._own_list()
        if owned is None:
            return bells
        # Not always the same are first, as these have the work.
        first = next(self._turns) % len(bells)
        left = enlist(owned, bells[first:] + bells[:first])
        owned.use(partial(ring_first, self._slot, self._signal), None)
        return left

    def _ring_more(self, signals: bytes) -> None:
        """Ring the bells in the lists that these signals tell of."""
        for slot in slots_in(signals):
            store = self._store
            # Another thread is just leaving it; or no process has written that.
            if store is None or slot >= self._processes.count:
                continue
            # Its process has gone, or it is no list; or the memory is just being let go of.
            with contextlib.suppress(OSError, ValueError, IndexError):
                name = bell_name(self._processes.identity(slot), LIST)
                reader = open_fifo(store.directory, name, os.O_RDONLY)
                try:
                    ring_rest(self._signal, reader)
                finally:
                    os.close(reader)

    def _ring_rest(self) -> None:
        """Ring what is left in this process's own list."""
        owned = self._list
        if owned is not None:
            owned.use(partial(ring_rest, self._signal), None)

    @operation
    def _next_bell(self, queue: bytes) -> int:
        with self._channels:
            return self._queues.next_bell(queue)

    def _open_bell(self, bell: int) -> int:
        """Open for writing a bell that is alive. Raises OSError."""
        identity = self._processes.identity(bell & SLOT_MASK)
        name = bell_name(identity, bell >> BELL_NUMBER_SHIFT & SLOT_MASK)
        store = self._store
        if store is None:  # Another thread is just leaving it.
            raise FileNotFoundError(errno.ENOENT, "the store is closed", name)
        return open_fifo(store.directory, name)

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
            with self._groups:
                self._follow_flush()
                word = self._processes.owner_word(owner) if owner else 0
                self._tables.put(table, member, deadline, word, now)
        except NoRoom as full:
            raise StoreFull(self._full(GROUPS, full, len(member))) from full

    @operation
    def remove(self, table: bytes, member: bytes) -> bool:
        """See `Engine.remove`."""
        with self._groups:
            self._follow_flush()
            return self._tables.remove(table, member, self.clock())

    def members(self, table: bytes, known: Members | None = None) -> Members:
        """See `Engine.members`."""
        while True:
            store = self._inside()
            now = self.clock()
            if now >= self._next_look:
                self._maintain(now)
            # Read without the lock, and before the members: what changes meanwhile
            # makes the next call look again.
            try:
                total = (self._groups.words[CHANGES], self._words[FLUSHES], self._words[DEATHS])
            except ValueError:  # another thread is just letting go of the memory
                self._reopen(store)
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
        with self._groups:
            self._follow_flush()
            # Of the store that is there now: its id tells it from the one of ``total``.
            marks = (self._inside().store_id, self._tables.version(table))
            if known and fresh and version.table == marks and version.total[1:] == total[1:]:
                version.total = total
                return known
            self._tables.read(table, reading, now)
        return Members(tuple(reading.names), _Version(marks, total, reading.until))

    # ---- upkeep

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        """See `Engine.statistics`."""
        self._inside()
        now = self.clock()
        if now >= self._next_look:
            self._maintain(now)
        return self._statistics(queue, Survey(now), now)

    @operation
    def _statistics(self, queue: bytes | None, survey: Survey, now: int) -> dict[str, int]:
        with self._channels as heap:
            if queue is not None:
                return self._queues.statistics(queue, now)
            self._queues.survey(survey)
            counts = self._counts(heap)
            counts["oldest_age"] = survey.oldest
        with self._groups as heap:
            self._follow_flush()
            used, total = heap.usage()
            counts |= {"members": heap.words[MEMBERS], "tables": heap.words[NAMED]}
            counts["bytes_used"] += used
            counts["bytes_total"] += total
            counts["recoveries"] += heap.words[RECOVERIES]
        return counts

    def _counts(self, heap: Heap) -> dict[str, int]:
        """What is counted in the channels segment."""
        words = heap.words
        expired, orphaned = words[EXPIRED], words[ORPHANED]
        used, total = heap.usage()
        return {
            "pushed": words[PUSHED],
            "popped": words[GONE] - expired - orphaned - words[FLUSHED],
            "expired": expired,
            "refused": words[REFUSED],
            "store_full": words[NO_ROOM],
            "orphaned": orphaned,
            "flushed": words[FLUSHED],
            "pending": words[PUSHED] - words[GONE],
            "high_water": words[HIGH_WATER],
            "queues": words[NAMED],
            "processes": len(self._processes.used()),
            "recoveries": words[RECOVERIES],
            "bytes_used": used,
            "bytes_total": total,
        }

    def flush(self) -> None:
        """See `Engine.flush`."""
        self._flush()
        # Armed bells were forgotten with their queues.
        self._signal_all()

    @operation
    def _flush(self) -> None:
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

    def _at_capacity(self, record: Record) -> str:
        """Why a queue at capacity refuses a record."""
        owner_word, owner = self._processes.owner_word, record.owner
        if owner and not self._processes.owner_alive(owner_word(owner)):
            return READER_GONE
        if record.capacity < 1:
            return f"its capacity is {record.capacity}, so that the queue takes no message"
        return f"the queue holds its capacity of {record.capacity}"

    def _full(self, kind: int, full: NoRoom, size: int) -> str:
        """Why there is no room for ``size`` bytes, and what can be done."""
        option = "channel_memory" if kind == CHANNELS else "group_memory"
        cause = full.args[0]
        if isinstance(full, OverShare):
            held, free = full.args
            return (
                f"the queue would take {held:,} bytes of {option} and leave {max(free, 0):,}; a "
                f"queue may take {SHARE} times what it leaves free; read it faster, send it less, "
                f"or {_ENLARGE.format(option)}"
            )
        if cause is not None:
            return (
                f"the system gives the store no more memory ({cause.strerror}): "
                f"{self.segment.space(self._location.directory)}; free some, use a smaller {option}, "
                "another engine, or more shared memory (--shm-size for a container)"
            )
        heap = (self._channels if kind == CHANNELS else self._groups).heap
        total = heap.geometry.size
        used = min(heap.usage()[0], total)
        return (
            f"{used:,} of {total:,} bytes of {option} are in use, and the rest has no room for "
            f"{size:,} more with what goes along; {_ENLARGE.format(option)}"
        )


#: Opening it with another size changes nothing while the store is there.
_ENLARGE = "to enlarge {0}, destroy() the store, which loses what it holds, and open it larger"
