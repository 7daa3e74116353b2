"""A store removed while it is used: each process notices and joins the others, or says so."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import select
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import ChannelFull, IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.engines.deferred import is_inside
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.mmap import MmapEngine
from tests.tools.doubles import (
    PATIENCE,
    WATCHDOG,
    in_thread,
    run,
)
from tests.tools.layers import (
    demux_of,
    engine_of,
    stop_looking,
)
from tests.tools.samples import each_value
from tests.tools.stores import (
    ENGINES,
    KIB,
    assert_sound,
    in_child,
    open_store,
    record,
    unlink_memory,
    wait,
)


def options(kind: type[SharedMemoryEngine], directory: Path) -> dict[str, Any]:
    return {
        "prefix": "store",
        "engine": kind.name,
        "engine_options": {"directory": str(directory)},
        "channel_memory": 512 * KIB,
        "group_memory": 256 * KIB,
    }


async def come_true(condition: Callable[[], bool]) -> None:
    """Wait for it; a test that waits too long is ended by its watchdog."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.01)


def moved_on(engine: SharedMemoryEngine, old: object) -> bool:
    """Whether it is in another store by now."""
    return engine.session.store not in (old, None)


def lock_file(directory: Path, engine: SharedMemoryEngine) -> None:
    (directory / "store" / "lock").unlink()


def memory(directory: Path, engine: SharedMemoryEngine) -> None:
    unlink_memory(engine)


def memory_of_channels(directory: Path, engine: SharedMemoryEngine) -> None:
    unlink_memory(engine, layout.CHANNELS)


def memory_of_groups(directory: Path, engine: SharedMemoryEngine) -> None:
    unlink_memory(engine, layout.GROUPS)


def bells(directory: Path, engine: SharedMemoryEngine) -> None:
    for path in (directory / "store").glob("bell.*"):
        path.unlink()


def whole_directory(directory: Path, engine: SharedMemoryEngine) -> None:
    shutil.rmtree(directory / "store")


def moved_away(directory: Path, engine: SharedMemoryEngine) -> None:
    (directory / "store").rename(directory / "elsewhere")


REMOVALS = [
    lock_file,
    memory,
    memory_of_channels,
    memory_of_groups,
    bells,
    whole_directory,
    moved_away,
]


