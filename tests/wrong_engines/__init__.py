"""Engines with one fault each, to see that the conformance suite can fail.

Each says in ``breaks`` which clause of `asgi_ipc.engines.base` it breaks; the suite must
catch it by a test that names that clause. Most are `MemoryEngine` but for a few lines,
and those with faults that only other processes can see are `MmapEngine`. Of some the
Segment is wrong.

The modules are named after the sections of the contract, and each has the engines that
get its section wrong. Here are those that break nothing, and what the others are made of.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import secrets
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from asgi_ipc.engines.base import Bell, Popped, Record, Refused
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.exceptions import StoreUnavailable

#: A deadline that never comes, and the first instant.
NEVER, BEGINNING = 1 << 62, 0


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


class LeavesADestroyedStore(MmapEngine):
    """Breaks nothing: never goes on in a store that took the place of its own (E22)."""

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self._first = self._there()

    def _there(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self.session.location.directory).st_ino
        return 0

    def push(self, records: Sequence[Record]) -> list[Refused]:
        if self._there() != self._first:
            raise StoreUnavailable("another process has destroyed the store; open another")
        return super().push(records)


class ReckonsTheTimeOfAServer(MemoryEngine):
    """Breaks nothing: each engine has heard the time a moment sooner or later."""

    capabilities = MemoryEngine.capabilities._replace(blocking=True)

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self._late = secrets.randbelow(1_000_000)

    def clock(self) -> int:
        return super().clock() - self._late


class WorksNowhere(MemoryEngine):
    """Says so."""

    @classmethod
    def unavailable(cls) -> str | None:
        return "it needs a flux capacitor; install one"


class RaisesInAThread(MemoryEngine):
    """Where no test of the suite sees it."""

    def close(self) -> None:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        super().close()


class LittersTheRun(MemoryEngine):
    """Leaves what bears the name of the run and not that of the test."""

    litter: ClassVar[Path]

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        run = prefix.partition("-")[0]
        type(self).litter = Path(tempfile.gettempdir()) / f"{run}-litter"
        self.litter.touch()


class Wrong(MemoryEngine):
    """Breaks what it says."""

    breaks: ClassVar[str]


class WrongAmongMany(MmapEngine):
    """Breaks what it says, where processes share a store or are killed."""

    breaks: ClassVar[str]
    #: As `pytest -k` takes it: the tests among which is the one that sees it.
    seen_by: ClassVar[str] = "test_processes or test_crash"


class WrongMemory(SharedMemoryEngine):
    """Has a Segment that breaks what it says of `asgi_ipc.engines.shm.segment`."""

    name = "wrong"
    breaks: ClassVar[str]


def all_below(kind: type[Any]) -> Mapping[str, type[Any]]:
    """The engines of a kind, from all modules here, by what ``--engine`` takes for them."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    return {f"{each.__module__}:{each.__name__}": each for each in kind.__subclasses__()}
