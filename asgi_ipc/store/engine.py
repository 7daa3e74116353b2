"""The Engine contract over a shared-memory store; what posix, sysv and mmap have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..engines.base import (
    MAX_NAME,
    MAX_PAYLOAD,
    READER_GONE,
    Bell,
    Capabilities,
    Members,
    Popped,
    Record,
    Refused,
)
from ..engines.bell import ring_for
from ..exceptions import Reentered, StoreCorrupt, StoreFull, StoreUnavailable
from .attachment import Attachment
from .bells import bell_path
from .heap import NoRoom
from .journal import Change
from .layout import (
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
    NODES,
    ORPHANED,
    PUSHED,
    RECOVERIES,
    REFUSED,
    SLOT_MASK,
)
from .queues import AtCapacity
from .store import Gone


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
        return None

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
        done = 0
        while True:
            store = self._store if self._slot >= 0 else None
            if store is None:
                store = self._inside()
            # Before, as others wait for what is done inside.
            left, now = records[done:], self.clock()
            if now >= self._next_look:
                self._look_after(now)
            push = self._queues.push
            try:
                with self._channels:
                    for record in left:
                        try:
                            bell = push(record, now)
                            if bell:
                                bells.append((record.queue, bell))
                        except AtCapacity:
                            detail = f"the queue holds its capacity of {record.capacity}"
                            if record.owner and not self._processes.owner_alive(
                                self._processes.owner_word(record.owner)
                            ):
                                detail = READER_GONE
                            refused.append(Refused(done, False, detail))
                        except NoRoom as full:
                            refused.append(Refused(done, True, self._full(CHANNELS, full)))
                        done += 1
                break
            except Gone:
                self._reopen(store)
            except BaseException as error:
                self._let_go(error)
                raise
        for name, bell in bells:
            self._ring(name, bell)
        if self._recovered:
            self._ring_all()
        return refused

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """See `Engine.pop`."""
        while True:
            store = self._store if self._slot >= 0 else None
            if store is None:
                store = self._inside()
            # Before, as others wait for what is done inside.
            word = self._bell_word(bell) if bell is not None else 0
            try:
                with self._channels:
                    now = self.clock()
                    try:
                        taken = self._queues.pop(queue, limit, word, now)
                    except NoRoom:
                        # No room for an empty queue to wait on: the waiter's own look will do.
                        taken = []
                break
            except Gone:
                self._reopen(store)
            except BaseException as error:
                self._let_go(error)
                raise
        if self._recovered:
            self._ring_all()
        if word and not taken and now >= self._next_look:
            # Not with records in hand: nothing may come between them and their receiver.
            self._look_after(now)
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
            except BaseException as error:
                self._let_go(error)
                raise
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
        except BaseException as error:
            self._let_go(error)
            raise
        if following:
            self._ring(queue, following)

    def _ring(self, queue: bytes, bell: int) -> None:
        """Ring a bell that was taken off a queue; if nobody hears it, the next one.

        What it rings for is done, so no error leaves it: a receiver that misses a ring looks
        again by itself.
        """
        ring = ring_for(queue)
        for _ in range(NODES):
            if not bell:
                return
            try:
                if self._processes.bell_alive(bell) and self._ringer.ring(
                    bell, self._bell_path, ring
                ):
                    return
                with self._channels:
                    bell = self._queues.next_bell(queue)
            except Gone:
                return  # Every receiver is rung when a store is removed.
            except (ValueError, IndexError):
                # Another thread is just letting go of the memory, where the bells have names.
                self._ring_all()
                return
            except (Reentered, StoreCorrupt, StoreUnavailable):
                return
            except BaseException as error:
                self._let_go(error)
                raise

    def _bell_path(self, bell: int) -> str:
        """Where a bell is, which is alive."""
        identity = self._processes.identity(bell & SLOT_MASK)
        return bell_path(self._place, identity, bell >> BELL_NUMBER_SHIFT & SLOT_MASK)

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
            except BaseException as error:
                self._let_go(error)
                raise

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
            except BaseException as error:
                self._let_go(error)
                raise

    def members(self, table: bytes, known: Members | None = None) -> Members:
        """See `Engine.members`."""
        while True:
            store = self._inside()
            now = self.clock()
            if now >= self._next_look:
                self._look_after(now)
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
            try:
                with self._groups:
                    self._follow_flush()
                    marks = (store.store_id, self._tables.version(table))
                    if (
                        known
                        and fresh
                        and version.table == marks
                        and version.total[1:] == total[1:]
                    ):
                        version.total = total
                        return known
                    names, until = self._tables.members(table, now)
                    marks = (store.store_id, self._tables.version(table))
                return Members(tuple(names), _Version(marks, total, until))
            except Gone:
                self._reopen(store)
            except BaseException as error:
                self._let_go(error)
                raise

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
                        "oldest_age": self._queues.counts.oldest_age(now),
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
            except BaseException as error:
                self._let_go(error)
                raise

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
        except BaseException as error:
            self._let_go(error)
            raise
        # Armed bells were forgotten with their queues.
        self._ring_all()

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