@contextlib.contextmanager
def process(function: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """A forked child that runs the function; yields what waits for its good end."""
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(int(WATCHDOG))
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    ended = []

    def finished() -> None:
        ended.append(wait(child, WATCHDOG / 2))
        assert ended == [0]

    try:
        yield finished
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
            wait(child)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("remove", REMOVALS)
def test_waiting_processes_meet_again_after(
    kind: type[SharedMemoryEngine], remove: Callable[..., None], tmp_path: Path
) -> None:
    """Three processes: two that wait, in a loop and in a thread, and one that comes later."""
    made = options(kind, tmp_path)
    first = IPCChannelLayer(**made)
    told_out, told_in = os.pipe()

    def in_a_thread() -> None:
        os.close(told_in)
        layer = SyncIPCChannelLayer(**made)
        name, _ = layer.receive(["thread"], block=True, timeout=WATCHDOG)
        assert name == "thread"
        # Some may still go to the old store, so it answers until it is told to end.
        while not select.select([told_out], [], [], 0.05)[0]:
            with contextlib.suppress(ChannelFull):
                layer.send("answers", {"from": "thread"})

    async def scenario() -> None:
        mine = await first.new_channel()
        tasks = [asyncio.ensure_future(first.receive(name)) for name in (mine, "loop")]
        await asyncio.sleep(0.05)
        with process(in_a_thread) as finished:
            await come_true(lambda: engine_of(first).statistics()["processes"] > 1)
            await asyncio.sleep(0.05)
            remove(tmp_path, engine_of(first))

            def come_later() -> None:
                layer = SyncIPCChannelLayer(**made)
                until = time.monotonic() + WATCHDOG / 3
                answers: set[str] = set()
                # A receiver looks once a second whether its store is still the store. What
                # is sent meanwhile may go to either, and to be lost with the old one.
                while time.monotonic() < until and len(answers) < 3:
                    for channel in ("thread", "loop", mine):
                        with contextlib.suppress(ChannelFull):
                            layer.send(channel, {})
                    _, message = layer.receive(["answers"], block=True, timeout=0.1)
                    if message:
                        answers.add(message["from"])
                assert answers == {"thread", "loop", "mine"}

            with process(come_later) as later_finished:
                for name, task in zip(("mine", "loop"), tasks, strict=True):
                    await asyncio.wait_for(task, WATCHDOG / 3)
                    await first.send("answers", {"from": name})
                # Its answers may be lost, so they are given until they arrive.
                loop = asyncio.get_running_loop()
                later = loop.run_in_executor(None, later_finished)
                while not later.done():
                    for name in ("mine", "loop"):
                        with contextlib.suppress(ChannelFull):
                            await first.send("answers", {"from": name})
                    await asyncio.sleep(0.05)
                await later
            os.close(told_in)
            await asyncio.get_running_loop().run_in_executor(None, finished)
        assert_sound(engine_of(first))
        await first.destroy()

    run(scenario())
    os.close(told_out)
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("remove", [lock_file, whole_directory, moved_away])
def test_a_process_that_missed_a_removal_destroys_the_present_store(
    kind: type[SharedMemoryEngine], remove: Callable[..., None], tmp_path: Path
) -> None:
    unaware = open_store(tmp_path, kind)
    remove(tmp_path, unaware)
    other = open_store(tmp_path, kind)
    other.push([record(other, b"a", b"in the new store")])
    unaware.destroy()
    assert other.pop(b"a") == []  # In a store that it had to make.
    other.destroy()
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "remove"), each_value(ENGINES, [bells, whole_directory]))
def test_a_loop_whose_bell_was_removed_gets_another_that_signals(
    kind: type[SharedMemoryEngine], remove: Callable[..., None], tmp_path: Path
) -> None:
    made = options(kind, tmp_path)
    layer = IPCChannelLayer(**made)

    async def scenario() -> None:
        mine = await layer.new_channel()
        demux = demux_of(layer)
        waiting = [asyncio.ensure_future(layer.receive(name)) for name in (mine, "loop")]
        await asyncio.sleep(0.05)
        listener = next(iter(demux.loops.values()))
        before = listener.bell
        remove(tmp_path, engine_of(layer))
        await come_true(lambda: listener.bell not in (before, None))
        # From here on a wake-up is needed: no receiver looks again by itself.
        demux.look_again = 1000.0
        await asyncio.sleep(1.2)  # The last of the looks that were planned before.
        stop_looking(listener)

        def send() -> None:
            other = SyncIPCChannelLayer(**made)
            for channel in (mine, "loop"):
                other.send(channel, {"n": 1})

        in_child(send)
        for each in waiting:
            assert await asyncio.wait_for(each, PATIENCE) == {"n": 1}
        assert len(list((tmp_path / "store").glob("bell.*"))) == 1
        await layer.destroy()

    run(scenario())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "remove"), each_value(ENGINES, [bells, whole_directory]))
def test_a_thread_whose_bell_was_removed_gets_another_that_signals(
    kind: type[SharedMemoryEngine], remove: Callable[..., None], tmp_path: Path
) -> None:
    layer = SyncIPCChannelLayer(**options(kind, tmp_path))
    demux = demux_of(layer)
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(layer.receive(["a"], block=True, timeout=WATCHDOG)),
        daemon=True,
    )
    thread.start()
    while not (demux.threads and demux.threads[0].bell):
        time.sleep(0.01)
    before = demux.threads[0].bell
    remove(tmp_path, engine_of(layer))
    until = time.monotonic() + WATCHDOG / 3
    while not demux.threads or demux.threads[0].bell is before:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert len(demux.threads) == 1
    demux.look_again = 1000.0
    time.sleep(1.2)
    in_child(lambda: SyncIPCChannelLayer(**options(kind, tmp_path)).send("a", {"n": 1}))
    thread.join(PATIENCE)
    assert found == [("a", {"n": 1})]
    layer.destroy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ENGINES)
def test_a_receiver_goes_on_in_the_new_store_after_the_old_was_destroyed(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    made = options(kind, tmp_path)
    layer = IPCChannelLayer(**made)

    async def scenario() -> None:
        mine = await layer.new_channel()
        demux = demux_of(layer)
        demux.look_again = 1000.0  # Destroying wakes every receiver.
        await layer.group_add("g", mine)
        for round_ in range(3):
            waiting = [asyncio.ensure_future(layer.receive(name)) for name in (mine, "loop")]
            await asyncio.sleep(0.05)
            old_store = engine_of(layer).session.store

            def destroy() -> None:
                SyncIPCChannelLayer(**made).destroy()

            in_child(destroy)
            await come_true(functools.partial(moved_on, engine_of(layer), old_store))
            assert await layer.group_channels("g") == []
            await layer.group_add("g", mine)

            def send(number: int = round_) -> None:
                other = SyncIPCChannelLayer(**made)
                other.send_group("g", {"n": number})
                other.send("loop", {"n": number})

            in_child(send)
            for each in waiting:
                assert await asyncio.wait_for(each, PATIENCE) == {"n": round_}
        await layer.destroy()

    run(scenario())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ENGINES)
