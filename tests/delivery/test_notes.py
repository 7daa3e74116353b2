"""What a process tells others of what it has counted, while it lives and when it has left."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import ChannelFull, IPCChannelLayer, StoreFull, SyncIPCChannelLayer
from asgi_ipc.engines import open_engine
from asgi_ipc.engines.base import COUNTERS, GAUGES, Engine
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.exceptions import StoreUnavailable
from conformance.forks import in_child
from tests.tools.doubles import eventually, run
from tests.tools.layers import demux_of

MESSAGE = {"type": "x"}


@pytest.fixture
def prefix() -> str:
    return f"notes-{secrets.token_hex(6)}"


@pytest.fixture
def witness(prefix: str) -> Iterator[Engine]:
    """Another process, as the memory engine has it: another engine on the same store."""
    witness = open_engine("memory", prefix, channel_memory=1 << 20, group_memory=1 << 20)
    yield witness
    witness.close()


def layer(prefix: str, **options: Any) -> IPCChannelLayer:
    memory = {"channel_memory": 1 << 20, "group_memory": 1 << 20}
    return IPCChannelLayer(prefix, engine="memory", **{**memory, **options})


def sums(engine: Engine) -> dict[str, int]:
    """What is not zero of all that processes have counted."""
    counts = engine.statistics()
    return {name: counts[name] for name in (*COUNTERS, *GAUGES) if counts[name]}


async def known(layer: IPCChannelLayer) -> str:
    """A channel on which has been received once: one message has bypassed the store."""
    channel = await layer.new_channel()
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    await layer.send(channel, MESSAGE)
    assert await receiving == MESSAGE
    return channel


def test_a_process_that_waits_tells_others_without_being_asked(
    prefix: str, witness: Engine
) -> None:
    async def main() -> None:
        mine = layer(prefix)
        demux_of(mine).look_again = 0.01
        channel = await known(mine)
        waiting = asyncio.create_task(mine.receive(await mine.new_channel()))
        await eventually(lambda: sums(witness) == {"passed_directly": 1})
        for _ in range(3):
            await mine.send(channel, MESSAGE)
        await eventually(lambda: sums(witness).get("held") == 3)
        direct = {"passed_directly": sums(witness)["passed_directly"]}
        assert sums(witness)["held_bytes"] > 3 * 200
        for _ in range(3):
            await mine.receive(channel)
        await eventually(lambda: sums(witness) == direct)
        waiting.cancel()
        await mine.close()
        assert sums(witness) == direct, "it has left"

    run(main())


def test_the_last_counts_are_told_though_nobody_waits_any_more(
    prefix: str, witness: Engine
) -> None:
    async def main() -> None:
        mine = layer(prefix)
        demux = demux_of(mine)
        demux.look_again = 0.01
        await known(mine)
        assert not any(own.waiting for own in demux.own.values())
        await eventually(lambda: sums(witness) == {"passed_directly": 1})
        (listener,) = demux.loops.values()
        await eventually(lambda: listener._timer is None)
        await mine.close()

    run(main())


def test_what_is_dropped_in_buffers_and_at_the_end_is_told(prefix: str, witness: Engine) -> None:
    async def main() -> None:
        mine = layer(prefix, capacity=2)
        channel, ready = await mine.new_channel(), await mine.new_channel()
        receiving = asyncio.create_task(mine.receive(ready))
        await asyncio.sleep(0)
        # With receivers at work, the process fetches for those too that nobody reads.
        for _ in range(5):
            await mine.send(ready, MESSAGE)
            await receiving
            await mine.send(channel, MESSAGE)
            receiving = asyncio.create_task(mine.receive(ready))
            await asyncio.sleep(0.01)
        receiving.cancel()
        counted = await mine.global_statistics()
        assert counted["overflow_count"] == 3
        assert counted["buffer_overflow_count"] == 3
        assert sums(witness)["overflowed"] == 3, "as statistics note first"
        await mine.close()
        # The two that it held when it left.
        told = sums(witness)
        assert told["overflowed"] == 5
        assert not told.keys() & set(GAUGES)

    run(main())


def test_a_synchronous_process_tells_while_it_waits(prefix: str, witness: Engine) -> None:
    mine = SyncIPCChannelLayer(
        prefix, engine="memory", channel_memory=1 << 20, group_memory=1 << 20
    )
    channel = f"specific.{mine.client_prefix}!"
    mine.send(channel + "a", MESSAGE)
    mine.send(channel + "a", MESSAGE)
    assert mine.receive([channel])[1] == MESSAGE
    assert mine.receive(["none"], block=True, timeout=0.001) == (None, None)
    noted = [each for each in witness.processes() if each.identity != witness.identity]
    assert [each.counts["fetched"] for each in noted] == [
        witness.statistics(channel.encode())["popped"]
    ]
    mine.close()


def test_layers_on_one_engine_that_stays_open_add_up(prefix: str) -> None:
    engine = MemoryEngine(prefix, channel_memory=1 << 20, group_memory=1 << 20)

    async def pass_one() -> None:
        mine = IPCChannelLayer(engine=engine)
        await known(mine)
        assert (await mine.global_statistics())["passed_directly_count"] > 0
        await mine.close()

    for times in range(1, 4):
        run(pass_one())
        assert sums(engine) == {"passed_directly": times}

    def child() -> None:
        run(pass_one())
        assert sums(engine) == {"passed_directly": 1}, "its own"

    in_child(child)
    engine.close()


@pytest.mark.parametrize("name", ["memory", "mmap"])
def test_a_new_store_begins_with_counts_of_0(name: str, prefix: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"channel_memory": 1 << 20, "group_memory": 1 << 20}
    if name == "mmap":
        options["engine_options"] = {"directory": tmp_path}
    engine = open_engine(name, prefix, **options)

    async def main() -> None:
        mine = IPCChannelLayer(engine=engine)
        await known(mine)
        await mine.global_statistics()
        assert sums(engine) == {"passed_directly": 1}
        open_engine(name, prefix, **options).destroy()
        assert (await mine.global_statistics())["passed_directly_count"] == 0
        engine.note({"passed_directly": 3})
        assert sums(engine) == {"passed_directly": 2}
        await mine.close()

    def child() -> None:
        engine.note({"passed_directly": 1})
        assert sums(engine) == {"passed_directly": 1}

    run(main())
    in_child(child)
    engine.destroy()


class Telling(MemoryEngine):
    """Counts its notes, and fails if it is to."""

    calls = 0
    fails = False

    def note(self, counts: Mapping[str, int]) -> None:
        Telling.calls += 1
        if self.fails:
            raise StoreUnavailable("gone")
        super().note(counts)


class Silent(Telling):
    """Has no such methods."""

    capabilities = MemoryEngine.capabilities._replace(inspects=False)
    note = None  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Silent, Telling])
def test_an_engine_that_can_not_be_told_is_not_and_one_that_fails_fails_nobody(
    prefix: str, kind: type[Telling], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Telling, "fails", True)
    monkeypatch.setattr(Telling, "calls", 0)

    async def main() -> None:
        engine = kind(prefix, channel_memory=1 << 20, group_memory=1 << 20)
        mine = IPCChannelLayer(engine=engine)
        await known(mine)
        await mine.global_statistics()
        await mine.close()
        engine.close()

    run(main())
    assert (Telling.calls > 0) is (kind is Telling)


def test_an_idle_process_that_has_counted_nothing_notes_nothing(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Telling, "calls", 0)

    async def main() -> None:
        engine = Telling(prefix, channel_memory=1 << 20, group_memory=1 << 20)
        mine = IPCChannelLayer(engine=engine)
        demux_of(mine).look_again = 0.001
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(mine.receive("q"), 0.05)
        await mine.close()
        engine.close()

    run(main())
    assert Telling.calls <= 1


def fill(layer: SyncIPCChannelLayer, channel: str) -> None:
    for number in range(100_000):
        layer.group_add(f"room{number}", channel)


def test_a_full_memory_looks_full(prefix: str) -> None:
    mine = SyncIPCChannelLayer(
        prefix, engine="memory", channel_memory=500_000_000, group_memory=1 << 18
    )
    channel = f"specific.{mine.client_prefix}!{'x' * 40}"
    with pytest.raises(StoreFull):
        fill(mine, channel)
    counts = mine.global_statistics()
    assert counts["group_bytes_used"] > 0.9 * counts["group_bytes_total"]
    assert counts["bytes_used"] < 0.01 * counts["bytes_total"]
    mine.close()


def test_a_full_store_is_counted_apart_from_a_full_channel(prefix: str) -> None:
    mine = SyncIPCChannelLayer(
        prefix, engine="memory", channel_memory=1 << 18, group_memory=1 << 18, capacity=1
    )
    mine.send("a", MESSAGE)
    with pytest.raises(ChannelFull):
        mine.send("a", MESSAGE)
    with pytest.raises(StoreFull):
        mine.send("b", {"x": "y" * 300_000})
    counts = mine.global_statistics()
    assert (counts["channel_full_count"], counts["store_full_count"]) == (2, 1)
    assert counts["processes_count"] == 1
    assert mine.channel_statistics("a")["store_full_count"] == 0
    assert mine.channel_statistics("b")["store_full_count"] == 1
    mine.close()
