"""Engines with one fault each, to see that the conformance suite can fail.

Each says in ``breaks`` which clause of `asgi_ipc.engines.base` it breaks; the suite must
catch it by a test that names that clause. Most are `MemoryEngine` but for a few lines,
and those with faults that only other processes can see are `MmapEngine`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast
from unittest import mock

import asgi_ipc.engines.memory as memory
from asgi_ipc.engines.base import IDENTITY_BYTES, Bell, Members, Popped, Record, Refused
from asgi_ipc.engines.bell import PipeBell
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.engines.mmap import MmapEngine
from asgi_ipc.exceptions import StoreUnavailable
from asgi_ipc.store.journal import Change, Journal
from asgi_ipc.store.layout import IDLE, STATE

#: A deadline that never comes, and the first instant.
NEVER, BEGINNING = 1 << 62, 0
MANY = 1 << 30
#: What leaking engines leak, to keep it from the garbage collector.
leaked: list[object] = []


def bells_of(engine: MemoryEngine, queue: bytes) -> Any:
    """The bells that are armed on a queue, first armed first."""
    return engine._store.queue(queue, BEGINNING).bells


class Right(MemoryEngine):
    """Breaks nothing, although it is made like those that do."""

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push([record._replace() for record in records])

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        return list(super().pop(queue, limit, bell))

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        return dict(super().statistics(queue))


class Wrong(MemoryEngine):
    """Breaks what it says."""

    breaks: ClassVar[str]


# ---- queues


class DeliversSomeTwice(Wrong):
    breaks = "E1"
    pops = 0

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        found = super().pop(queue, limit, bell)
        self.pops += 1
        if found and self.pops % 3 == 1:
            self.restore(queue, found[-1])
        return found


class HasNoLock(Wrong):
    breaks = "E1"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        found = self._store.queue(queue, BEGINNING)
        taken = list(found.entries)[:limit]
        time.sleep(0)
        for entry in taken:
            with contextlib.suppress(ValueError):
                found.entries.remove(entry)
        return [Popped(entry.payload, entry.deadline) for entry in taken]


class AnswersLastFirst(Wrong):
    breaks = "E2"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        return super().pop(queue, limit, bell)[::-1]


class HurriesSmallOnes(Wrong):
    """As one would that keeps small and large records in different places."""

    breaks = "E2"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push(sorted(records, key=lambda record: len(record.payload) > 1))


class KnowsNoCapacity(Wrong):
    breaks = "E3"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push([record._replace(capacity=MANY) for record in records])


class TakesOneTooMany(Wrong):
    breaks = "E3"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push([each._replace(capacity=each.capacity + 1) for each in records])


class KeepsTheFirstCapacity(Wrong):
    breaks = "E3"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        firsts = self.__dict__.setdefault("firsts", {})
        return super().push(
            [
                each._replace(capacity=firsts.setdefault(each.queue, each.capacity))
                for each in records
            ]
        )


class StopsAtTheFirstRefusal(Wrong):
    breaks = "E3"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        self.clock()  # Raises if closed.
        for position, record in enumerate(records):
            if super().push([record]):
                return [Refused(n, False, "stopped") for n in range(position, len(records))]
        return []


class TakesTheWholeBatchOrNothing(Wrong):
    breaks = "E3"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        queues = {record.queue for record in records}
        for queue in queues:
            ours = [record for record in records if record.queue == queue]
            if len(self._store.queue(queue, self.clock()).entries) + len(ours) > ours[0].capacity:
                return [Refused(n, False, "all or nothing") for n in range(len(records))]
        return super().push(records)


class TellsTheWrongPosition(Wrong):
    breaks = "E3"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return [refused._replace(position=0) for refused in super().push(records)]


class MistakesTheReason(Wrong):
    breaks = "E3"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return [refused._replace(no_room=not refused.no_room) for refused in super().push(records)]


class GivesNoReason(Wrong):
    breaks = "E3"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return [refused._replace(detail="") for refused in super().push(records)]


class GrowsForEver(Wrong):
    breaks = "E3"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        self._store.channel_memory = 1 << 40


class LosesRoomWithEachPop(Wrong):
    breaks = "E3"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        found = super().pop(queue, limit, bell)
        self._store.record_bytes += 50 * len(found)
        return found


class NeverForgets(Wrong):
    breaks = "E4"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push([record._replace(deadline=NEVER) for record in records])


class LooksAtTheOldestOnly(Wrong):
    """As one would that drops the dead only from the front of a queue."""

    breaks = "E4"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        latest = self.__dict__.setdefault("latest", {})
        for record in records:
            latest[record.queue] = max(latest.get(record.queue, 0), record.deadline)
        return super().push([each._replace(deadline=latest[each.queue]) for each in records])


class LetsTheDeadFillTheQueue(Wrong):
    breaks = "E4"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        store = self._store
        clock = store.clock
        store.clock = lambda: BEGINNING
        try:
            return super().push(records)
        finally:
            store.clock = clock


class LetsTheDeadKeepTheirRoom(Wrong):
    breaks = "E4"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        store = weakref.proxy(self._store)
        store.has_room = lambda size, now: store.record_bytes + size <= store.channel_memory


class CountsMicroseconds(Wrong):
    breaks = "E4"

    def clock(self) -> int:
        return super().clock() // 1000


class SetsItsClockBack(Wrong):
    breaks = "E4"
    calls = 0

    def clock(self) -> int:
        self.calls += 1
        return super().clock() - (50_000_000 if self.calls % 10 == 9 else 0)


class CutsLongNames(Wrong):
    breaks = "E5"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push([record._replace(queue=record.queue[:200]) for record in records])

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        return super().pop(queue[:200], limit, bell)


class CutsLargePayloads(Wrong):
    breaks = "E5"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push([each._replace(payload=each.payload[: 1 << 20]) for each in records])


class EndsPayloadsAtZero(Wrong):
    breaks = "E5"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push([each._replace(payload=each.payload.rstrip(b"\0")) for each in records])


class StoresBeforeItChecks(Wrong):
    breaks = "E5"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        self.clock()  # Raises if closed.
        refused = []
        for position, record in enumerate(records):
            refused += [each._replace(position=position) for each in super().push([record])]
        return refused


class SwallowsWhatIsTooLarge(Wrong):
    breaks = "E5"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        try:
            return super().push(records)
        except ValueError:
            return []


class TellsNoDeadline(Wrong):
    breaks = "E5"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        return [popped._replace(deadline=NEVER) for popped in super().pop(queue, limit, bell)]


class RestoresAtTheBack(Wrong):
    breaks = "E6"

    def restore(self, queue: bytes, record: Popped) -> None:
        self.push([Record(queue, record.payload, record.deadline, MANY)])


class RestoresOnlyIntoAnEmptyQueue(Wrong):
    breaks = "E6"

    def restore(self, queue: bytes, record: Popped) -> None:
        if not self._store.queue(queue, self.clock()).entries:
            super().restore(queue, record)


class RestoresSilently(Wrong):
    breaks = "E6"

    def restore(self, queue: bytes, record: Popped) -> None:
        bells = bells_of(self, queue)
        armed = list(bells)
        bells.clear()
        super().restore(queue, record)
        bells.extend(armed)


class RestoresToLife(Wrong):
    breaks = "E6"

    def restore(self, queue: bytes, record: Popped) -> None:
        super().restore(queue, record._replace(deadline=NEVER))


class HasOneCapacityForAll(Wrong):
    breaks = "E7"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        store = self._store
        elsewhere = [store.pending - len(store.queue(each.queue, 0).entries) for each in records]
        return super().push(
            [
                each._replace(capacity=each.capacity - number)
                for each, number in zip(records, elsewhere, strict=True)
            ]
        )


class MindsNoCase(Wrong):
    breaks = "E7"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        return super().push([record._replace(queue=record.queue.lower()) for record in records])

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        return super().pop(queue.lower(), limit, bell)


# ---- tables


class RenewsNothing(Wrong):
    breaks = "E8"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        if member not in self.members(table).names:
            super().put(table, member, deadline, owner)


class LetsTablesGrowForEver(Wrong):
    breaks = "E8"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        self._store.group_memory = 1 << 40


class KeepsMembersForEver(Wrong):
    breaks = "E9"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        super().put(table, member, NEVER, owner)


class ListsTheFirstTwice(Wrong):
    breaks = "E9"

    def members(self, table: bytes, known: Members | None = None) -> Members:
        found = super().members(table, known)
        return found if found is known else found._replace(names=found.names[:1] + found.names)


class HasOneTable(Wrong):
    breaks = "E9"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        super().put(table[:1], member, deadline, owner)

    def members(self, table: bytes, known: Members | None = None) -> Members:
        return super().members(table[:1], known)

    def remove(self, table: bytes, member: bytes) -> bool:
        return super().remove(table[:1], member)


class SaysItRemoved(Wrong):
    breaks = "E10"

    def remove(self, table: bytes, member: bytes) -> bool:
        super().remove(table, member)
        return True


class SaysNotWhetherItRemoved(Wrong):
    breaks = "E10"

    def remove(self, table: bytes, member: bytes) -> bool:
        super().remove(table, member)
        return False


class BelievesWhatIsKnown(Wrong):
    breaks = "E11"

    def members(self, table: bytes, known: Members | None = None) -> Members:
        return known or super().members(table)


class KnowsNothing(Wrong):
    breaks = "E11"

    def members(self, table: bytes, known: Members | None = None) -> Members:
        return super().members(table)


class CountsInsteadOfComparing(Wrong):
    breaks = "E11"

    def members(self, table: bytes, known: Members | None = None) -> Members:
        found = super().members(table)
        return known if known and len(known.names) == len(found.names) else found


class RenewsOnlyToLater(Wrong):
    breaks = "E9"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        found = self._store.tables.get(table)
        if found is not None:
            deadline = max(deadline, found.members.get(member, 0))
        super().put(table, member, deadline, owner)


class TakesARenewalForAChange(Wrong):
    breaks = "E11"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        super().put(table, member, deadline, owner)
        self._store.tables[table].version = next(memory._versions)


class StartsItsVersionsAnew(Wrong):
    """As one would that keeps a table's version in the table, and drops empty ones."""

    breaks = "E11"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        super().put(table, member, deadline, owner)
        found = self._store.tables[table]
        found.version = len(found.members)


