"""What operations cost, counted instead of timed, so that a slow machine changes nothing.

Two counts of what runs in asgi_ipc: *opcodes* of the interpreter, whose number differs from
one Python to another but not from one run to another, and *system calls*.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import pytest

import asgi_ipc
from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery import loop_listener
from asgi_ipc.delivery.spinning import Spinner
from asgi_ipc.engines import available
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap.heap import Heap
from asgi_ipc.engines.shm.locked_segment import LockedSegment
from asgi_ipc.engines.shm.locks import base
from conformance.opcodes import trace_nothing, trace_opcodes

_PACKAGE = str(Path(asgi_ipc.__file__).parent)
MESSAGE = {"type": "chat.message", "user": "someone", "text": "x" * 100}
#: Modules whose functions are system calls; what else asgi_ipc calls in C makes none.
_SYSTEM = {"fcntl", "posix", "select", "_posixshmem", "sysv_ipc", "mmap", "_socket"}
#: Functions of these that only work on what the process has.
_NO_CALLS = {"fspath"}
_COMPILED = not (sys.modules["asgi_ipc.layers.core"].__file__ or "").endswith(".py")

#: For each module of tests that counts.
countable = pytest.mark.skipif(_COMPILED, reason="nothing of compiled code can be counted")

#: Kinds of lock, by name.
RECORD_LOCKS, SEMAPHORE = base.NAMES[base.FCNTL], base.NAMES[base.SEMAPHORE]

Action = Callable[[], Awaitable[object]]
_Count = TypeVar("_Count")


@pytest.fixture(params=["posix", "sysv", "mmap"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    why = available()[name]
    if why:
        pytest.skip(why)
    return name


@pytest.fixture
def engine_options() -> dict[str, str]:
    """None: what is counted is what a user has by default."""
    return {}


@pytest.fixture
def layer(engine: str, engine_options: dict[str, str]) -> Iterator[IPCChannelLayer]:
    layer = IPCChannelLayer(
        f"costs-{secrets.token_hex(6)}",
        engine=engine,
        engine_options=engine_options,
        channel_memory=16 * 1024 * 1024,
        group_memory=4 * 1024 * 1024,
        capacity=10**6,
        expiry=3600,
    )
    # Once a second the next caller does the store's upkeep. That is not what is counted here,
    # and on a slow machine there is a second between any two operations.
    store = layer._core.demux.engine
    assert isinstance(store, SharedMemoryEngine)
    store.upkeep.due = 1 << 62
    yield layer
    layer.sync.destroy()


@pytest.fixture
def other(layer: IPCChannelLayer) -> Iterator[IPCChannelLayer]:
    """A layer on the same store as another process would have it."""
    store = layer._core.demux.engine
    assert isinstance(store, SharedMemoryEngine)
    mine = type(store)(
        layer._core.options.prefix,
        channel_memory=16 * 1024 * 1024,
        group_memory=4 * 1024 * 1024,
        **layer._core.options.engine_options,
    )
    mine.upkeep.due = 1 << 62
    yield IPCChannelLayer(engine=mine, capacity=10**6, expiry=3600)
    mine.close()


@pytest.fixture
def at_leisure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are far between, so that a receiver sleeps at once."""
    monkeypatch.setattr(Spinner, "worth_it", lambda self: False)


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages follow each other closely, so that a receiver spins for the next one."""
    monkeypatch.setattr(Spinner, "worth_it", lambda self: not self.busy)
    monkeypatch.setattr(loop_listener, "LIMIT", 1e6)


def kind_of_lock(layer: IPCChannelLayer) -> str:
    """The kind of lock of a layer's store: `RECORD_LOCKS`, `SEMAPHORE` or another name."""
    store = layer._core.demux.engine
    assert isinstance(store, SharedMemoryEngine)
    assert store.session.store is not None
    return base.NAMES[store.session.store.lock_file.kind]


