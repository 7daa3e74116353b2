"""A layer closed while it is used: by threads, by who waits, by the interpreter's end."""

from __future__ import annotations

import asyncio
import collections
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, StoreUnavailable, SyncIPCChannelLayer
from asgi_ipc.engines.shm.opening import Store
from tests.tools.doubles import (
    PATIENCE,
    WATCHDOG,
    BlockingEngine,
    CountingEngine,
    fresh,
    run,
    watchdog,
)
from tests.tools.layers import (
    engine_of,
    options,
)
from tests.tools.stores import (
    assert_sound,
    open_store,
    record,
)

__all__ = ["options", "watchdog"]


@pytest.mark.parametrize("how", ["close", "destroy"])
@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
def test_who_waits_while_the_layer_closes_gets_to_know(kind: Any, how: str) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine=kind)
        tasks = [
            asyncio.ensure_future(layer.receive(channel))
            for channel in (await layer.new_channel(), "c", "c")
        ]
        await asyncio.sleep(0.05)
        await getattr(layer, how)()
        for task in tasks:
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(task, PATIENCE)

    run(main())


def test_closing_in_a_thread_leaves_the_loop_in_order() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine="memory")
        task = asyncio.ensure_future(layer.receive("c"))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(layer.sync.close)
        with pytest.raises(StoreUnavailable):
            await task
        (task,) = [asyncio.ensure_future(layer.receive("c"))]
        await asyncio.sleep(0.01)
        await layer.send("c", {"n": 1})
        assert await asyncio.wait_for(task, PATIENCE) == {"n": 1}
        await layer.close()

    run(main())


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_a_layer_closed_again_and_again_under_threads_opens_anew_for_each(
    options: dict[str, Any],
) -> None:
    layer = SyncIPCChannelLayer(**options)
    stop = threading.Event()
    errors: list[BaseException] = []
    done = collections.Counter[str]()

    def use(me: int) -> None:
        number = 0
        while not stop.is_set():
            try:
                layer.send("a", {"n": number})
                done["sent"] += 1
                layer.receive(["a"], block=bool(me % 2), timeout=0.05)
            except StoreUnavailable as error:
                if "closed" not in str(error):
                    errors.append(error)
                done["refused"] += 1
            except BaseException as error:
                errors.append(error)
            number += 1

    threads = [threading.Thread(target=use, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    closed = 0
    while closed < 40 or not done["sent"]:
        time.sleep(0.005)
        layer.close()
        closed += 1
    stop.set()
    for thread in threads:
        thread.join(WATCHDOG / 2)
        assert not thread.is_alive()
    assert errors == []
    assert done["sent"] > 0
    assert_sound(engine_of(layer))
    layer.close()
    assert list((Path(options["engine_options"]["directory"]) / "store").glob("bell.*")) == []


@pytest.mark.parametrize("call", ["push", "ring", "members"])
def test_what_is_read_without_a_lock_may_be_closed_by_another_thread(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = False

    def close_now(*_: object) -> bool:
        if closing:
            engine.close()
        return True

    engine = open_store(tmp_path, clock=lambda: close_now() and time.monotonic_ns())
    if call == "push":
        # At the regular look after the store, before anything is done.
        records = [record(engine, b"a")]
        engine._next_look = 0
        monkeypatch.setattr(Store, "is_current", close_now)
        monkeypatch.setattr(engine, "clock", time.monotonic_ns)
        closing = True
        with pytest.raises(StoreUnavailable, match="closed"):
            engine.push(records)
    elif call == "ring":
        # When the push is done, and its bell is still to be signalled.
        other = open_store(tmp_path)
        bell = other.bell()
        assert other.pop(b"a", 1, bell) == []
        words = engine._words

        def closed_meanwhile(_: int) -> bool:
            engine.close()
            return bool(words[0])

        monkeypatch.setattr(engine._processes, "bell_alive", closed_meanwhile)
        assert engine.push([record(engine, b"a")]) == []
        assert bell.clear() is None  # Signalled, though not for that queue in particular.
        assert len(other.pop(b"a", 2)) == 1
        other.close()
    else:
        engine.members(b"t")
        closing = True
        with pytest.raises(StoreUnavailable, match="closed"):
            engine.members(b"t")
    monkeypatch.undo()
    open_store(tmp_path).destroy()


EXITING = """
import asyncio, contextlib, sys, threading, time
from asgi_ipc import IPCChannelLayer, StoreUnavailable
layer = IPCChannelLayer(**{options!r})
ready = threading.Semaphore(0)
# Who still waits may be told. Told by a thread that ends with the interpreter, it may be cut off.
def thread():
    with contextlib.suppress(StoreUnavailable):
        ready.release()
        layer.sync.receive(["never"], block=True)
def loop():
    async def main():
        mine = await layer.new_channel()
        never = asyncio.ensure_future(layer.receive("never"))
        ready.release()
        for error in await asyncio.gather(never, layer.receive(mine), return_exceptions=True):
            assert isinstance(error, StoreUnavailable), error
    asyncio.run(main())
for target in (thread, loop):
    threading.Thread(target=target, daemon=True).start()
for _ in range(2):
    ready.acquire()
time.sleep(0.2)
sys.exit(7)
"""


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_the_interpreter_exits_with_receivers_waiting_and_leaves_nothing(
    options: dict[str, Any],
) -> None:
    keeper = SyncIPCChannelLayer(**options)
    done = subprocess.run(
        [sys.executable, "-c", EXITING.format(options=options)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG / 2,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert engine_of(keeper).statistics()["processes"] == 1
    folder = Path(options["engine_options"]["directory"]) / "store"
    assert list(folder.glob("bell.*")) == []
    keeper.close()


_FREEZING = """
import asyncio, threading, time
from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.engines.memory import MemoryEngine

frozen = threading.Event()


class Freezing(MemoryEngine):
    capabilities = MemoryEngine.capabilities._replace(blocking=True)

    def __init__(self, prefix, **options):
        super().__init__(prefix, **options)
        if frozen.is_set():
            time.sleep(1000)


async def main():
    layer = IPCChannelLayer("one", engine=Freezing)
    await layer.close()
    frozen.set()
    try:
        await asyncio.wait_for(layer.send("channel", {}), 0.2)
    except asyncio.TimeoutError:
        print("it hangs")
    other = IPCChannelLayer("two", engine="memory")
    await other.send("channel", {})
    await other.close()
    print("the other works")


asyncio.run(main())
"""


def test_an_engine_that_hangs_as_it_is_opened_holds_up_no_other_and_not_the_end() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _FREEZING],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == ["it hangs", "the other works"]


_FROZEN_THREADS = """
import asyncio
import threading

from asgi_ipc import IPCChannelLayer
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.delivery.workers import MOST


class Freezing(MemoryEngine):
    capabilities = MemoryEngine.capabilities._replace(blocking=True)

    def push(self, records):
        threading.Event().wait()


async def main():
    layer = IPCChannelLayer(engine=Freezing)
    sends = [asyncio.ensure_future(layer.send("channel", {})) for _ in range(MOST)]
    while len(layer._core.demux.workers()._threads) < MOST:
        await asyncio.sleep(0.01)
    await layer.close()
    print("closed")
    for send in sends:
        send.cancel()


asyncio.run(main())
"""


def test_a_layer_closes_though_all_its_threads_wait_for_an_engine_that_hangs() -> None:
    command = [sys.executable, "-c", _FROZEN_THREADS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (0, "closed\n"), ended.stderr