# ---- waiting


class NeverWakes(Wrong):
    breaks = "E12"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        return super().pop(queue, limit)


class ArmsTooLate(Wrong):
    breaks = "E12"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        found = super().pop(queue, limit)
        if bell is not None and len(found) < limit:
            time.sleep(0.0005)
            armed = bells_of(self, queue)
            if bell not in armed:
                armed.append(bell)
        return found


class StaysArmed(Wrong):
    breaks = "E12"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        before = {record.queue: list(bells_of(self, record.queue)) for record in records}
        refused = super().push(records)
        for queue, bells in before.items():
            armed = bells_of(self, queue)
            armed.extend(bell for bell in bells if bell not in armed)
        return refused


class ArmsAtEveryPop(Wrong):
    breaks = "E12"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        found = super().pop(queue, limit, bell)
        if bell is not None and bell not in bells_of(self, queue):
            bells_of(self, queue).append(bell)
        return found


class ArmsOnlyWhereNothingWas(Wrong):
    breaks = "E12"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        found = super().pop(queue, limit, bell)
        if found and bell in bells_of(self, queue):
            bells_of(self, queue).remove(bell)
        return found


class RingsForTheRefused(Wrong):
    breaks = "E12"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        refused = super().push(records)
        for each in refused:
            self._store.ring(self._store.queue(records[each.position].queue, BEGINNING))
        return refused


