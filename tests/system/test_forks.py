"""Forks: amid threads, before workers, by multiprocessing; what a child has, and leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from tests.tools.doubles import (
    PATIENCE,
    WATCHDOG,
    fresh,
    run,
    watchdog,
)
from tests.tools.layers import (
    drain,
    engine_of,
    options,
)
from tests.tools.stores import (
    assert_sound,
    in_child,
    wait,
)

__all__ = ["options", "watchdog"]


@contextlib.contextmanager
def busy_threads(layer: IPCChannelLayer, count: int = 3) -> Iterator[None]:
    """Threads that use the layer in every way meanwhile; an error of theirs is raised."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def synchronous(mine: str) -> None:
        sync = layer.sync
        while not stop.is_set():
            sync.send(mine, {"n": 1})
            sync.receive([mine], block=True, timeout=0.01)
            sync.group_add("busy", mine)
            sync.send_group("busy", {"n": 1})
            sync.group_discard("busy", mine)
            sync.receive([mine])

    async def asynchronous() -> None:
        mine = await layer.new_channel()
        await layer.group_add("busy", mine)
        while not stop.is_set():
            await layer.send(mine, {"n": 1})
            await asyncio.wait_for(layer.receive(mine), PATIENCE)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(layer.receive(mine), 0.001)

    def guarded(function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=guarded, args=(synchronous, f"busy{n}")) for n in range(count)
    ]
    threads.append(threading.Thread(target=guarded, args=(lambda: asyncio.run(asynchronous()),)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(WATCHDOG / 2)
    assert errors == []


def test_forks_amid_threads_that_use_the_layer_harm_nobody(options: dict[str, Any]) -> None:
    layer = IPCChannelLayer(**options)

    def child(number: int) -> None:
        layer.sync.send("children", {"n": number})
        mine = asyncio.run(layer.new_channel())
        layer.sync.send(mine, {"n": number})

        async def receive() -> dict[str, Any]:
            return await asyncio.wait_for(layer.receive(mine), PATIENCE)

        assert asyncio.run(receive()) == {"n": number}
        layer.sync.close()

    with busy_threads(layer):
        for number in range(25):
            forked: list[BaseException] = []

            def fork(number: int = number, forked: list[BaseException] = forked) -> None:
                try:
                    in_child(lambda: child(number))
                except BaseException as error:
                    forked.append(error)

            # From a thread, which is then the child's only one.
            if number % 2:
                thread = threading.Thread(target=fork)
                thread.start()
                thread.join(WATCHDOG / 2)
            else:
                fork()
            assert forked == []
    assert sorted(drain(layer.sync, "children")) == list(range(25))
    assert_sound(engine_of(layer))
    layer.sync.close()


def test_a_forked_child_that_only_exits_takes_nothing_along(options: dict[str, Any]) -> None:
    layer = IPCChannelLayer(**options)

    async def scenario() -> None:
        mine = await layer.new_channel()
        waiting = asyncio.ensure_future(layer.receive(mine))
        await asyncio.sleep(0.01)
        await layer.group_add("g", mine)
        for hard in (False, True):
            # sys.exit runs the interpreter's exit handlers, ours among them.
            child = os.fork()
            if not child:
                if hard:
                    os._exit(0)
                with contextlib.suppress(BaseException):
                    # As the interpreter would, and pytest would keep it from.
                    import atexit

                    atexit._run_exitfuncs()
                os._exit(0)
            assert wait(child) == 0
        await layer.group_send("g", {"n": 1})
        assert await asyncio.wait_for(waiting, PATIENCE) == {"n": 1}
        assert await layer.group_channels("g") == [mine]
        assert (await layer.global_statistics())["recoveries"] == 0
        await layer.close()

    run(scenario())


def test_a_layer_made_before_the_workers_were_forked_serves_each_of_them(
    options: dict[str, Any],
) -> None:
    layer = IPCChannelLayer(**options)  # As gunicorn --preload does it.
    children = []

    async def worker(number: int) -> None:
        mine = await layer.new_channel()
        await layer.group_add("workers", mine)
        await layer.send("ready", {"n": number})
        for _ in range(20):
            message = await asyncio.wait_for(layer.receive(mine), PATIENCE)
            await layer.send("answers", {"n": message["n"] * 10 + number})
        await layer.close()

    for number in range(4):
        child = os.fork()
        if not child:
            status = 1
            try:
                run(worker(number))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    sync = layer.sync
    for _ in children:
        assert sync.receive(["ready"], block=True, timeout=PATIENCE)[0] == "ready"
    for number in range(20):
        sync.send_group("workers", {"n": number})
    for child in children:
        assert wait(child) == 0
    wanted = sorted(number * 10 + child for number in range(20) for child in range(4))
    assert sorted(drain(sync, "answers")) == wanted
    assert sync.group_channels("workers") == []
    sync.close()


def in_another_process(options: dict[str, Any], number: int) -> None:
    """What a child of multiprocessing does."""
    layer = SyncIPCChannelLayer(**options)
    _, message = layer.receive(["work"], block=True, timeout=PATIENCE)
    assert message is not None
    layer.send("done", {"n": message["n"] * 2})


@pytest.mark.parametrize("options", ["mmap"], indirect=True)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_multiprocessing_share_the_store(options: dict[str, Any], method: str) -> None:
    layer = SyncIPCChannelLayer(**options)
    context: Any = multiprocessing.get_context(method)
    processes = [
        context.Process(target=in_another_process, args=(options, number)) for number in range(2)
    ]
    for process in processes:
        process.start()
    for number in range(2):
        layer.send("work", {"n": number})
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert sorted(drain(layer, "done")) == [0, 2]
    layer.close()


def test_a_forked_child_inherits_no_descriptor_for_good(options: dict[str, Any]) -> None:
    layer = SyncIPCChannelLayer(**options)

    def other() -> None:
        SyncIPCChannelLayer(**options).receive(["a"], block=True, timeout=PATIENCE)

    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            other()
        os._exit(0)
    while not engine_of(layer).statistics()["queues"]:
        time.sleep(0.01)
    layer.send("a", {"n": 1})  # Which opens a writer to the other's bell.
    wait(child)
    assert engine_of(layer)._signaller._writers
    layer.receive(["nothing"], block=True, timeout=0.01)  # Which makes a bell.

    def heir() -> None:
        kept = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd}
        assert not [name for name in kept if "bell." in name], kept

    if os.path.isdir("/proc/self/fd"):
        in_child(lambda: _ignoring(heir))
    layer.close()


def _ignoring(function: Callable[[], object]) -> None:
    # The listing of the folder is itself a descriptor, gone when it is looked at.
    for _ in range(3):
        try:
            function()
            return
        except FileNotFoundError:
            continue


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_with_nothing_of_its_parents() -> None:
    async def parent() -> None:
        one, two = await layer.new_channel(), await layer.new_channel()
        await layer.send(one, {"n": 1})
        await layer.send(two, {"n": 2})
        assert await layer.receive(two) == {"n": 2}  # And has fetched the other.
        pid = os.fork()
        if pid == 0:
            os._exit(child(one))
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await layer.receive(one) == {"n": 1}

    def child(inherited: str) -> int:
        try:
            signal.alarm(int(PATIENCE))
            asyncio.events._set_running_loop(None)
            assert layer.client_prefix != before

            async def main() -> None:
                with pytest.raises(ValueError, match="belongs to process"):
                    await layer.receive(inherited)
                mine = await layer.new_channel()
                task = asyncio.ensure_future(layer.receive(mine))
                await asyncio.sleep(0.01)
                await layer.send(mine, {"n": 3})
                assert await asyncio.wait_for(task, PATIENCE) == {"n": 3}

            assert not layer._core.demux.own
            asyncio.run(main())
        except BaseException:
            import traceback

            traceback.print_exc(file=sys.__stderr__)
            return 1
        return 0

    layer = IPCChannelLayer(fresh(), engine="memory")
    before = layer.client_prefix
    run(parent())
    layer.sync.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_thread_notes_a_drop_may_drop_messages_too() -> None:
    def drop() -> None:
        signal.alarm(int(PATIENCE))
        layer.group_add("news", "full")  # The memory engine of a child is empty.
        layer.group_send("news", {})
        layer.group_send("news", {})
        assert layer.global_statistics()["channel_full_count"] == 1

    layer = SyncIPCChannelLayer(fresh(), engine="memory", capacity=1)
    layer.group_add("news", "full")
    layer.group_send("news", {})
    inside, forked = threading.Event(), threading.Event()

    def slow_clock() -> float:
        inside.set()
        forked.wait(PATIENCE)
        return time.monotonic()

    layer._core.demux.drops._clock = slow_clock
    thread = threading.Thread(target=layer.group_send, args=("news", {}))
    thread.start()
    assert inside.wait(PATIENCE)
    try:
        in_child(drop)
    finally:
        forked.set()
        thread.join(PATIENCE)
    layer.close()
