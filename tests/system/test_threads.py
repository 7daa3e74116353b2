"""Threads that use one layer at once: with loops of their own, and beside another process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from tests.tools.doubles import (
    PATIENCE,
    WATCHDOG,
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


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_eight_threads_share_a_layer_without_loss_or_doubles(options: dict[str, Any]) -> None:
    layer = SyncIPCChannelLayer(**options)
    each, threads = 150, 8
    received: list[list[tuple[int, int]]] = [[] for _ in range(threads)]
    left = threading.Semaphore(0)

    def hammer(me: int) -> None:
        for number in range(each):
            layer.send(f"channel{number % 3}", {"n": me * 1000 + number})
            name, message = layer.receive(["channel0", "channel1", "channel2"], True, PATIENCE)
            assert message is not None
            assert name is not None
            received[me].append((int(name[7:]), message["n"]))
        left.release()

    workers = [threading.Thread(target=hammer, args=(n,), daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert left.acquire(timeout=WATCHDOG / 2)
    got = [number for mine in received for _, number in mine]
    assert sorted(got) == sorted(me * 1000 + n for me in range(threads) for n in range(each))
    for mine in received:
        last: dict[tuple[int, int], int] = {}
        for channel, number in mine:
            key = channel, number // 1000
            assert number > last.get(key, -1)
            last[key] = number
    assert_sound(engine_of(layer))
    layer.close()


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_loops_in_threads_and_calls_from_threads_use_one_layer(options: dict[str, Any]) -> None:
    sync_calls = pytest.importorskip("asgiref.sync")
    layer = IPCChannelLayer(**options)
    results: list[Any] = []

    async def echo(mine: str, rounds: int) -> None:
        for _ in range(rounds):
            message = await asyncio.wait_for(layer.receive(mine), PATIENCE)
            await layer.send(message["reply"], {"n": message["n"] + 1})

    def caller(number: int) -> None:
        call = sync_calls.async_to_sync
        name = call(layer.new_channel)()
        for turn in range(20):
            call(layer.send)(f"echo{number}", {"n": turn, "reply": name})
            results.append(call(layer.receive)(name)["n"] == turn + 1)

    threads = [
        *(
            threading.Thread(target=lambda n=n: asyncio.run(echo(f"echo{n}", 20)), daemon=True)
            for n in range(3)
        ),
        *(threading.Thread(target=caller, args=(n,), daemon=True) for n in range(3)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG / 2)
        assert not thread.is_alive()
    assert results == [True] * 60
    layer.sync.close()


def test_senders_here_and_in_another_process_each_keep_their_order(
    options: dict[str, Any],
) -> None:
    """What this process sends to itself may pass by the store, and overtakes nothing there."""
    count = 1_500
    layer = IPCChannelLayer(**{**options, "capacity": 10 * count})
    mine = run(layer.new_channel())

    def send(to: SyncIPCChannelLayer, who: int) -> None:
        for number in range(count):
            to.send(mine, {"who": who, "n": number})
            if number % 7 == 0:
                time.sleep(0.002)

    async def receive() -> dict[int, list[int]]:
        got: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for _ in range(3 * count):
            message = await asyncio.wait_for(layer.receive(mine), PATIENCE)
            got[message["who"]].append(message["n"])
        return got

    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            send(SyncIPCChannelLayer(**{**options, "capacity": 10 * count}), 2)
        os._exit(0)
    threads = [threading.Thread(target=send, args=(layer.sync, who)) for who in range(2)]
    for thread in threads:
        thread.start()
    try:
        got = run(receive())
        (own,) = layer._core.demux.own.values()
        assert own.looped_back > 0, "nothing went the other way"
    finally:
        for thread in threads:
            thread.join(PATIENCE)
        wait(child)
        layer.sync.close()
    assert got == {who: list(range(count)) for who in got}
