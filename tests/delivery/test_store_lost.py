"""Callbacks for a store that lost what it held: once for each event, in their own event loop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.doubles import PATIENCE, BlockingEngine, fresh, run, watchdog
from tests.tools.layers import demux_of

__all__ = ["watchdog"]

SIZES: dict[str, Any] = {"channel_memory": 1 << 20, "group_memory": 1 << 20}


def pair(kind: type[MemoryEngine] = MemoryEngine) -> tuple[IPCChannelLayer, IPCChannelLayer]:
    """A layer of this process, and one of what is like another process."""
    prefix = fresh()
    one, two = (IPCChannelLayer(engine=kind(prefix, **SIZES)) for _ in range(2))
    demux_of(one).look_again = 0.01
    return one, two


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await some_looks(0.01)


async def some_looks(seconds: float = 0.1) -> None:
    """Time for several regular looks."""
    await asyncio.sleep(seconds)


@pytest.mark.parametrize("kind", [MemoryEngine, BlockingEngine])
@pytest.mark.parametrize("receives", [True, False])
def test_a_flush_calls_back_once_in_the_loop(kind: type[MemoryEngine], receives: bool) -> None:
    async def main() -> None:
        layer, other = pair(kind)
        channel = await layer.new_channel()
        waiting = asyncio.ensure_future(layer.receive(channel)) if receives else None
        loops: list[object] = []

        async def rejoin() -> None:
            loops.append(asyncio.get_running_loop())
            await layer.group_add("room", channel)

        layer.on_store_lost(rejoin)
        await rejoin()
        for times in (2, 3):
            await other.flush()
            await until(lambda times=times: len(loops) >= times)  # type: ignore[misc]
            await some_looks()
            assert loops == [asyncio.get_running_loop()] * times
            assert await other.group_channels("room") == [channel]
        if waiting is not None:
            await other.group_send("room", {"type": "news"})
            assert await asyncio.wait_for(waiting, PATIENCE) == {"type": "news"}
        await layer.close()
        await other.close()

    run(main())


@pytest.mark.parametrize("engine", ["mmap", "posix"])
def test_a_store_that_another_replaced_calls_back(engine: str, tmp_path: Path) -> None:
    """Neither store was ever flushed, and the process's channels keep their names."""
    options: dict[str, Any] = {
        "prefix": "lost",
        "engine": engine,
        "engine_options": {"directory": str(tmp_path)},
        **SIZES,
    }

    async def main() -> None:
        layer = IPCChannelLayer(**options)
        # Not by the same lease: as another process.
        other = SyncIPCChannelLayer(**{**options, "engine_options": {"directory": tmp_path}})
        demux_of(layer).look_again = 0.05
        channel = await layer.new_channel()
        waiting = asyncio.ensure_future(layer.receive(channel))
        called: list[None] = []

        async def rejoin() -> None:
            called.append(None)
            await layer.group_add("room", channel)

        layer.on_store_lost(rejoin)
        other.destroy()
        await until(lambda: bool(called))
        await some_looks()
        assert called == [None]
        other.group_send("room", {"type": "news"})
        assert await asyncio.wait_for(waiting, PATIENCE) == {"type": "news"}
        await layer.destroy()
        other.close()

    run(main())
    assert list(tmp_path.iterdir()) == []


def test_what_was_lost_before_and_what_this_layer_destroys_call_nothing() -> None:
    async def main() -> None:
        layer, other = pair()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await other.flush()
        called: list[None] = []
        layer.on_store_lost(lambda: called.append(None))
        await some_looks()
        await layer.destroy()
        await some_looks()
        assert called == []
        await other.close()

    run(main())


class Consumer:
    """Has a callback that is a bound method."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    def rejoin(self) -> None:
        self.heard.append("consumer")


def test_callbacks_end_with_their_object_or_when_they_are_removed() -> None:
    async def main() -> None:
        layer, other = pair()
        heard: list[str] = []
        kept, collected = Consumer(heard), Consumer(heard)
        remove = layer.on_store_lost(lambda: heard.append("removed"))
        for consumer in (kept, collected):
            layer.on_store_lost(consumer.rejoin)
        # As a synchronous consumer does: it runs in a thread without a loop.
        await asyncio.to_thread(layer.on_store_lost, lambda: heard.append("thread"))
        layer.on_store_lost(lambda: heard.append("function"))
        del consumer, collected
        gc.collect()
        remove()
        remove()
        await other.flush()
        await until(lambda: "function" in heard)
        assert heard == ["thread", "consumer", "function"]
        # Without callbacks nothing keeps the regular look going.
        assert demux_of(layer).is_watched()
        await layer.close()
        await other.close()

    run(main())


def test_callbacks_of_ended_objects_do_not_add_up() -> None:
    async def main() -> None:
        layer, other = pair()
        for _ in range(1000):
            layer.on_store_lost(Consumer([]).rejoin)
        (lease,) = demux_of(layer).leases
        assert len(lease.callbacks._added) <= 64
        await layer.close()
        await other.close()

    run(main())


def test_thousands_of_callbacks_leave_the_loop_its_turns() -> None:
    async def main() -> None:
        layer, other = pair()
        called: list[int] = []
        turns: list[int] = []
        for number in range(1000):
            layer.on_store_lost(lambda number=number: called.append(number))  # type: ignore[misc]
        await other.flush()
        while len(called) < 1000:
            turns.append(len(called))
            await asyncio.sleep(0)
        assert called == list(range(1000))
        assert max(b - a for a, b in itertools.pairwise(turns)) <= 64
        await layer.close()
        await other.close()

    run(main())


def test_the_error_of_a_callback_is_logged_and_keeps_from_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        layer, other = pair()
        called: list[None] = []

        def fail() -> None:
            raise ValueError("plain")

        async def fail_later() -> None:
            raise ValueError("later")

        layer.on_store_lost(fail)
        layer.on_store_lost(fail_later)
        layer.on_store_lost(lambda: called.append(None))
        await other.flush()
        await until(lambda: bool(called))
        await some_looks()
        await layer.close()
        await other.close()

    run(main())
    texts = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert texts == ["plain", "later"]


@pytest.mark.parametrize("channel", ["work", "inbox!"])
def test_without_a_loop_the_thread_that_receives_calls_back(channel: str) -> None:
    layer, other = (
        SyncIPCChannelLayer(engine=MemoryEngine(prefix, **SIZES)) for prefix in [fresh()] * 2
    )
    demux_of(layer).look_again = 0.01
    threads: list[object] = []
    called = threading.Event()

    def note() -> None:
        threads.append(threading.current_thread())
        layer.group_add("room", "work")
        called.set()

    layer.on_store_lost(note)
    receiver = threading.Thread(target=layer.receive, args=([channel], True))
    receiver.start()
    other.flush()
    assert called.wait(PATIENCE)
    while not other.group_channels("room"):
        pass
    other.send(channel if channel == "work" else "inbox!x", {"type": "end"})
    receiver.join(PATIENCE)
    assert threads == [receiver]
    layer.close()
    other.close()


def test_what_can_not_be_called_is_refused_with_the_remedy() -> None:
    layer = SyncIPCChannelLayer(prefix=fresh(), engine="memory")

    async def rejoin() -> None:
        pass

    with pytest.raises(TypeError, match="pass a function"):
        layer.on_store_lost("rejoin")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="in the event loop"):
        layer.on_store_lost(rejoin)
    layer.close()
