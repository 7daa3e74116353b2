"""Event loops: several on one layer, closed with receivers waiting, and receivers cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from tests.tools.doubles import (
    PATIENCE,
    run,
    watchdog,
)
from tests.tools.layers import (
    engine_of,
    options,
)
from tests.tools.stores import (
    assert_sound,
    wait,
)

__all__ = ["options", "watchdog"]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


@pytest.mark.parametrize("options", ["posix"], indirect=True)
@pytest.mark.parametrize("first_runs", [True, False], ids=["which runs elsewhere", "which stopped"])
def test_a_loop_receives_on_a_channel_of_another_loop(
    options: dict[str, Any], first_runs: bool
) -> None:
    """Where receivers of a first loop wait, so that all seems ready for one more."""
    layer = IPCChannelLayer(**options)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    waiting: list[asyncio.Future[Any]] = []

    async def begin() -> str:
        mine = [await layer.new_channel() for _ in range(3)]
        # Known to the layer from now on; the last one has nobody waiting.
        await layer.send(mine[2], {"n": 0})
        assert await layer.receive(mine[2]) == {"n": 0}
        waiting.extend(asyncio.ensure_future(layer.receive(name)) for name in mine[:2])
        await asyncio.sleep(0.01)
        return mine[2]

    async def receive(name: str) -> Any:
        return await asyncio.wait_for(layer.receive(name), PATIENCE)

    async def send_to_a_receiver(name: str) -> None:
        for number in range(3):
            received = asyncio.ensure_future(receive(name))
            await asyncio.sleep(0.01)
            await layer.send(name, {"n": number})
            assert await received == {"n": number}

    async def end() -> None:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    name = first.run_until_complete(begin())
    thread = threading.Thread(target=first.run_forever, daemon=True)
    if first_runs:
        thread.start()
    second.run_until_complete(send_to_a_receiver(name))
    if first_runs:
        first.call_soon_threadsafe(first.stop)
        thread.join(PATIENCE)
    first.run_until_complete(end())
    for loop in (first, second):
        loop.close()
    layer.sync.close()


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_loops_closed_with_receivers_waiting_leave_nothing_behind(options: dict[str, Any]) -> None:
    layer = IPCChannelLayer(**options)
    folder = Path(options["engine_options"]["directory"]) / "store"

    def forget() -> None:
        loop = asyncio.new_event_loop()

        async def wait_for_ever() -> None:
            mine = await layer.new_channel()
            tasks.extend(asyncio.ensure_future(layer.receive(name)) for name in (mine, "ordinary"))
            await asyncio.sleep(0.001)

        tasks: list[asyncio.Future[Any]] = []
        loop.run_until_complete(wait_for_ever())
        for task in tasks:
            task.cancel()
        # Some with what was to be cancelled still waiting.
        if len(closed) % 2:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        else:
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        closed.append(loop)

    closed: list[asyncio.AbstractEventLoop] = []
    for _ in range(4):
        forget()
    count = descriptors()
    bells = len(list(folder.glob("bell.*")))
    for _ in range(20):
        forget()
    assert descriptors() <= count + 4
    assert len(list(folder.glob("bell.*"))) <= bells + 2

    async def still_works() -> None:
        await layer.send("ordinary", {"n": 1})
        assert await asyncio.wait_for(layer.receive("ordinary"), PATIENCE) == {"n": 1}
        await layer.close()

    run(still_works())
    assert list(folder.glob("bell.*")) == []


def test_receivers_cancelled_at_every_await_under_load_lose_and_double_nothing(
    options: dict[str, Any],
) -> None:
    count = 1_000
    layer = IPCChannelLayer(**options)
    mine = run(layer.new_channel())
    ready_out, ready_in = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.read(ready_out, 1)
            other = SyncIPCChannelLayer(**options)
            dice = random.Random(3)
            for number in range(count):
                other.send("ordinary", {"n": number})
                other.send(mine, {"n": number})
                if number % 5 == 0:
                    time.sleep(dice.uniform(0, 0.002))
        os._exit(0)

    async def cancelled(channel: str, dice: random.Random, found: list[int]) -> None:
        """Receive until the others are done, hardly ever waiting long enough."""
        while len(own) < count or len(one) + len(two) < count:
            task = asyncio.ensure_future(layer.receive(channel))
            try:
                if dice.random() < 0.5:
                    message = await asyncio.wait_for(task, dice.choice([0, 1e-6, 1e-4, 1e-3]))
                else:
                    for _ in range(dice.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
                    message = await task
            except (asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.sleep(0)
                # From 3.12 on, wait_for may time out on a task that has just got its message.
                if not task.done() or task.cancelled():
                    continue
                message = task.result()
            found.append(message["n"])

    own: list[int] = []
    one: list[int] = []
    two: list[int] = []

    async def scenario() -> None:
        os.write(ready_in, b"!")
        # The ordinary channel has two receivers, which take turns.
        await asyncio.gather(
            cancelled(mine, random.Random(1), own),
            cancelled("ordinary", random.Random(2), one),
            cancelled("ordinary", random.Random(4), two),
        )
        assert own == list(range(count))
        assert (one, two) == (sorted(one), sorted(two))
        assert sorted(one + two) == list(range(count))
        demux = layer._core.demux
        assert not any(each.waiting for each in demux.own.values())
        await asyncio.sleep(0.1)
        for listener in demux.loops.values():
            assert not cast(Any, listener).watches
        await layer.close()

    run(scenario())
    assert wait(child) == 0
    os.close(ready_in)
    os.close(ready_out)
    assert_sound(engine_of(layer))
    layer.sync.close()
