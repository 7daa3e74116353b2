"""Inside one process: event loops in several threads, at rest, closed, or of another kind."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery import loop_listener, loop_receivers
from asgi_ipc.encoding.names import channel_name
from tests.tools.doubles import (
    KINDS,
    PATIENCE,
    engine,
    in_thread,
    patient,
    run,
    watchdog,
    way,
    without_loopback,
)
from tests.tools.receivers import (
    nothing,
    soon,
)

__all__ = ["watchdog", "way", "without_loopback"]

pytestmark = pytest.mark.usefixtures("way")


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("specific", [True, False])
def test_loops_in_threads_share_a_layer(kind: Any, specific: bool) -> None:
    layer = IPCChannelLayer(engine=engine(kind), capacity=10_000)
    got: list[list[int]] = [[] for _ in range(3)]
    channels = [run(layer.new_channel()) if specific else f"c{n}" for n in range(3)]

    def work(number: int) -> None:
        async def main() -> None:
            for _ in range(100):
                got[number].append((await layer.receive(channels[number]))["n"])

        run(main())

    threads = [in_thread(work, number) for number in range(3)]

    async def send() -> None:
        for number in range(100):
            for channel in channels:
                await layer.send(channel, {"n": number})
            await asyncio.sleep(0.001)

    run(send())
    for thread in threads:
        thread.join(PATIENCE)
    assert got == [list(range(100))] * 3
    layer.sync.close()


@pytest.mark.parametrize("kind", KINDS[:2])
def test_each_loop_is_woken_as_asyncio_demands_from_wherever(kind: Any) -> None:
    """Its debug mode tells if a loop is touched from outside."""
    layer = IPCChannelLayer(engine=engine(kind))
    names: list[str] = []

    async def receive() -> None:
        mine = [await layer.new_channel() for _ in range(3)]
        waiting = [asyncio.ensure_future(layer.receive(name)) for name in mine]
        await asyncio.sleep(0.02)
        names.extend(mine)
        for number in range(10):
            for location, name in enumerate(mine):
                assert await asyncio.wait_for(waiting[location], PATIENCE) == {"n": number}
                waiting[location] = asyncio.ensure_future(layer.receive(name))
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    failed: list[BaseException] = []

    def loop() -> None:
        try:
            asyncio.run(receive(), debug=True)
        except BaseException as error:
            failed.append(error)

    threads = [in_thread(loop) for _ in range(3)]
    while len(names) < 9 and not failed:
        time.sleep(0.01)
    for number in range(10):
        for name in names:
            layer.sync.send(name, {"n": number})
        time.sleep(0.02)
    for thread in threads:
        thread.join(PATIENCE)
    assert failed == []
    layer.sync.close()


@pytest.mark.parametrize("members", [1, 100])
def test_a_broadcast_asks_but_once_which_loop_runs(
    members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to CPython 3.11 that is a system call."""

    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine()))
        names = [await layer.new_channel() for _ in range(members + 1)]
        for name in names:
            await layer.group_add("g", name)
        asked = 0

        def counted() -> Any:
            nonlocal asked
            asked += 1
            return asyncio._get_running_loop()

        async def receive_twice(name: str) -> None:
            await layer.receive(name)
            await layer.receive(name)

        tasks = await soon(*(receive_twice(name) for name in names))
        for module in (loop_listener, loop_receivers):
            monkeypatch.setattr(module, "running_loop", counted)
        for _ in range(2):
            await layer.group_send("g", {"n": 1})
            await asyncio.sleep(0.02)
        await asyncio.gather(*tasks)
        assert asked <= 10
        await layer.close()

    run(main())


def test_a_loop_that_closes_leaves_its_bell_to_nobody() -> None:
    """A loop that got its message leaves its bell armed; another must not wait for it."""

    async def receive(channel: str) -> dict[str, Any]:
        message: dict[str, Any] = await layer.receive(channel)
        return message

    async def rest() -> None:
        for number in range(5):
            (task,) = await soon(layer.receive(channel))
            await layer.send(channel, {"n": number})
            assert await task == {"n": number}

    counting = engine()
    layer = patient(IPCChannelLayer(engine=counting))
    for channel in (run(layer.new_channel()), "c"):

        async def wait_and_get(channel: str = channel) -> None:
            (task,) = await soon(receive(channel))
            await layer.send(channel, {})
            assert await task == {}

        for _ in range(3):
            run(wait_and_get())
        run(rest())
    assert len(layer._core.demux.loops) == 1
    layer.sync.close()