class ForgetsWhoWaitsAtAFlush(Wrong):
    breaks = "E12"

    def flush(self) -> None:
        super().flush()
        self._store.queues.clear()


class SendsWhoAsksAgainToTheEnd(Wrong):
    breaks = "E12"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        if bell in bells_of(self, queue):
            bells_of(self, queue).remove(bell)
        return super().pop(queue, limit, bell)


class HasNoNumberForAClosedBell(Wrong):
    """Or rather one: that of a descriptor which is somebody else's by now."""

    breaks = "E12"

    def bell(self) -> Bell:
        class OpenForEver(PipeBell):
            def __init__(self) -> None:
                super().__init__()
                self.number = self._reader

            def fileno(self) -> int:
                return self.number

        self.clock()  # Raises if closed.
        bell = OpenForEver()
        self._bells.add(bell)
        return bell


class WakesEverybody(Wrong):
    breaks = "E13"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        armed = [bell for record in records for bell in bells_of(self, record.queue)]
        refused = super().push(records)
        for bell in armed:
            bell.ring()
        return refused


class WakesTheLastToCome(Wrong):
    breaks = "E13"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        found = super().pop(queue, limit, bell)
        armed = bells_of(self, queue)
        if len(armed) > 1 and armed[-1] is bell:
            armed.rotate(1)
        return found


