"""Engines that get upkeep wrong, clauses E19 to E23: flushing, counting, closing, opening."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

import asgi_ipc.engines.memory as memory
from asgi_ipc.engines.base import Bell, Record, Refused
from asgi_ipc.engines.memory import MemoryEngine
from tests.wrong_engines import (
    BEGINNING,
    Wrong,
)

#: What leaking engines leak, to keep it from the garbage collector.
leaked: list[object] = []


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


class CallsTheDeadPending(Wrong):
    """As one would that counts what has expired when somebody comes by."""

    breaks = "E20"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        store = self._store
        clock = store.clock
        store.clock = lambda: BEGINNING
        try:
            counts = super().statistics(queue)
        finally:
            store.clock = clock
        return counts


class CountsNoRoomAsCapacity(Wrong):
    breaks = "E20"

    def statistics(self, queue: bytes | None = None) -> dict[str, int]:
        return {**super().statistics(queue), "store_full": 0}


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
        for bell in self._bells.alive():
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