async def opcodes(action: Action) -> int:
    """How many opcodes of asgi_ipc run until an action is done, the event loop's work included."""
    count = 0

    def each(code: CodeType, offset: int) -> None:
        nonlocal count
        count += code.co_filename.startswith(_PACKAGE)

    trace_opcodes(each)
    try:
        await action()
    finally:
        trace_nothing()
    assert count, "nothing was counted"
    return count


def holds(action: Callable[[], object]) -> list[int]:
    """How many opcodes of asgi_ipc run in each hold of a segment's lock, until an action is done.

    From before the lock is taken until after it has been given back.
    """
    counts: list[int] = []
    count = 0
    enter, leave = LockedSegment.__enter__, LockedSegment.__exit__

    def each(code: CodeType, offset: int) -> None:
        nonlocal count
        count += code.co_filename.startswith(_PACKAGE)

    def counted_enter(self: LockedSegment) -> Heap:
        nonlocal count
        count = 0
        return enter(self)

    def counted_leave(self: LockedSegment, *error: Any) -> None:
        try:
            leave(self, *error)
        finally:
            counts.append(count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LockedSegment, "__enter__", counted_enter)
        patch.setattr(LockedSegment, "__exit__", counted_leave)
        trace_opcodes(each)
        try:
            action()
        finally:
            trace_nothing()
    assert counts, "no lock was taken"
    return counts


async def system_calls(action: Action) -> list[str]:
    """The system calls that asgi_ipc makes until an action is done, by name and in order."""
    calls: list[str] = []

    def profile(frame: FrameType, event: str, function: Any) -> None:
        if (
            event == "c_call"
            and getattr(function, "__module__", None) in _SYSTEM
            and function.__name__ not in _NO_CALLS
            and frame.f_code.co_filename.startswith(_PACKAGE)
        ):
            calls.append(function.__name__)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        await action()
    finally:
        sys.setprofile(before)
    return calls


async def usual(
    count: Callable[[Action], Awaitable[_Count]], action: Action, before: Action | None = None
) -> _Count:
    """The usual count of an action that is done again and again, each time after another.

    The first times something is made that lasts.
    """
    counts = []
    for number in range(9):
        if before is not None:
            await before()
        each = await count(action)
        if number > 2:
            counts.append(each)
    return max(counts, key=counts.count)


async def settle() -> None:
    """Let woken receivers do what there is to do."""
    for _ in range(3):
        await asyncio.sleep(0)


class Members:
    """Members of a group, each of which waits for one message after another."""

    def __init__(self, layer: IPCChannelLayer, group: str, number: int) -> None:
        self._layer, self._group, self._number = layer, group, number

    async def _receive(self, channel: str) -> None:
        while True:
            await self._layer.receive(channel)

    async def __aenter__(self) -> None:
        names = [await self._layer.new_channel() for _ in range(self._number)]
        for name in names:
            await self._layer.group_add(self._group, name)
        self._tasks = [asyncio.create_task(self._receive(name)) for name in names]
        await settle()

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Trip:
    """One side of a round trip: it waits for a message, answers, and waits again."""

    def __init__(self, layer: IPCChannelLayer, asks: IPCChannelLayer, answers: str) -> None:
        self._layer, self._asks, self._answers = layer, asks, answers
        self._answered = asyncio.Event()
        self._answered.set()

    async def _serve(self) -> None:
        while True:
            message = await self._layer.receive(self._own)
            await self._layer.send(self._answers, message)
            self._answered.set()

    async def __aenter__(self) -> Trip:
        self._own = await self._layer.new_channel()
        self._task = asyncio.create_task(self._serve())
        await settle()
        return self

    async def ask(self) -> None:
        """What the other side does first."""
        self._answered.clear()
        await self._asks.send(self._own, MESSAGE)

    async def answer(self) -> None:
        """What this side does then, until it waits again."""
        await self._answered.wait()
        await settle()

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
