"""What operations cost, counted instead of timed, so that a slow machine changes nothing.

Two counts of what runs in asgi_ipc: *opcodes* of the interpreter, whose number differs from
one Python to another but not from one run to another, and *system calls*. What these tests
hold is what makes the layer fast: nothing grows with what the store holds, one lock round for
each operation, and no system call for a receiver that is awake.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import pytest

import asgi_ipc
from asgi_ipc import IPCChannelLayer, loops
from asgi_ipc.engines import available
from asgi_ipc.spinning import Spinner
from asgi_ipc.store.engine import SharedMemoryEngine
from asgi_ipc.store.lane_extents import HOT
from conformance.opcodes import trace_nothing, trace_opcodes

from .doubles import run, watchdog

__all__ = ["watchdog"]

_PACKAGE = str(Path(asgi_ipc.__file__).parent)
_MESSAGE = {"type": "chat.message", "user": "someone", "text": "x" * 100}
#: Modules whose functions are system calls; what else asgi_ipc calls in C makes none.
_SYSTEM = {"fcntl", "posix", "select", "posix_ipc", "sysv_ipc", "mmap", "_socket"}
#: Functions of these that only work on what the process has.
_NO_CALLS = {"fspath"}
_LOCK_ROUND = ["lockf", "lockf"]
#: How much more at the far end than at the near one is still the same.
_SAME = 1.05
_COMPILED = not (sys.modules["asgi_ipc.core"].__file__ or "").endswith(".py")

pytestmark = pytest.mark.skipif(_COMPILED, reason="nothing of compiled code can be counted")

#: Opcodes on CPython 3.11 when this was written.
_ONCE = {
    "send": 685,
    "receive": 733,
    "direct send": 483,
    "direct receive": 121,
    "ordinary send": 683,
    "ordinary receive": 589,
    "broadcast": 831,
    "answer": 2066,
    "50 deliveries": 21_332,
}
#: How many times as much may be done. Other Pythons have other opcodes, but not half as many more.
_DEARER = 1.1 if sys.version_info[:2] == (3, 11) else 1.5

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
def layer(engine: str, tmp_path: Path) -> Iterator[IPCChannelLayer]:
    layer = IPCChannelLayer(
        f"costs-{secrets.token_hex(6)}",
        engine=engine,
        engine_options={"directory": str(tmp_path)},
        channel_memory=16 * 1024 * 1024,
        group_memory=4 * 1024 * 1024,
        capacity=10**6,
        expiry=3600,
    )
    # Once a second whoever comes by looks after the store. That is not what is counted here,
    # and on a slow machine there is a second between any two operations.
    store = layer._core.demux.engine
    assert isinstance(store, SharedMemoryEngine)
    store._next_look = 1 << 62
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
    mine._next_look = 1 << 62
    yield IPCChannelLayer(engine=mine, capacity=10**6, expiry=3600)
    mine.close()


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


@pytest.fixture
def at_leisure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are far between, so that who waits sleeps at once."""
    monkeypatch.setattr(Spinner, "worth_it", lambda self: False)


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages follow each other closely, so that who waits looks out for the next one."""
    monkeypatch.setattr(Spinner, "worth_it", lambda self: not self.busy)
    monkeypatch.setattr(loops, "LIMIT", 1e6)


# System calls


def test_a_send_to_a_receiver_that_is_awake_is_one_lock_round_and_nothing_else(
    layer: IPCChannelLayer,
) -> None:
    async def main() -> None:
        own = await layer.new_channel()
        for channel in ("ordinary", own):
            assert await usual(system_calls, partial(layer.send, channel, _MESSAGE)) == _LOCK_ROUND

    run(main())


def test_a_synchronous_send_is_one_lock_round_and_nothing_else(layer: IPCChannelLayer) -> None:
    async def send() -> None:
        layer.sync.send("ordinary", _MESSAGE)

    assert run(usual(system_calls, send)) == _LOCK_ROUND


def test_a_receive_that_finds_a_message_is_one_lock_round_and_nothing_else(
    layer: IPCChannelLayer, other: IPCChannelLayer
) -> None:
    async def main() -> None:
        own = await layer.new_channel()
        for channel in ("ordinary", own):
            calls = await usual(
                system_calls,
                partial(layer.receive, channel),
                partial(other.send, channel, _MESSAGE),
            )
            assert calls == _LOCK_ROUND

    run(main())


@pytest.mark.usefixtures("at_leisure")
def test_a_message_to_the_same_process_makes_no_system_call(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        own = await layer.new_channel()

        async def send_and_receive() -> None:
            await layer.send(own, _MESSAGE)
            await layer.receive(own)

        assert await usual(system_calls, send_and_receive) == []
        async with Members(layer, "room", 3):

            async def send_to_all() -> None:
                await layer.group_send("room", _MESSAGE)
                await settle()

            assert await usual(system_calls, send_to_all) == []

    run(main())


def test_messages_that_wait_on_an_own_channel_are_fetched_in_one_lock_round(
    layer: IPCChannelLayer,
) -> None:
    async def main() -> None:
        own = await layer.new_channel()

        async def send_some() -> None:
            for _ in range(20):
                await layer.send(own, _MESSAGE)

        async def receive_some() -> None:
            for _ in range(20):
                await layer.receive(own)

        assert await usual(system_calls, receive_some, send_some) == _LOCK_ROUND

    run(main())


@pytest.mark.usefixtures("at_leisure")
def test_a_round_trip_of_a_waiting_receiver_is_few_system_calls(
    layer: IPCChannelLayer, other: IPCChannelLayer
) -> None:
    """It is woken, takes the message, answers one who is awake, and waits again."""

    async def main() -> None:
        async with Trip(layer, other, "ordinary") as trip:
            calls = await usual(system_calls, trip.answer, trip.ask)
        assert calls.count("write") == 0
        # The ring is heard.
        assert calls.count("read") == 1
        # One to take the message, one to answer, and up to two to wait again.
        assert calls.count("lockf") <= 2 * 4
        assert set(calls) == {"lockf", "read"}

    run(main())


@pytest.mark.usefixtures("at_leisure")
def test_a_send_to_a_waiting_receiver_is_one_lock_round_and_one_ring(
    layer: IPCChannelLayer, other: IPCChannelLayer
) -> None:
    async def main() -> None:
        async with Trip(layer, other, "ordinary") as trip:
            calls = await usual(system_calls, trip.ask, trip.answer)
        assert calls == [*_LOCK_ROUND, "write"]

    run(main())


@pytest.mark.usefixtures("in_a_hurry")
def test_a_receiver_that_looks_out_is_not_rung_for_and_takes_the_message_in_one_lock_round(
    layer: IPCChannelLayer, other: IPCChannelLayer
) -> None:
    async def main() -> None:
        async with Trip(layer, other, "ordinary") as trip:
            assert await usual(system_calls, trip.ask, trip.answer) == _LOCK_ROUND
            calls = await usual(system_calls, trip.answer, trip.ask)
        # One to take the message, one to answer.
        assert [call for call in calls if call != "sched_yield"] == 2 * _LOCK_ROUND

    run(main())


def test_a_broadcast_to_a_known_group_is_one_lock_round_and_nothing_else(
    layer: IPCChannelLayer,
) -> None:
    async def main() -> None:
        for number in range(50):
            await layer.group_add("own", await layer.new_channel())
            await layer.group_add("ordinary", f"ordinary.{number}")
        for group in ("own", "ordinary"):
            calls = await usual(system_calls, partial(layer.group_send, group, _MESSAGE))
            assert calls == _LOCK_ROUND

    run(main())


def test_joining_and_leaving_a_group_is_one_lock_round_each(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        channel = await layer.new_channel()
        for action in (layer.group_add, layer.group_discard):
            assert await usual(system_calls, partial(action, "room", channel)) == _LOCK_ROUND

    run(main())


# Growth


async def settle() -> None:
    """Let who was woken do what there is to do."""
    for _ in range(3):
        await asyncio.sleep(0)


async def pair(
    layer: IPCChannelLayer, channel: str, reader: IPCChannelLayer | None = None
) -> tuple[int, int]:
    """Opcodes of a send and of the receive after it."""
    sends, receives = [], []
    for number in range(9):
        send = await opcodes(partial(layer.send, channel, _MESSAGE))
        receive = await opcodes(partial((reader or layer).receive, channel))
        if number > 2:
            sends.append(send)
            receives.append(receive)
    return statistics.mode(sends), statistics.mode(receives)


async def fill(layer: IPCChannelLayer, channels: list[str]) -> None:
    for channel in channels:
        await layer.send(channel, _MESSAGE)


def test_send_and_receive_cost_the_same_behind_10000_messages(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        near = await pair(layer, "queue")
        await fill(layer, ["queue"] * 10_000)
        assert_same(near, await pair(layer, "queue"))

    run(main())


def test_send_and_receive_cost_the_same_among_5000_channels(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        # Names fall on longer and shorter chains of the hash table.
        measured = [f"measured.{number}" for number in range(10)]
        await fill(layer, [f"other.{number}" for number in range(10)] + measured)
        near = [await pair(layer, channel) for channel in measured]
        await fill(layer, [f"other.{number}" for number in range(10, 5_000)])
        far = [await pair(layer, channel) for channel in measured]
        # On the chains of the hash table there may be one more to pass.
        assert_same(means(near), means(far), 1.15)

    run(main())


def test_a_broadcast_to_one_process_costs_the_same_for_1_100_and_1000_members(
    layer: IPCChannelLayer,
) -> None:
    async def main() -> None:
        costs = []
        for count in (1, 100, 1000):
            group = f"group-{count}"
            for _ in range(count):
                await layer.group_add(group, await layer.new_channel())
            costs.append(await usual(opcodes, partial(layer.group_send, group, _MESSAGE)))
        one, hundred, thousand = costs
        assert_same([one], [hundred])
        # A record that goes over the edge of an extent is written in pieces.
        assert thousand <= 1.5 * one, costs

    run(main())


def test_joining_and_leaving_cost_the_same_among_5000_members(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        channels = [await layer.new_channel() for _ in range(20)]

        async def join_and_leave() -> list[float]:
            joins, leaves = [], []
            for channel in channels:
                joins.append(await opcodes(partial(layer.group_add, "room", channel)))
            for channel in channels:
                leaves.append(await opcodes(partial(layer.group_discard, "room", channel)))
            return [statistics.median(joins), statistics.median(leaves)]

        await join_and_leave()
        near = await join_and_leave()
        for _ in range(5_000):
            await layer.group_add("room", await layer.new_channel())
        assert_same(near, await join_and_leave(), 1.5)

    run(main())


def means(pairs: list[tuple[int, int]]) -> list[float]:
    return [statistics.mean(column) for column in zip(*pairs, strict=True)]


def assert_same(near: Iterable[float], far: Iterable[float], same: float = _SAME) -> None:
    near, far = list(near), list(far)
    assert all(b <= a * same for a, b in zip(near, far, strict=True)), (near, far)


# Bounds


@pytest.mark.usefixtures("at_leisure")
def test_no_operation_runs_much_more_than_it_did(
    layer: IPCChannelLayer, other: IPCChannelLayer
) -> None:
    async def main() -> dict[str, int]:
        own, answers = await layer.new_channel(), "answers"
        # Queues in use, as most are.
        for _ in range(2 * HOT):
            for channel in (own, "ordinary", answers):
                await other.send(channel, _MESSAGE)
                await layer.receive(channel)
        send, receive = await pair(other, own, layer)
        direct_send, direct_receive = await pair(layer, own)
        ordinary_send, ordinary_receive = await pair(layer, "ordinary")
        await layer.group_add("room", own)
        broadcast = await usual(opcodes, partial(other.group_send, "room", _MESSAGE))
        async with Trip(layer, other, answers) as trip:
            answer = await usual(opcodes, trip.answer, trip.ask)
        async with Members(layer, "members", 50):
            deliveries = await usual(opcodes, settle, partial(other.group_send, "members", {}))
        return {
            "send": send,
            "receive": receive,
            "direct send": direct_send,
            "direct receive": direct_receive,
            "ordinary send": ordinary_send,
            "ordinary receive": ordinary_receive,
            "broadcast": broadcast,
            "answer": answer,
            "50 deliveries": deliveries,
        }

    counted = run(main())
    dearer = {name: count for name, count in counted.items() if count > _DEARER * _ONCE[name]}
    assert not dearer, f"of {counted}"


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
    """One side of a round trip: somebody who waits, answers, and waits again."""

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
        await self._asks.send(self._own, _MESSAGE)

    async def answer(self) -> None:
        """What this side does then, until it waits again."""
        await self._answered.wait()
        await settle()

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
