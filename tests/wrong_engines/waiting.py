"""Engines that get waiting wrong, clauses E12 to E14, E24 and E26: bells, and a look at a queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from asgi_ipc.engines.base import Bell, Popped, Record, Refused
from asgi_ipc.engines.bell import PipeBell
from tests.wrong_engines import (
    BEGINNING,
    Wrong,
    bells_of,
)


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


class SignalsForTheRefused(Wrong):
    breaks = "E12"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        refused = super().push(records)
        for each in refused:
            name = records[each.position].queue
            self._store.signal(name, self._store.queue(name, BEGINNING))
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
    """Or rather one: that of a descriptor which another owner has by now."""

    breaks = "E12"

    def bell(self) -> Bell:
        class OpenForEver(PipeBell):
            def __init__(self) -> None:
                super().__init__()
                self.number = super().fileno()

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
            bell.signal()
        return refused


class WakesTheLastToCome(Wrong):
    breaks = "E13"

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        found = super().pop(queue, limit, bell)
        armed = bells_of(self, queue)
        if len(armed) > 1 and armed[-1] is bell:
            armed.rotate(1)
        return found


class SignalsOnceForABatch(Wrong):
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


class SignalsTheClosed(Wrong):
    breaks = "E13"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        cast(Any, self._store).signal = lambda queue: queue.bells and queue.bells.popleft().signal()


class LeavesTheOthersToTheFirst(Wrong):
    breaks = "E26"

    def push(self, records: Sequence[Record]) -> list[Refused]:
        armed = [bells_of(self, record.queue) for record in records]
        others = [bells.popleft() for bells in armed[1:] if bells]
        if others and armed[0]:
            first, clear = armed[0][0], armed[0][0].clear

            def clear_and_signal() -> Any:
                for bell in others:
                    bell.signal()
                return clear()

            first.clear = clear_and_signal
        return super().push(records)


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
            self._store.signal(queue, self._store.queue(queue, BEGINNING))


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
