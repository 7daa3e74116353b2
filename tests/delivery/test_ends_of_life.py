"""What a process keeps ends with what it was kept for: counted, after many openings and waits."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import gc
import logging
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, StoreUnavailable, SyncIPCChannelLayer
from asgi_ipc.delivery.demultiplexer import Demultiplexer
from asgi_ipc.engines import available
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.doubles import (
    PATIENCE,
    engine,
    fresh,
    in_thread,
    run,
)
from tests.tools.layers import demux_of
from tests.tools.receivers import (
    soon,
)


@pytest.fixture(params=["posix", "memory"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Of a layer on a store of its own, which the test may leave."""
    options: dict[str, Any] = {"prefix": fresh(), "engine": request.param}
    if request.param != "memory":
        why = available()[request.param]
        if why:
            pytest.skip(why)
        options["engine_options"] = {"directory": str(tmp_path / "store")}
    yield options
    SyncIPCChannelLayer(**options).destroy()


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def living(kind: type) -> int:
    gc.collect()
    # Not isinstance, which asks lazy objects of other packages for their class.
    return sum(issubclass(type(each), kind) for each in gc.get_objects())


def test_closing_and_opening_again_in_one_loop_and_thread_keeps_nothing(
    options: dict[str, Any],
) -> None:
    async def main() -> None:
        before = living(Demultiplexer)
        layer = IPCChannelLayer(**options)

        async def use() -> None:
            own = await layer.new_channel()
            tasks = await soon(layer.receive(own), layer.receive("ordinary"))
            layer.sync.receive(["a"], block=True, timeout=0.001)
            await layer.close()
            for task in tasks:
                with pytest.raises(StoreUnavailable):
                    await task

        await use()
        files = descriptors()
        for _ in range(20):
            await use()
        await asyncio.sleep(0.01)
        assert living(Demultiplexer) <= before + 1
        assert descriptors() <= files + 2

    run(main())


def call_in_a_thread_that_python_did_not_start(function: Callable[[], object]) -> None:
    called = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: function() and None)
    library = ctypes.CDLL(None)
    thread = ctypes.c_ulong()
    assert library.pthread_create(ctypes.byref(thread), None, called, None) == 0
    assert library.pthread_join(thread, None) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pthread_create by ctypes")
def test_threads_that_python_did_not_start_leave_no_descriptors() -> None:
    layer = SyncIPCChannelLayer(engine=engine())

    def wait() -> None:
        layer.receive(["a", "x!"], block=True, timeout=0.001)

    call_in_a_thread_that_python_did_not_start(wait)
    wait()
    files = descriptors()
    for _ in range(20):
        call_in_a_thread_that_python_did_not_start(wait)
    assert descriptors() <= files + 4
    assert len(demux_of(layer).threads) <= 3
    layer.close()


def test_names_received_on_once_are_forgotten() -> None:
    layer = SyncIPCChannelLayer(engine=engine(), expiry=0.01)
    for number in range(2000):
        assert layer.receive([f"name.{number}!"]) == (None, None)
    demux = demux_of(layer)
    assert len(demux.own) < 200
    assert len(demux.hinted) == len(demux.own)
    layer.close()


def test_channels_that_were_waited_for_once_are_forgotten_by_the_regular_look() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        demux_of(layer).look_again = 0.001
        names = [await layer.new_channel() for _ in range(300)]
        tasks = await soon(*(layer.receive(name) for name in names))
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks[1:], return_exceptions=True)
        demux = demux_of(layer)
        (own,) = demux.own.values()
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if len(own.locals) == 1:
                break
        assert list(demux.channels) == names[:1]
        assert len(own._order) == 1
        tasks[0].cancel()
        await layer.close()

    run(main())


def test_a_loop_that_is_held_up_has_one_regular_look_after_it() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        demux_of(layer).look_again = 0.01
        (waits,) = await soon(layer.receive("a"))
        listener: Any = next(iter(demux_of(layer).loops.values()))
        ticks = 0
        tick = listener._tick

        def counted() -> None:
            nonlocal ticks
            ticks += 1
            tick()

        listener._tick = counted
        for _ in range(20):
            hold_up = asyncio.get_running_loop().time() + 0.03
            while asyncio.get_running_loop().time() < hold_up:
                pass
            (task,) = await soon(layer.receive("b"))
            task.cancel()
        await asyncio.sleep(0.05)
        loop: Any = asyncio.get_running_loop()
        timers = [each for each in loop._scheduled if not each.cancelled()]
        assert sum(each._callback in (counted, tick) for each in timers) <= 1
        waits.cancel()
        await layer.close()

    run(main())


def test_the_context_of_the_first_receiver_ends_with_it() -> None:
    class Request:
        pass

    variable: contextvars.ContextVar[Request] = contextvars.ContextVar("request")

    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())

        async def first() -> weakref.ref[Request]:
            request = Request()
            variable.set(request)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(layer.receive("a"), 0.01)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(layer.receive(await layer.new_channel()), 0.01)
            return weakref.ref(request)

        (other,) = await soon(layer.receive("b"))
        other.cancel()
        kept = await asyncio.create_task(first())
        (other,) = await soon(layer.receive("b"))
        await asyncio.sleep(0.1)
        gc.collect()
        assert kept() is None
        other.cancel()
        await layer.close()

    run(main())


