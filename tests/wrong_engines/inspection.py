"""Engines that get inspection wrong, clauses E27 to E31: listing, looking, noting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from asgi_ipc.engines.base import COUNTERS, LOOK_RECORDS, Popped, ProcessInfo, QueueInfo, TableInfo
from tests.wrong_engines import BEGINNING, Wrong, WrongAmongMany


class SkipsOneWhenOneGoes(Wrong):
    """As an engine would that remembers how many it has listed."""

    breaks = "E27"

    def queues(self) -> Iterator[QueueInfo]:
        self._store  # noqa: B018 (raises once it is closed)
        return self._by_number()

    def _by_number(self) -> Iterator[QueueInfo]:
        number = 0
        while True:
            there = [info for info in super().queues() if info.pending or info.waiting]
            if number >= len(there):
                return
            yield there[number]
            number += 1


class ListsNoQueueThatIsOnlyAwaited(Wrong):
    breaks = "E27"

    def queues(self) -> Iterator[QueueInfo]:
        return iter([info for info in super().queues() if info.pending])


class ListsATableForEachMember(Wrong):
    breaks = "E27"

    def tables(self) -> Iterator[TableInfo]:
        return iter([info for info in super().tables() for _ in range(info.members)])


class ListsTheClosed(Wrong):
    breaks = "E27"

    def processes(self) -> Iterator[ProcessInfo]:
        store = self._store
        here: dict[bytes, ProcessInfo] = store.__dict__.setdefault("ever", {})
        here.update({info.identity: info for info in super().processes()})
        return iter(list(here.values()))


class TellsOfThePastOfAQueue(Wrong):
    breaks = "E28"

    def queues(self) -> Iterator[QueueInfo]:
        return iter([info._replace(pending=info.pushed) for info in super().queues()])


class TellsNoOwner(Wrong):
    breaks = "E28"

    def queues(self) -> Iterator[QueueInfo]:
        return iter([info._replace(owner=b"") for info in super().queues()])


class TakesABellForOneThatWaits(Wrong):
    """Whether or not it is armed."""

    breaks = "E28"

    def queues(self) -> Iterator[QueueInfo]:
        return iter([info._replace(waiting=True) for info in super().queues()])


class LooksAtTheNewest(Wrong):
    breaks = "E29"

    def look(self, queue: bytes, limit: int = LOOK_RECORDS) -> list[Popped]:
        found = super().look(queue)
        return found[len(found) - min(limit, len(found)) :]


class LooksAtTheDead(Wrong):
    breaks = "E29"

    def look(self, queue: bytes, limit: int = LOOK_RECORDS) -> list[Popped]:
        with mock.patch.object(self._store, "clock", return_value=BEGINNING):
            return super().look(queue, limit)


class TakesWhatItLooksAt(Wrong):
    breaks = "E29"

    def look(self, queue: bytes, limit: int = LOOK_RECORDS) -> list[Popped]:
        found = super().look(queue, limit)
        return self.pop(queue, len(found)) if found else found


class LooksWithoutBound(Wrong):
    breaks = "E29"

    def look(self, queue: bytes, limit: int = LOOK_RECORDS) -> list[Popped]:
        super().look(queue, limit)
        return [
            Popped(e.payload, e.deadline) for e in self._store.queue(queue, self.clock()).entries
        ]


class HoldsTheLockFromItemToItem(Wrong):
    breaks = "E30"

    def queues(self) -> Iterator[QueueInfo]:
        found = list(super().queues())
        return self._one_by_one(found)

    def _one_by_one(self, found: list[QueueInfo]) -> Iterator[QueueInfo]:
        with self._store.lock:
            yield from found


class SignalsWhatItLists(Wrong):
    breaks = "E30"

    def queues(self) -> Iterator[QueueInfo]:
        for name, queue in list(self._store.queues.items()):
            self._store.signal(name, queue)
        return super().queues()


class CountsALookAsAPop(Wrong):
    breaks = "E30"

    def look(self, queue: bytes, limit: int = LOOK_RECORDS) -> list[Popped]:
        for popped in reversed(self.pop(queue, limit)):
            self._store.counts["high_water"] += 1
            self.restore(queue, popped)
        return super().look(queue, limit)


class AddsToWhatWasNoted(Wrong):
    breaks = "E31"

    def note(self, counts: Mapping[str, int]) -> None:
        before = self.noted()
        super().note({name: counts.get(name, 0) + before[name] for name in before})


class ForgetsWhatTheClosedHaveNoted(Wrong):
    breaks = "E31"

    def close(self) -> None:
        self._notes.clear()
        super().close()


class KeepsWhatTheClosedHeld(Wrong):
    breaks = "E31"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        counts = super().statistics(queue)
        if queue is None:
            counts["held"] = self._store.__dict__.setdefault("held", counts["held"])
            self._store.__dict__["held"] = counts["held"] = max(counts["held"], self._held())
        return counts

    def _held(self) -> int:
        return sum(info.counts["held"] for info in super().processes())


class ForgetsWhatTheKilledHaveNoted(WrongAmongMany):
    breaks = "E31"
    seen_by = "killed_process_stay"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        counts = super().statistics(queue)
        if queue is None:
            alive = [info.counts for info in self.processes()]
            counts.update({name: sum(each[name] for each in alive) for name in COUNTERS})
        return counts


class ListsTheKilled(WrongAmongMany):
    breaks = "E27"
    seen_by = "until_it_is_killed"

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.ever: dict[bytes, ProcessInfo] = {}

    def processes(self) -> Iterator[ProcessInfo]:
        self.ever.update({info.identity: info for info in super().processes()})
        return iter(list(self.ever.values()))


class ForgetsBytesOfGroups(Wrong):
    """A full memory of groups then looks nearly empty."""

    breaks = "E20"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        counts = super().statistics(queue)
        if queue is None:
            counts["group_bytes_used"] = counts["group_bytes_reserved"] = counts["bytes_used"]
            counts["channel_bytes_used"] = counts["channel_bytes_reserved"] = counts["bytes_used"]
        return counts
