"""Engines that behave in particular ways, and helpers, for the tests of the layers."""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from asgi_ipc.engines.base import Bell, Members, Popped, Record, Refused
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.layers import core

_Result = TypeVar("_Result")
_numbers = itertools.count()

#: Longest wait for what ought to happen, in seconds; only a test that fails waits so long.
PATIENCE = 60.0
#: Seconds after which a test is taken to hang. The longest take half a minute when two others
#: want the same processor, and a busy machine is several times slower.
WATCHDOG = 300.0


def fresh() -> str:
    """A prefix that no other test uses."""
    return f"t{next(_numbers)}"


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """`asyncio.run`, but not for ever."""

    async def limited() -> _Result:
        return await asyncio.wait_for(coroutine, WATCHDOG / 2)

    return asyncio.run(limited())


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """End the process, showing all stacks, if a test hangs. Import it to have it."""
    faulthandler.dump_traceback_later(WATCHDOG, exit=True, file=sys.__stderr__ or sys.stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


@contextmanager
def by_the_store() -> Iterator[None]:
    """What a process sends to itself goes through the store, as if another process sent it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "loop_back", lambda *arguments: False)
        yield


@pytest.fixture
def without_loopback() -> Iterator[None]:
    """The same for all of a test."""
    with by_the_store():
        yield


@pytest.fixture(params=[True, False], ids=["bypassing", "by_the_store"])
def way(request: pytest.FixtureRequest) -> None:
    """Both ways in which what a process sends to itself may reach it."""
    if not request.param:
        request.getfixturevalue("without_loopback")


class CountingEngine(MemoryEngine):
    """Counts calls by name in ``calls``."""

    def __init__(self, prefix: str, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.calls: Counter[str] = Counter()

    def push(self, records: Sequence[Record]) -> list[Refused]:
        self.calls["push"] += 1
        self.calls["records"] += len(records)
        return super().push(records)

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        self.calls["pop"] += 1
        return super().pop(queue, limit, bell)

    def disarm(self, queue: bytes, bell: Bell) -> None:
        self.calls["disarm"] += 1
        super().disarm(queue, bell)

    def members(self, table: bytes, known: Members | None = None) -> Members:
        self.calls["members"] += 1
        return super().members(table, known)

    def bell(self) -> Bell:
        self.calls["bell"] += 1
        return super().bell()


class MuteEngine(CountingEngine):
    """Signals no bells, and says so."""

    capabilities = MemoryEngine.capabilities._replace(wakes=False)

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        return super().pop(queue, limit, None)


class ForgetfulEngine(MuteEngine):
    """Signals no bells, though it says it does: as if the signalling process had been killed."""

    capabilities = MemoryEngine.capabilities


class BlockingEngine(CountingEngine):
    """Takes a while for each call, and won't be called in a thread that has a loop running."""

    capabilities = MemoryEngine.capabilities._replace(blocking=True)
    delay = 0.001

    def _block(self) -> None:
        assert asyncio._get_running_loop() is None, "the event loop is blocked"
        time.sleep(self.delay)

    def push(self, records: Sequence[Record]) -> list[Refused]:
        self._block()
        return super().push(records)

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        self._block()
        found = super().pop(queue, limit, bell)
        self._block()
        return found

    def restore(self, queue: bytes, record: Popped) -> None:
        self._block()
        super().restore(queue, record)

    def disarm(self, queue: bytes, bell: Bell) -> None:
        self._block()
        super().disarm(queue, bell)

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        self._block()
        super().put(table, member, deadline, owner)

    def members(self, table: bytes, known: Members | None = None) -> Members:
        self._block()
        return super().members(table, known)

    def flush(self) -> None:
        self._block()
        super().flush()


#: One of each; some tests take only the first two or three.
KINDS = [CountingEngine, BlockingEngine, MuteEngine, ForgetfulEngine]


def engine(kind: type[MemoryEngine] = CountingEngine, **options: Any) -> Any:
    """An engine of its own store."""
    memory = {"channel_memory": 10_000_000, "group_memory": 1_000_000}
    return kind(fresh(), **(memory | options))


def patient(layer: Any) -> Any:
    """The layer, which from now on never looks again unless it is woken.

    What is served at all is then served by a wake-up, and no test need look at the clock.
    """
    layer._core.demux.look_again = 1000.0
    return layer


def in_thread(function: Any, *arguments: Any) -> threading.Thread:
    """Run it in a thread, started; join it with a timeout."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


async def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; only a test that fails waits so long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become true"
        await asyncio.sleep(0.005)
