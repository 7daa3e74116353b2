"""Inside one process: who waits gets to know what went wrong, and nobody else."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, StoreCorrupt, StoreUnavailable
from asgi_ipc.delivery.loop_listener import LoopListener
from asgi_ipc.delivery.mailboxes import OwnQueue
from asgi_ipc.encoding.names import channel_name
from asgi_ipc.engines.base import Bell, Popped, Record
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.doubles import (
    KINDS,
    PATIENCE,
    BlockingEngine,
    CountingEngine,
    MuteEngine,
    engine,
    in_thread,
    patient,
    run,
    watchdog,
    way,
    without_loopback,
)
from tests.tools.receivers import (
    soon,
)

__all__ = ["watchdog", "way", "without_loopback"]

pytestmark = pytest.mark.usefixtures("way")


class FailingEngine(MuteEngine):
    """Can't be reached while ``down``, not even to be peeked at; and signals no bells."""

    capabilities = MemoryEngine.capabilities
    down = False

    def pop(self, queue: bytes, limit: int = 1, bell: Any = None) -> list[Popped]:
        if self.down:
            raise StoreUnavailable("it is down")
        return super().pop(queue, limit, bell)

    def peek(self, queue: bytes) -> bool:
        if self.down:
            raise StoreUnavailable("it is down")
        return super().peek(queue)


def test_when_the_store_is_gone_all_who_wait_get_to_know_and_those_who_come_later_are_served() -> (
    None
):
    async def main() -> None:
        store = engine(FailingEngine)
        layer = IPCChannelLayer(engine=store)
        layer._core.demux.look_again = 0.05
        channels = [await layer.new_channel(), "a", "b"]
        tasks = await soon(*map(layer.receive, channels))
        store.down = True
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [StoreUnavailable] * 3
        store.down = False
        tasks = await soon(*map(layer.receive, channels))
        for channel in channels:
            await layer.send(channel, {"for": channel})
        assert await asyncio.gather(*tasks) == [{"for": channel} for channel in channels]
        await layer.close()

    run(main())


def test_an_engine_that_fails_when_its_bell_signals_fails_those_who_wait() -> None:
    class Failing(CountingEngine):
        broken = False

        def pop(self, *arguments: Any, **options: Any) -> list[Popped]:
            if self.broken:
                raise StoreUnavailable("gone")
            return super().pop(*arguments, **options)

    async def main() -> None:
        failing = engine(Failing)
        layer = IPCChannelLayer(engine=failing)
        tasks = await soon(layer.receive(await layer.new_channel()), layer.receive("c"))
        failing.broken = True
        await layer.send(await layer.new_channel(), {})
        await layer.send("c", {})
        for task in tasks:
            with pytest.raises(StoreUnavailable, match="gone"):
                await task
        await layer.close()

    run(main())


@pytest.mark.parametrize("specific", [False, True])
def test_a_thread_that_waits_gets_to_know_that_its_layer_was_closed(specific: bool) -> None:
    """Also one to which an engine was passed in, which stays open."""
    layer = patient(IPCChannelLayer(engine=engine()))
    channel = run(layer.new_channel()).partition("!")[0] + "!" if specific else "x"
    raised: list[str] = []

    def wait() -> None:
        try:
            layer.sync.receive([channel], block=True)
        except StoreUnavailable as error:
            raised.append(str(error))

    thread = in_thread(wait)
    while not layer._core.demux.threads:
        time.sleep(0.001)
    layer.sync.close()
    thread.join(60)
    assert raised == ["the channel layer was closed while this receive waited"]


def test_who_waits_with_others_gets_the_error_of_a_layer_that_is_closed() -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine()))
        channels = [await layer.new_channel() for _ in range(3)]
        tasks = await soon(*(layer.receive(channel) for channel in channels))
        await layer.close()
        for task in tasks:
            with pytest.raises(StoreUnavailable):
                await task

    run(main())