def test_each_receiver_of_a_closed_layer_has_a_traceback_of_its_own() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        names = [await layer.new_channel() for _ in range(50)]
        tasks = await soon(*(layer.receive(name) for name in [*names, *["ordinary"] * 50]))
        await layer.close()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert len({id(error) for error in errors}) == 100
        for error in errors:
            assert isinstance(error, StoreUnavailable)
            frames, trace = 0, error.__traceback__
            while trace is not None:
                frames, trace = frames + 1, trace.tb_next
            assert frames < 10

    run(main())


def test_closing_in_another_thread_closes_no_descriptor_of_a_stranger() -> None:
    """The number of a descriptor that a loop still polls must not be given out anew."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(10):
            layer = SyncIPCChannelLayer(fresh(), engine="memory")
            waiting = IPCChannelLayer(layer.prefix, engine="memory")
            tasks = await soon(waiting.receive("a"))
            held = threading.Event()
            pairs: list[socket.socket] = []

            def close(
                layers: tuple[Any, Any] = (layer, waiting.sync),
                held: threading.Event = held,
                pairs: list[socket.socket] = pairs,
            ) -> None:
                for each in layers:
                    each.close()
                for _ in range(8):
                    pairs.extend(socket.socketpair())
                held.set()

            in_thread(close)
            assert held.wait(PATIENCE)  # The loop is held up meanwhile.
            heard: list[int] = []
            for index, each in enumerate(pairs):
                loop.add_reader(each, heard.append, index)
            await asyncio.sleep(0.01)
            for each in pairs:
                each.send(b"x")
            await asyncio.sleep(0.01)
            assert set(heard) == set(range(16))
            for each in pairs:
                loop.remove_reader(each)
                each.close()
            with pytest.raises(StoreUnavailable):
                await tasks[0]

    run(main())


def test_an_engine_by_name_and_one_that_was_passed_in_have_each_their_own_channels() -> None:
    async def main() -> None:
        prefix = fresh()
        mine = MemoryEngine(prefix, channel_memory=10**6, group_memory=10**6)
        one = IPCChannelLayer(engine=mine)
        two = IPCChannelLayer(prefix, engine="memory", channel_memory=10**6, group_memory=10**6)
        first, second = await one.new_channel(), await two.new_channel()
        tasks = await soon(one.receive(first), two.receive(second))
        await two.send(first, {"n": 1})
        await one.send(second, {"n": 2})
        assert await asyncio.gather(*tasks) == [{"n": 1}, {"n": 2}]
        with pytest.raises(ValueError, match="belongs to process"):
            await two.receive(first)
        await one.close()
        await two.close()
        mine.close()

    run(main())


def test_a_name_ends_with_its_layer_and_the_error_says_so() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine="memory")
        name = await layer.new_channel()
        await layer.close()
        with pytest.raises(ValueError, match=r"belongs to process .* until it closes the layer"):
            await layer.receive(name)
        await layer.close()

    run(main())


def test_what_closing_drops_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")

    async def main() -> None:
        own = await layer.new_channel()
        (waits,) = await soon(layer.receive(own))
        await layer.send(own, {"n": 1})
        assert await waits == {"n": 1}
        await layer.send(own, {"n": 2})  # No receiver waits for it: it lies in the mailbox.
        await layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
    lost = int(layer.sync.global_statistics()["overflow_count"])
    assert lost == 1
    assert f"dropped {lost} message, fetched and not received" in caplog.text
    layer.sync.close()


def test_a_flush_by_another_process_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    prefix = fresh()
    one, two = (
        SyncIPCChannelLayer(engine=MemoryEngine(prefix, channel_memory=10**6, group_memory=10**6))
        for _ in range(2)
    )
    one.receive(["a!"])
    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        two.flush()
        one.receive(["a!"])
    assert "was flushed" in caplog.text


def test_a_larger_capacity_set_later_holds_for_existing_mailboxes() -> None:
    async def main() -> None:
        small = IPCChannelLayer(fresh(), engine="memory", capacity=10)
        own = await small.new_channel()
        (first,) = await soon(small.receive(own))
        await small.send(own, {})
        await first
        large = IPCChannelLayer(small.prefix, engine="memory", capacity=1000)
        other = await large.new_channel()
        (waits,) = await soon(large.receive(other))
        for number in range(500):
            await large.send(own, {"n": number})
            if number % 10 == 0:
                await asyncio.sleep(0)
        got = [(await large.receive(own))["n"] for _ in range(500)]
        assert got == list(range(500))
        assert (await large.global_statistics())["overflow_count"] == 0
        waits.cancel()
        await small.close()
        await large.close()

    run(main())


def test_sends_to_waiting_clients_arrive_before_and_after_the_regular_look(
    options: dict[str, Any],
) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(**options)
        demux_of(layer).look_again = 1000.0
        names = [await layer.new_channel() for _ in range(300)]
        tasks = await soon(*(layer.receive(name) for name in names))
        for number, name in enumerate(names):
            await layer.send(name, {"n": number})
        assert await asyncio.gather(*tasks) == [{"n": number} for number in range(300)]
        await layer.close()

    run(main())