def test_a_store_of_the_last_boot_is_recreated_once_for_all_that_open_it(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = open_store(tmp_path, kind)
    old.push([record(old, b"a", b"of the last boot")])
    old.close()
    # No process survives a boot; one that is not told has to find out all the same.
    monkeypatch.setattr("asgi_ipc.engines.shm.opening.boot_identity", lambda: b"another boot id!")
    first, second = open_store(tmp_path, kind), open_store(tmp_path, kind)
    assert first.pop(b"a") == []
    first.push([record(first, b"a", b"new")])
    assert second.pop(b"a")[0].payload == b"new"
    first.close()
    second.destroy()
    assert list(tmp_path.iterdir()) == []


def test_steps_of_the_wall_clock_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = [0.0]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    layer = SyncIPCChannelLayer(**options(MmapEngine, tmp_path), expiry=60, group_expiry=60)
    for step in (-1e9, 1e9, 0.0):
        layer.send("a", {"n": 1})
        layer.group_add("g", "a")
        offset[0] = step
        assert layer.group_channels("g") == ["a"]
        assert layer.receive(["a"]) == ("a", {"n": 1})
        assert layer.receive(["a"], block=True, timeout=0.01) == (None, None)
    layer.destroy()


@pytest.mark.parametrize("kind", ENGINES)
def test_fifos_of_killed_processes_are_removed_even_if_the_remover_is_killed(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    engine = open_store(tmp_path, kind)
    folder = tmp_path / "store"
    # Left by a process whose slot is free already. A young one could be in use.
    for name in ("00" * 14, "11" * 14):
        os.mkfifo(folder / f"bell.{name}.1")

    def dies() -> None:
        mine = open_store(tmp_path, kind)
        mine.bell()
        os.kill(os.getpid(), signal.SIGKILL)

    real = time.time
    for later, left in ((0, 2), (60, 0)):
        child = os.fork()
        if not child:
            dies()
        wait(child)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda later=later: real() + later)
            engine.upkeep.due = 0
            engine.session.channels.words[layout.NEXT_SWEEP] = 0
            engine.statistics()
        assert len(list(folder.glob("bell.*"))) == left
    own = engine.bell()
    assert len(list(folder.glob("bell.*"))) == 1
    own.close()
    engine.destroy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("specific", [True, False], ids=["specific", "ordinary"])
def test_a_removed_store_is_logged_while_no_lock_is_held(tmp_path: Path, specific: bool) -> None:
    """Another thread may have the lock of a log handler, and wait for ours to use the layer."""
    lines: list[tuple[str, bool]] = []

    class Handler(logging.Handler):
        def emit(self, log_record: logging.LogRecord) -> None:
            lines.append((log_record.getMessage(), is_inside()))

    layer = SyncIPCChannelLayer(**options(MmapEngine, tmp_path))
    channel = f"some.{layer.client_prefix}!" if specific else "some"
    layer.receive([channel])
    logger, handler = logging.getLogger("asgi_ipc"), Handler()
    logger.addHandler(handler)
    try:
        shutil.rmtree(tmp_path / "store")
        engine_of(layer).upkeep.due = 0
        layer.receive([channel], block=True, timeout=0.01)
    finally:
        logger.removeHandler(handler)
    assert any("was removed" in line for line, _ in lines)
    assert not any(inside for _, inside in lines)
    layer.destroy()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_store_that_another_process_removes_during_destroy_is_destroyed_all_the_same(
    kind: type[SharedMemoryEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = open_store(tmp_path, kind)
    mine.push([record(mine, b"a")])
    reap = mine.upkeep.reap

    def reap_late() -> list[bytes]:
        # In a thread: the child's main thread is in the middle of a call.
        in_child(lambda: in_thread(lambda: open_store(tmp_path, kind).destroy()).join())
        return reap()

    monkeypatch.setattr(mine.upkeep, "reap", reap_late)
    mine.destroy()
    assert list(tmp_path.iterdir()) == []