@pytest.mark.parametrize("payload", [b"", b"\1", b"\xff\xff\xff\xff", b"\1\0\0\0\xff\x80"])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_corrupt_record_is_an_error_for_who_waits_and_harms_no_other(
    kind: Any, payload: bytes
) -> None:
    async def main() -> None:
        corrupt = engine(kind)
        layer = IPCChannelLayer(engine=corrupt)
        channel = await layer.new_channel()
        (task,) = await soon(layer.receive(channel))
        name = channel_name(channel)
        deadline = corrupt.clock() + 10**10

        bad = Record(name.queue, payload, deadline, 100)
        good = bad._replace(payload=name.header + b"\x80")
        await asyncio.to_thread(corrupt.push, [bad])
        with pytest.raises(StoreCorrupt):
            await task
        await asyncio.to_thread(corrupt.push, [bad, good])
        if kind is CountingEngine:  # Else it is somebody else's call that meets it.
            with pytest.raises(StoreCorrupt):
                await layer.receive(channel)
        assert await layer.receive(channel) == {}
        await layer.close()

    run(main())


def test_an_error_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        corrupt = engine()
        layer = IPCChannelLayer(engine=corrupt)
        channel = channel_name(await layer.new_channel())
        (task,) = await soon(layer.receive(channel.full))
        bad = Record(channel.queue, b"", corrupt.clock() + 10**10, 100)
        corrupt.push([bad._replace(payload=channel.header + b"\x80"), bad])
        assert await task == {}
        await layer.close()

    run(main())
    assert "says that its message starts" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [StopIteration("none"), KeyboardInterrupt(), SystemExit(1)])
def test_whatever_an_engine_that_blocks_raises_reaches_who_called_it(error: BaseException) -> None:
    class Failing(BlockingEngine):
        def _block(self) -> None:
            raise error

        def bell(self) -> Bell:
            raise error

    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(Failing))
        for call in (layer.send("channel", {}), layer.receive("channel"), layer.flush()):
            with pytest.raises(StoreUnavailable) as raised:
                await asyncio.wait_for(call, PATIENCE)
            assert raised.value.__cause__ is error
        await layer.close()

    run(main())


def test_a_loop_that_polls_no_bell_keeps_no_descriptor() -> None:
    async def receive() -> None:
        layer, loop = IPCChannelLayer(engine=engine()), asyncio.get_running_loop()
        name, before = await layer.new_channel(), len(os.listdir("/proc/self/fd"))

        def refuse(*_: object) -> None:
            raise MemoryError

        loop.add_reader = refuse  # type: ignore[assignment]
        for _ in range(10):
            with pytest.raises(MemoryError):
                await layer.receive(name)
        assert len(os.listdir("/proc/self/fd")) == before
        await layer.close()

    asyncio.run(receive())


def test_what_a_signals_handler_raises_in_a_loop_is_for_the_receivers_of_that_loop() -> None:
    class Interrupted(CountingEngine):
        thread: threading.Thread | None = None

        def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
            if self.thread is threading.current_thread():
                raise KeyError("of a handler")
            return super().pop(queue, limit, bell)

    interrupted = engine(Interrupted)
    layer = IPCChannelLayer(engine=interrupted)
    demux, got = layer._core.demux, []

    def elsewhere(name: str) -> None:
        got.append(run(layer.receive(name)))

    async def until_waiting(queue: bytes, listeners: int) -> OwnQueue:
        while queue not in demux.own or len(demux.own[queue].waiting) < listeners:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return demux.own[queue]

    async def here() -> None:
        name, other = await layer.new_channel(), await layer.new_channel()
        queue = channel_name(other).queue
        thread = in_thread(elsewhere, other)
        await until_waiting(queue, 1)
        receiving = asyncio.ensure_future(layer.receive(name))
        own = await until_waiting(queue, 2)
        interrupted.thread = threading.current_thread()
        listener = next(each for each in demux.loops.values() if each.runs_here())
        assert isinstance(listener, LoopListener)
        with demux.lock:
            listener._fetch_own(own)
        with pytest.raises(KeyError):
            await receiving
        interrupted.thread = None
        await layer.send(other, {"n": 1})
        await asyncio.to_thread(thread.join, PATIENCE)
        assert got == [{"n": 1}]
        await layer.close()

    run(here())
