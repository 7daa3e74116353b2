"""Engines that get queues wrong, clauses E1 to E7: what is pushed, popped and restored."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Sequence

from asgi_ipc.engines.base import Bell, Popped, Record, Refused
from tests.wrong_engines import (
    BEGINNING,
    NEVER,
    Wrong,
    bells_of,
)

MANY = 1 << 30


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


class LetsOneQueueHaveItAll(Wrong):
    breaks = "E7"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        for record in records:
            # As if what it has were another's.
            self._store.queue(record.queue, self.clock()).bytes = -(1 << 40)
        return super().push(records)


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
        room = store.channel_memory
        store.room = lambda queue, size, now: (store.record_bytes + size <= room, True)


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