def test_closed_loops_leave_no_descriptors_behind() -> None:
    layer = IPCChannelLayer(engine=engine())
    layer.sync.send("a", {})

    async def wait() -> None:
        assert await nothing(layer, "c")
        assert await nothing(layer, await layer.new_channel())

    run(wait())
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        run(wait())
    gc.collect()
    assert len(os.listdir("/dev/fd")) <= before + 1
    layer.sync.close()


@pytest.mark.parametrize("how", ["cancelled", "served", "closed"])
def test_who_waits_in_one_loop_is_served_when_the_loop_that_was_armed_goes(how: str) -> None:
    layer = patient(IPCChannelLayer(engine=engine()))
    first, second = run(layer.new_channel()), run(layer.new_channel())
    demux, queue = layer._core.demux, channel_name(first).queue
    loop = asyncio.new_event_loop()
    task = loop.create_task(layer.receive(first))
    loop.run_until_complete(asyncio.sleep(0.05))
    assert demux.own[queue].armed_by is demux.loops[id(loop)]
    got: list[Any] = []
    thread = in_thread(lambda: got.append(run(layer.receive(second))))
    while sum(map(len, demux.own[queue].waiting.values())) < 2:
        time.sleep(0.001)
    if how == "served":
        layer.sync.send(first, {})
        assert loop.run_until_complete(task) == {}
    elif how == "cancelled":
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    else:
        # Without a word; the next loop that comes along notices.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        (coroutine,) = [task.get_coro()]
        assert coroutine is not None
        run(listen_shortly(layer))
    layer.sync.send(second, {"n": 1})
    thread.join(PATIENCE)
    assert got == [{"n": 1}]
    loop.close()
    layer.sync.close()


async def listen_shortly(layer: IPCChannelLayer) -> None:
    assert await nothing(layer, "c")


def test_a_loop_that_rests_is_not_relied_upon() -> None:
    layer = patient(IPCChannelLayer(engine=engine()))
    channel = run(layer.new_channel())
    resting = asyncio.new_event_loop()
    task = resting.create_task(layer.receive(channel))
    resting.run_until_complete(asyncio.sleep(0.01))
    layer.sync.send(channel, {"n": 1})
    assert resting.run_until_complete(task) == {"n": 1}  # And its bell is armed again.

    async def main() -> None:
        (task,) = await soon(layer.receive(channel))
        await asyncio.to_thread(layer.sync.send, channel, {"n": 2})
        assert await task == {"n": 2}

    run(main())
    layer.sync.close()
    resting.close()


def test_a_message_that_is_there_is_received_without_waiting_for_the_bells_loop() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        channel = await layer.new_channel()
        (task,) = await soon(layer.receive(channel))
        await layer.send(channel, {})
        await task  # The bell is armed again.
        await layer.group_add("g", channel)
        for send in (layer.send(channel, {"n": 1}), layer.group_send("g", {"n": 1})):
            await send
            receive = layer.receive(channel)
            with pytest.raises(StopIteration) as stopped:
                receive.send(None)
            assert stopped.value.value == {"n": 1}
            await asyncio.sleep(0.01)
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("specific", [True, False])
def test_a_receive_that_is_collected_when_no_loop_runs_raises_nothing(
    kind: Any, specific: bool
) -> None:
    layer = IPCChannelLayer(engine=engine(kind))
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(layer.new_channel()) if specific else "c"
    receive = layer.receive(channel)

    async def suspend() -> None:
        # To the look, past the making of a bell.
        for _ in range(1 + layer._core.blocking):
            receive.send(None)
            await asyncio.sleep(0.05)

    loop.run_until_complete(suspend())
    receive.close()  # As a collection does it, in any thread.
    loop.run_until_complete(layer.send(channel, {"n": 1}))
    assert loop.run_until_complete(asyncio.wait_for(layer.receive(channel), PATIENCE)) == {"n": 1}
    loop.run_until_complete(layer.close())
    loop.close()


def test_a_layer_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()

    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        for channel in (await layer.new_channel(), "c"):
            (task,) = await soon(layer.receive(channel))
            await layer.send(channel, {"n": 1})
            assert await task == {"n": 1}
            assert await nothing(layer, channel)
        await layer.close()

    loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    loop.close()
    del loop
    gc.collect()
