"""What a layer does beyond the specification: excluding, counting, waiting for room, drops."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import Any

import pytest

from asgi_ipc import ChannelFull, IPCChannelLayer, StoreFull, SyncIPCChannelLayer
from tests.tools.doubles import (
    KINDS,
    PATIENCE,
    BlockingEngine,
    CountingEngine,
    engine,
    fresh,
    in_thread,
    run,
)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
def test_a_broadcast_leaves_out_whom_it_excludes(kind: Any) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind))
        mine = [await layer.new_channel() for _ in range(3)]
        everyone = [*mine, "c", "x!1", "x!2"]
        for channel in everyone:
            await layer.group_add("g", channel)
        exclusions: list[Any] = [mine[0], [mine[0]], {"c"}, ("x!1", mine[2]), everyone, "stranger"]
        for number, exclude in enumerate(exclusions):
            assert await layer.group_send("g", {"n": number}, exclude=exclude) == ()
        # And the plan that all of these share is whole.
        await layer.group_send("g", {"n": "end"}, exclude=[])
        for channel in (*mine, "c"):
            got = []
            while "end" not in got:
                got.append((await layer.receive(channel))["n"])
            excluded = [[each] if isinstance(each, str) else each for each in exclusions]
            assert got == [n for n, each in enumerate(excluded) if channel not in each] + ["end"]
        await layer.close()

    run(main())


def test_of_one_process_only_those_left_get_a_broadcast() -> None:
    layer = SyncIPCChannelLayer(engine=engine())
    names = ["x!a", "x!b", "x!c"]
    for name in names:
        layer.group_add("g", name)
    layer.group_send("g", {}, exclude="x!b")
    got = [layer.receive(["x!"])[0] for _ in range(3)]
    assert sorted(filter(None, got)) == ["x!a", "x!c"]
    layer.close()


@pytest.mark.parametrize(
    "exclude", ["a b", ["fine", 5], [None], b"a", 5, "", b"", 0, None, False, [""]]
)
def test_a_bad_name_to_exclude_is_refused(exclude: Any) -> None:
    layer = SyncIPCChannelLayer(engine=engine())
    layer.group_add("g", "c")
    with pytest.raises(TypeError, match=re.escape(f"exclude is {exclude!r}")):
        layer.group_send("g", {}, exclude=exclude)
    assert layer.receive(["c"]) == (None, None)
    layer.close()


def test_a_broadcast_returns_the_channels_that_had_no_room() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(), capacity=1)
        channels = [await layer.new_channel() for _ in range(2)]
        for channel in (*channels, "c", "d"):
            await layer.group_add("g", channel)
        await layer.send("c", {})
        await layer.send(channels[0], {})
        assert await layer.group_send("g", {"n": 1}, exclude=channels[1]) == ["c", channels[0]]
        # Those of one process share a record, and get it or miss it together.
        assert sorted(await layer.group_send("g", {"n": 2})) == sorted(["c", "d", *channels])
        assert await layer.receive("d") == {"n": 1}
        assert layer.sync.send_group("g", {}, exclude=channels) == ["c"]
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
def test_the_members_of_a_group_are_counted(kind: Any) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind))
        for number in range(3):
            assert await layer.group_count("g") == number
            assert await asyncio.to_thread(layer.sync.group_count, "g") == number
            await layer.group_add("g", f"c{number}")
            await layer.group_send("g", {})
        await layer.group_discard("g", "c1")
        assert await layer.group_count("g") == 2
        with pytest.raises(TypeError, match="group name"):
            await layer.group_count("a b")
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
def test_a_sender_waits_for_room(kind: Any) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind), capacity=1)
        await layer.send("c", {"n": 1})
        waiting = asyncio.ensure_future(layer.send("c", {"n": 2}, wait=PATIENCE))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert await layer.receive("c") == {"n": 1}
        await waiting
        assert await layer.receive("c") == {"n": 2}
        # A message that has expired makes room too.
        layer.expiry = 0.02
        await layer.send("c", {"n": 3})
        await layer.send("c", {"n": 4}, wait=float("inf"))
        await layer.close()

    run(main())


def test_a_synchronous_sender_waits_for_room() -> None:
    layer = SyncIPCChannelLayer(engine=engine(), capacity=1)
    layer.send("c", {"n": 1})
    thread = in_thread(lambda: layer.send("c", {"n": 2}, wait=PATIENCE))
    assert layer.receive(["c"], block=True) == ("c", {"n": 1})
    assert layer.receive(["c"], block=True) == ("c", {"n": 2})
    thread.join(PATIENCE)
    layer.close()


def test_it_waits_no_longer_than_it_was_told_to() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(channel_memory=5000), capacity=1)
        await layer.send("c", {})
        for send in (_plainly(layer.sync.send), layer.send):
            for wait, error in [(0.05, ChannelFull), (0, ChannelFull)]:
                began = time.monotonic()
                with pytest.raises(error, match="channel c"):
                    await send("c", {}, wait=wait)
                assert time.monotonic() - began >= wait
            with pytest.raises(StoreFull):
                await send("d", {"n": b"x" * 9000}, wait=0.01)
            for bad in ("1", True, float("nan"), -1, -0.5, float("-inf")):
                with pytest.raises(ValueError, match="wait is"):
                    await send("c", {}, wait=bad)  # type: ignore[arg-type]
        # Nothing else is waited for; and a cancelled sender sends nothing.
        with pytest.raises(TypeError, match="channel name"):
            await layer.send("a b", {}, wait=PATIENCE)
        waiting = asyncio.ensure_future(layer.send("c", {"n": 1}, wait=PATIENCE))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await layer.receive("c") == {}
        assert layer.sync.receive(["c"]) == (None, None)
        await layer.close()

    run(main())


def _plainly(function: Any) -> Any:
    async def call(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return call


# The synchronous side and channels of one consumer


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_receives_on_a_channel_that_the_asynchronous_side_made(kind: Any) -> None:
    layer = IPCChannelLayer(engine=engine(kind))
    mine, twin = run(layer.new_channel()), layer.sync.new_channel(prefix="specific")
    assert twin.startswith(f"specific.{layer.client_prefix}!")
    assert layer.sync.new_channel() != twin
    sync = layer.sync
    sync.send(twin, {"n": 0})
    sync.send(mine, {"n": 1})
    assert sync.receive([mine]) == (mine, {"n": 1})
    assert sync.receive([mine]) == (None, None)
    assert sync.receive([mine], block=True, timeout=0.02) == (None, None)
    threading.Timer(0.05, sync.send, (mine, {"n": 2})).start()
    assert sync.receive([mine, "c"], block=True, timeout=PATIENCE) == (mine, {"n": 2})
    # All of the prefix, in the order of sending; and an event loop gets what is left.
    assert sync.receive([f"specific.{layer.client_prefix}!"]) == (twin, {"n": 0})
    sync.group_add("g", mine)
    sync.group_add("g", twin)
    sync.group_send("g", {"n": 3})
    assert sync.receive([twin], block=True) == (twin, {"n": 3})
    assert run(layer.receive(mine)) == {"n": 3}
    sync.close()


def test_a_thread_and_a_loop_wait_each_for_its_own_channel() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        mine, theirs = await layer.new_channel(), layer.sync.new_channel()
        got: list[Any] = []

        def receive() -> None:
            for _ in range(50):
                got.append(layer.sync.receive([theirs], block=True, timeout=PATIENCE)[1])

        thread = in_thread(receive)
        for number in range(50):
            await layer.send(theirs, {"n": number})
            await layer.send(mine, {"n": number})
            assert await asyncio.wait_for(layer.receive(mine), PATIENCE) == {"n": number}
        await asyncio.to_thread(thread.join, PATIENCE)
        assert got == [{"n": number} for number in range(50)]
        await layer.close()

    run(main())


# Who comes and goes


@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
def test_each_change_of_a_group_is_told_once(kind: Any) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind))
        await layer.group_add("g", "a")
        changes = layer.group_changes("g", interval=0.001)
        assert await anext(changes) == ({"a"}, set())
        following = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.01)
        await layer.group_add("g", "a")  # Renewed, which is no change.
        await asyncio.sleep(0.01)
        assert not following.done()
        await layer.group_add("g", "b")
        assert await asyncio.wait_for(following, PATIENCE) == ({"b"}, set())
        await layer.group_discard("g", "a")
        await layer.group_add("g", "c")
        gone: set[str] = set()
        come: set[str] = set()
        while not (gone and come):
            joined, left = await asyncio.wait_for(anext(changes), PATIENCE)
            come |= joined
            gone |= left
        assert (come, gone) == ({"c"}, {"a"})
        await layer.flush()
        assert await asyncio.wait_for(anext(changes), PATIENCE) == (set(), {"b", "c"})
        await changes.aclose()
        empty = layer.group_changes("other", interval=0.001)
        assert await anext(empty) == (set(), set())
        await empty.aclose()
        await layer.close()

    run(main())


def test_changes_are_followed_over_a_store_that_is_made_anew() -> None:
    class Versioned(CountingEngine):
        """Its versions look like those of the next engine, of which they say nothing."""

        def members(self, table: bytes, known: Any = None) -> Any:
            found = super().members(table)._replace(version=7)
            return known if known is not None and known.version == 7 else found

    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine=Versioned)
        await layer.group_add("g", "a")
        changes = layer.group_changes("g", interval=0.001)
        assert await anext(changes) == ({"a"}, set())
        await layer.destroy()
        await layer.group_add("g", "b")
        assert await asyncio.wait_for(anext(changes), PATIENCE) == ({"b"}, {"a"})
        await changes.aclose()
        await layer.close()

    run(main())
