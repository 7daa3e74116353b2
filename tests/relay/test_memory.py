"""The server in memory: the faults that a test can order, and wires of several threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from asgi_ipc.exceptions import WireLost, WireRefused
from asgi_ipc.relay.memory import MemoryServer
from asgi_ipc.relay.wire import Frame
from tests.tools.wires import error_of, in_loop, started, works

URL = "memory://faults"


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    """The server of these tests, which afterwards has no faults."""
    server = MemoryServer.named("faults")
    yield server
    server.thaw()
    server.come_back()
    server.set_lag(0)
    assert server.connections == 0


@in_loop
async def test_it_is_away_and_comes_back(server: MemoryServer) -> None:
    async with started(URL) as wire:
        server.go_away("gone fishing")
        assert str(await wire.lost()) == "gone fishing"
    assert isinstance(await error_of(URL), WireLost)
    server.refuse("bad credentials")
    assert isinstance(await error_of(URL), WireRefused)
    server.come_back()
    await works(URL)


@in_loop
async def test_it_loses_frames_and_the_connection_stands(server: MemoryServer) -> None:
    heard: list[bytes] = []
    async with started(URL, lambda _, frame: heard.append(frame)) as wire:
        await wire.subscribe([b"t"])
        server.drop_frames(2)
        await wire.publish([Frame(b"t", b"%d" % number) for number in range(4)])
        await asyncio.sleep(0)
        assert heard == [b"2", b"3"]


@in_loop
async def test_it_cuts_in_the_middle_of_a_batch(server: MemoryServer) -> None:
    heard: list[bytes] = []
    async with (
        started(URL, lambda _, frame: heard.append(frame)) as other,
        started(URL) as wire,
    ):
        await other.subscribe([b"t"])
        server.cut_after(1)
        with pytest.raises(WireLost) as caught:
            await wire.publish([Frame(b"t", b"%d" % number) for number in range(3)])
        assert caught.value.unsent == 2
        await asyncio.sleep(0)
        assert heard == [b"0"]


@in_loop
async def test_a_lag_that_ends_changes_no_order(server: MemoryServer) -> None:
    heard: list[bytes] = []
    done = asyncio.Event()

    def hear(_: bytes, frame: bytes) -> None:
        heard.append(frame)
        if frame == b"3":
            done.set()

    async with started(URL, hear) as wire:
        await wire.subscribe([b"t"])
        server.set_lag(0.02)
        await wire.publish([Frame(b"t", b"1"), Frame(b"t", b"2")])
        server.set_lag(0)
        await wire.publish([Frame(b"t", b"3")])
        await done.wait()
    assert heard == [b"1", b"2", b"3"]


@in_loop
async def test_a_restart_forgets_queues(server: MemoryServer) -> None:
    async with started(URL) as wire:
        await wire.push(b"q", b"x", 100, 10)
        server.restart()
        await wire.lost()
    async with started(URL) as wire:
        assert await wire.pop(b"q") == []


@in_loop
async def test_its_clock_can_be_set(server: MemoryServer) -> None:
    clock, server.clock = server.clock, lambda: 0.0
    try:
        async with started(URL) as wire:
            await wire.push(b"clock", b"x", 100, 10)
            server.clock = lambda: 99.9
            assert await wire.length(b"clock") == 1
            server.clock = lambda: 100.0
            assert await wire.pop(b"clock") == []
    finally:
        server.clock = clock


def test_machines_may_run_in_threads_of_their_own(server: MemoryServer) -> None:
    heard: list[bytes] = []
    subscribed, published = threading.Event(), threading.Event()

    @in_loop
    async def listen() -> None:
        done = asyncio.Event()

        def hear(_: bytes, frame: bytes) -> None:
            heard.append(frame)
            if len(heard) == 1000:
                done.set()

        async with started(URL, hear) as wire:
            await wire.subscribe([b"t"])
            subscribed.set()
            await done.wait()

    @in_loop
    async def publish() -> None:
        subscribed.wait(30)
        async with started(URL) as wire:
            for number in range(0, 1000, 10):
                await wire.publish(
                    [Frame(b"t", b"%d" % each) for each in range(number, number + 10)]
                )
        published.set()

    threads = [threading.Thread(target=each) for each in (listen, publish)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert published.is_set()
    assert heard == [b"%d" % number for number in range(1000)]


@in_loop
async def test_dead_frames_of_a_queue_that_nobody_uses_any_more_take_no_memory(
    server: MemoryServer,
) -> None:
    """W12."""
    async with started(URL) as wire:
        await wire.push(b"left", b"frame", 0.01, 10)
        await asyncio.sleep(0.02)
        await wire.push(b"other", b"frame", 60, 10)
        assert [name for _, name in server._queues] == [b"other"]
        await wire.clear()