class RingsOnceForABatch(Wrong):
    breaks = "E13"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        bells = {record.queue: bells_of(self, record.queue) for record in records}
        late = {queue: list(armed)[1:] for queue, armed in bells.items()}
        for armed in bells.values():
            while len(armed) > 1:
                armed.pop()
        refused = super().push(records)
        for queue, armed in bells.items():
            armed.extend(late[queue])
        return refused


class RingsTheClosed(Wrong):
    breaks = "E13"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        cast(Any, self._store).ring = lambda queue: queue.bells and queue.bells.popleft().ring()


class PassesNothingOn(Wrong):
    breaks = "E14"

    def disarm(self, queue: bytes, bell: Bell) -> None:
        if bell in bells_of(self, queue):
            bells_of(self, queue).remove(bell)


class DisarmsNothing(Wrong):
    breaks = "E14"

    def disarm(self, queue: bytes, bell: Bell) -> None:
        self.clock()  # Raises if closed.


class AlwaysPassesOn(Wrong):
    breaks = "E14"

    def disarm(self, queue: bytes, bell: Bell) -> None:
        if bell in bells_of(self, queue):
            bells_of(self, queue).remove(bell)
        else:
            self._store.ring(self._store.queue(queue, BEGINNING))


# ---- processes and threads


class SaysItCrossesProcesses(Wrong):
    breaks = "E15"
    capabilities = MemoryEngine.capabilities._replace(crosses_processes=True)


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


# ---- upkeep


class FlushesNoTables(Wrong):
    breaks = "E19"

    def flush(self) -> None:
        tables = dict(self._store.tables)
        super().flush()
        self._store.tables.update(tables)


class FlushesAllQueuesButOne(Wrong):
    breaks = "E19"

    def flush(self) -> None:
        full = [(queue, list(queue.entries)) for queue in self._store.queues.values()]
        super().flush()
        for queue, entries in [each for each in full if each[1]][:1]:
            for entry in entries:
                self._store.insert(queue, entry)


class FlushesUncounted(Wrong):
    breaks = "E19"

    def flush(self) -> None:
        super().flush()
        self._store.flushes -= 1


class TakesAPushForAFlush(Wrong):
    breaks = "E19"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        self._store.flushes += 1
        return super().push(records)


class KeepsTheRoomOfTheFlushed(Wrong):
    breaks = "E19"

    def flush(self) -> None:
        used = self._store.record_bytes
        super().flush()
        self._store.record_bytes = used // 10


class CountsPopsTwice(Wrong):
    breaks = "E20"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        counts = super().statistics(queue)
        return {**counts, "popped": 2 * counts["popped"]}


class CountsNoRefusals(Wrong):
    breaks = "E20"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        return {**super().statistics(queue), "refused": 0}


class CountsRefusalsForCapacityOnly(Wrong):
    breaks = "E20"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        refused = super().push(records)
        self._store.counts["refused"] -= sum(each.no_room for each in refused)
        return refused


class ForgetsTheFlood(Wrong):
    breaks = "E20"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        counts = super().statistics(queue)
        return {**counts, "high_water": counts["pending"]}


class NeverAges(Wrong):
    breaks = "E20"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        return {**super().statistics(queue), "oldest_age": 0}


class MakesWhatItIsAskedAbout(Wrong):
    breaks = "E20"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        if queue:
            self.push([Record(queue, b"", self.clock() + 10**9, 1)])
        return super().statistics(queue)


class LeavesACountOut(Wrong):
    breaks = "E20"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        counts = super().statistics(queue)
        del counts["high_water"]
        return counts


class ClosesOnce(Wrong):
    breaks = "E21"

    def close(self) -> None:
        self.clock()  # Raises if closed.
        super().close()


class WorksWhenClosed(Wrong):
    breaks = "E21"

    def close(self) -> None:
        for bell in list(self._bells):
            bell.close()


class EmptiesTheStoreWhenClosed(Wrong):
    breaks = "E21"

    def close(self) -> None:
        if self._opened is not None:
            self.flush()
        super().close()


class LeaksItsBells(Wrong):
    breaks = "E21"

    def bell(self) -> Bell:
        bell = super().bell()
        leaked.append(bell)
        return bell

    def close(self) -> None:
        self._opened = None


