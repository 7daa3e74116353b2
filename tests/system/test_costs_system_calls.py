"""The system calls of operations: one lock round for each, and none to wake who is awake."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery import loop_listener
from asgi_ipc.delivery.spinning import Spinner
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.locks.base import FCNTL, NAMES, SEMAPHORE
from tests.tools.costs import (
    MESSAGE,
    Members,
    Trip,
    at_leisure,
    countable,
    engine,
    layer,
    other,
    settle,
    system_calls,
    usual,
)
from tests.tools.doubles import (
    run,
    watchdog,
)

__all__ = ["at_leisure", "engine", "layer", "other", "watchdog"]

pytestmark = countable


@pytest.fixture(params=[SEMAPHORE, FCNTL], ids=lambda kind: NAMES[kind])
def kind(request: pytest.FixtureRequest) -> int:
    """Of the locks."""
    kind: int = request.param
    return kind


@pytest.fixture
def engine_options(kind: int, tmp_path: Path) -> dict[str, str]:
    # In a folder that is named, and not in shared memory, semaphores are not used.
    return {} if kind == SEMAPHORE else {"directory": str(tmp_path)}


@pytest.fixture
def lock_round(layer: IPCChannelLayer, kind: int) -> list[str]:
    """The system calls that taking and giving back a lock costs."""
    store = layer._core.demux.engine
    assert isinstance(store, SharedMemoryEngine)
    assert store._store is not None
    if store._store.lock_file.kind != kind:
        pytest.skip(f"this system has no {NAMES[kind]}, or no folder that needs none")
    return [] if kind == SEMAPHORE else ["lockf", "lockf"]


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages follow each other closely, so that who waits spins for the next one."""
    monkeypatch.setattr(Spinner, "worth_it", lambda self: not self.busy)
    monkeypatch.setattr(loop_listener, "LIMIT", 1e6)


def test_a_send_to_a_receiver_that_is_awake_is_one_lock_round_and_nothing_else(
    layer: IPCChannelLayer,
    lock_round: list[str],
) -> None:
    async def main() -> None:
        own = await layer.new_channel()
        for channel in ("ordinary", own):
            assert await usual(system_calls, partial(layer.send, channel, MESSAGE)) == lock_round

    run(main())


def test_a_synchronous_send_is_one_lock_round_and_nothing_else(
    layer: IPCChannelLayer, lock_round: list[str]
) -> None:
    async def send() -> None:
        layer.sync.send("ordinary", MESSAGE)

    assert run(usual(system_calls, send)) == lock_round


def test_a_receive_that_finds_a_message_is_one_lock_round_and_nothing_else(
    layer: IPCChannelLayer, other: IPCChannelLayer, lock_round: list[str]
) -> None:
    async def main() -> None:
        own = await layer.new_channel()
        for channel in ("ordinary", own):
            calls = await usual(
                system_calls,
                partial(layer.receive, channel),
                partial(other.send, channel, MESSAGE),
            )
            assert calls == lock_round

    run(main())


@pytest.mark.usefixtures("at_leisure")
def test_a_message_to_the_same_process_makes_no_system_call(layer: IPCChannelLayer) -> None:
    async def main() -> None:
        own = await layer.new_channel()

        async def send_and_receive() -> None:
            await layer.send(own, MESSAGE)
            await layer.receive(own)

        assert await usual(system_calls, send_and_receive) == []
        async with Members(layer, "room", 3):

            async def send_to_all() -> None:
                await layer.group_send("room", MESSAGE)
                await settle()

            assert await usual(system_calls, send_to_all) == []

    run(main())


def test_messages_that_wait_on_an_own_channel_are_fetched_in_one_lock_round(
    layer: IPCChannelLayer,
    lock_round: list[str],
) -> None:
    async def main() -> None:
        own = await layer.new_channel()

        async def send_some() -> None:
            for _ in range(20):
                await layer.send(own, MESSAGE)

        async def receive_some() -> None:
            for _ in range(20):
                await layer.receive(own)

        assert await usual(system_calls, receive_some, send_some) == lock_round

    run(main())


@pytest.mark.usefixtures("at_leisure")
def test_a_round_trip_of_a_waiting_receiver_is_few_system_calls(
    layer: IPCChannelLayer, other: IPCChannelLayer, lock_round: list[str]
) -> None:
    """It is woken, takes the message, answers one who is awake, and waits again."""

    async def main() -> None:
        async with Trip(layer, other, "ordinary") as trip:
            calls = await usual(system_calls, trip.answer, trip.ask)
        assert calls.count("write") == 0
        # The signal is heard.
        assert calls.count("read") == 1
        # One to take the message, one to answer, and up to two to wait again.
        assert calls.count("lockf") <= 2 * 4
        assert set(calls) == {*lock_round, "read"}

    run(main())


@pytest.mark.usefixtures("at_leisure")
def test_a_send_to_a_waiting_receiver_is_one_lock_round_and_one_signal(
    layer: IPCChannelLayer, other: IPCChannelLayer, lock_round: list[str]
) -> None:
    async def main() -> None:
        async with Trip(layer, other, "ordinary") as trip:
            calls = await usual(system_calls, trip.ask, trip.answer)
        assert calls == [*lock_round, "write"]

    run(main())


@pytest.mark.usefixtures("in_a_hurry")
def test_a_receiver_that_spins_is_not_signalled_for_and_takes_the_message_in_one_lock_round(
    layer: IPCChannelLayer, other: IPCChannelLayer, lock_round: list[str]
) -> None:
    async def main() -> None:
        async with Trip(layer, other, "ordinary") as trip:
            assert await usual(system_calls, trip.ask, trip.answer) == lock_round
            calls = await usual(system_calls, trip.answer, trip.ask)
        # One to take the message, one to answer.
        assert [call for call in calls if call != "sched_yield"] == 2 * lock_round

    run(main())


def test_a_broadcast_to_a_known_group_is_one_lock_round_and_nothing_else(
    layer: IPCChannelLayer,
    lock_round: list[str],
) -> None:
    async def main() -> None:
        for number in range(50):
            await layer.group_add("own", await layer.new_channel())
            await layer.group_add("ordinary", f"ordinary.{number}")
        for group, rounds in (("own", 1), ("ordinary", 2)):
            # One for every 25 queues, so that others wait for no more.
            calls = await usual(system_calls, partial(layer.group_send, group, MESSAGE))
            assert calls == rounds * lock_round

    run(main())


def test_joining_and_leaving_a_group_is_one_lock_round_each(
    layer: IPCChannelLayer, lock_round: list[str]
) -> None:
    async def main() -> None:
        channel = await layer.new_channel()
        for action in (layer.group_add, layer.group_discard):
            assert await usual(system_calls, partial(action, "room", channel)) == lock_round

    run(main())