class LeavesAThreadBehind(Wrong):
    breaks = "E21"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()


class SaysItSurvives(Wrong):
    breaks = "E21"
    capabilities = MemoryEngine.capabilities._replace(survives_exit=True)


class DestroysNothing(Wrong):
    breaks = "E22"

    def destroy(self) -> None:
        self.__dict__["kept"] = self._store
        leaked.append(self._store)
        self.close()


class SplitsTheStoreWhenDestroyed(Wrong):
    breaks = "E22"

    def destroy(self) -> None:
        ours = [name for name, store in memory._stores.items() if store is self._store]
        for name in ours:
            del memory._stores[name]
        self.close()


class LeavesAFileBehind(Wrong):
    breaks = "E22"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        # Gone when Python ends, so that nothing is left of a test of this.
        leaked.append(tempfile.NamedTemporaryFile(prefix=prefix))  # noqa: SIM115


class TakesAnyOption(Wrong):
    breaks = "E23"

    def __init__(
        self, prefix: str, *, channel_memory: int, group_memory: int, **options: object
    ) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)


class TakesAnySize(Wrong):
    breaks = "E23"

    def __init__(self, prefix: str, *, channel_memory: Any, group_memory: Any) -> None:
        sizes = [
            size if isinstance(size, int) and size > 0 else 1 << 20
            for size in (channel_memory, group_memory)
        ]
        super().__init__(prefix, channel_memory=sizes[0], group_memory=sizes[1])


class LeavesSomethingWhenItRefuses(Wrong):
    breaks = "E23"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        reader, writer = os.pipe()
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        os.close(reader)
        os.close(writer)


# ---- not wrong, but special


class WorksNowhere(MemoryEngine):
    """Says so."""

    @classmethod
    def unavailable(cls) -> str | None:
        return "it needs a flux capacitor; install one"


class LittersTheRun(MemoryEngine):
    """Leaves what bears the name of the run and not that of the test."""

    litter: ClassVar[Path]

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        run = prefix.partition("-")[0]
        type(self).litter = Path(tempfile.gettempdir()) / f"{run}-litter"
        self.litter.touch()


class SeesNothing(Wrong):
    breaks = "E24"

    def peek(self, queue: bytes) -> bool:
        return False


class PeeksByTaking(Wrong):
    breaks = "E24"

    def peek(self, queue: bytes) -> bool:
        return bool(self.pop(queue))


class RemembersAnEmptyQueue(Wrong):
    """What was flushed, and is filled again, it still takes to be empty."""

    breaks = "E24"
    empty: tuple[bytes, ...] = ()

    def flush(self) -> None:
        self.empty = tuple(self._store.queues)
        super().flush()

    def peek(self, queue: bytes) -> bool:
        return queue not in self.empty and super().peek(queue)


# ---- faults that take several processes, or a kill


class WrongAmongMany(MmapEngine):
    """Breaks what it says, where processes share a store or are killed."""

    breaks: ClassVar[str]


class LocksByAFile(WrongAmongMany):
    """Whoever made the file has the lock: a killed one has it for ever."""

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
        self._inside()
        return self.own


class RingsOnlyInItsOwnProcess(WrongAmongMany):
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
                self.waiting[record.queue].pop(0).ring()
        return refused


class TornJournal(Journal):
    """Carries a change out word by word, and writes down nothing."""

    def commit(self, change: Change, after: int = IDLE) -> None:
        for offset, value in change.items():
            self._words[offset] = value
            if "pytest" not in sys.modules:
                time.sleep(0.001)  # Where the kill shall come, to a process that is killed.
        self._words[STATE] = after


class WritesNoJournal(WrongAmongMany):
    breaks = "E16"

    def __init__(self, prefix: str, **options: Any) -> None:
        with mock.patch("asgi_ipc.store.log.Journal", TornJournal):
            super().__init__(prefix, **options)


class RingsTheDead(WrongAmongMany):
    """And leaves it at that, with others waiting."""

    breaks = "E13"

    def _ring(self, queue: bytes, bell: int) -> None:
        with mock.patch.object(type(self._queues), "next_bell", return_value=0):
            super()._ring(queue, bell)


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


def all_below(kind: type[Any]) -> Mapping[str, type[Any]]:
    """The engines of a kind, by name."""
    return {each.__name__: each for each in kind.__subclasses__()}
