"""The asynchronous layer, beyond what the conformance suite holds every engine to."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import (
    ChannelFull,
    IPCChannelLayer,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
    SyncIPCChannelLayer,
    registry,
)
from asgi_ipc.demux import Demultiplexer
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.names import channel_name
from asgi_ipc.offload import OffloadingListener, _Pop

from .doubles import PATIENCE, BlockingEngine, CountingEngine, engine, fresh, run, watchdog

__all__ = ["watchdog"]


def test_new_channels_are_this_processs_and_never_the_same() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine="memory")
        names = set()
        for _ in range(100):
            random.seed(1)
            names.add(await layer.new_channel())
        assert len(names) == 100
        for name in names:
            assert name.startswith(f"specific.{layer.client_prefix}!")
            assert channel_name(name).owner.hex() == layer.client_prefix[:28]
        assert (await layer.new_channel("a.b")).startswith(f"a.b.{layer.client_prefix}!")
        assert len(await layer.new_channel("x" * 33)) == 99
        await layer.close()

    run(main())


@pytest.mark.parametrize("prefix", ["a!", "a?", "a b", "ä", "x" * 34, None, 1, b"a"])
def test_a_prefix_that_makes_no_valid_name_is_refused(prefix: Any) -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    with pytest.raises(TypeError, match="prefix of a new channel"):
        run(layer.new_channel(prefix))
    layer.sync.close()


@pytest.mark.parametrize(
    ("channel", "why"),
    [
        ("specific." + "ab" * 16 + "!c", "belongs to process abab"),
        ("not-client-prefix!local_part", "not made by new_channel"),
        ("a!", "not made by new_channel"),
    ],
)
def test_receiving_on_somebody_elses_channel_is_an_error_at_once(channel: str, why: str) -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    with pytest.raises(ValueError, match=why):
        run(layer.receive(channel))
    layer.sync.close()


def test_both_layers_tell_whose_a_channel_is_in_the_same_words_and_digits() -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    queue = "specific." + "ab" * 16 + "!"
    whose = f"belongs to process {'ab' * 14}, and this is {layer.client_prefix[:28]};"
    with pytest.raises(ValueError, match=whose) as here:
        run(layer.receive(queue + "c"))
    with pytest.raises(ValueError, match=whose) as there:
        layer.sync.receive([queue])
    assert str(here.value) == str(there.value).replace(queue, queue + "c")
    layer.sync.close()


# What else code written for other channel layers asks for


def test_a_valid_name_is_said_to_be_valid_and_another_is_an_error() -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    longest = "x" * (layer.MAX_NAME_LENGTH - 1)
    assert len(longest) == 99
    for name in (longest, "a.b-c_d", "specific.x!local", "x!"):
        assert layer.require_valid_channel_name(name) is True
    assert layer.require_valid_group_name(longest) is True
    for bad in (longest + "x", "", "a b", "a!b!c", "ä", b"a", None, 5):
        with pytest.raises(TypeError, match="channel name"):
            layer.require_valid_channel_name(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="group name"):
            layer.require_valid_group_name(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="group name"):
        layer.require_valid_group_name("a!")
    layer.sync.close()


def test_a_name_to_receive_from_must_end_at_the_exclamation_mark() -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    for name in ("a", "x!"):
        assert layer.require_valid_channel_name(name, receive=True) is True
    with pytest.raises(TypeError, match="'x!local' must end at the '!'"):
        layer.require_valid_channel_name("x!local", receive=True)
    layer.sync.close()


def test_the_non_local_part_of_a_name_goes_up_to_the_exclamation_mark() -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    names = {"specific.x!local": "specific.x!", "x!": "x!", "a.b": "a.b", "a?b": "a?b"}
    for name, part in names.items():
        assert layer.non_local_name(name) == part
    with pytest.raises(TypeError, match="channel name"):
        layer.non_local_name("a b")
    layer.sync.close()


def test_the_capacity_of_a_channel_is_that_of_the_first_pattern_that_fits() -> None:
    layer = IPCChannelLayer(
        fresh(), engine="memory", capacity=7, channel_capacity={"http.*": 5, "http.x": 3}
    )
    assert layer.get_capacity("http.x") == 5
    assert layer.get_capacity("other") == 7
    layer.sync.close()


# Errors and warnings


@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
def test_both_layers_and_all_calls_work(kind: Any) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind), capacity=2)
        mine = await layer.new_channel()
        await layer.group_add("g", "c")
        await layer.group_add("g", mine)
        await layer.group_add("g", mine)
        assert sorted(await layer.group_channels("g")) == sorted(["c", mine])
        await layer.group_send("g", {"n": 1})
        assert await layer.receive("c") == await layer.receive(mine) == {"n": 1}
        await layer.group_discard("g", "c")
        await layer.group_discard("g", "stranger")
        await layer.group_send("g", {"n": 2})
        assert await layer.receive(mine) == {"n": 2}
        await layer.send("c", {"n": 3})
        await layer.send("c", {"n": 4})
        with pytest.raises(ChannelFull, match=r"channel c .* 2 unread"):
            await layer.send("c", {"n": 5})
        statistics = await layer.channel_statistics("c")
        assert statistics["messages_pending"] == 2
        assert statistics["channel_full_count"] == 1
        assert statistics["messages_count"] == 3
        assert 0 <= statistics["messages_max_age"] < 60
        await layer.flush()
        assert await layer.group_channels("g") == []
        assert (await layer.global_statistics())["messages_pending"] == 0
        await layer.close()

    run(main())


def test_a_blocking_receive_that_is_cancelled_puts_back_what_it_took() -> None:
    class Slow(BlockingEngine):
        delay = 0.05

    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(Slow))
        await layer.send("c", {"n": 1})
        await layer.send("c", {"n": 2})
        for moment in (0.0, 0.01, 0.06, 0.09):
            task = asyncio.ensure_future(layer.receive("c"))
            await asyncio.sleep(moment)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.25)
        assert await layer.receive("c") == {"n": 1}
        assert await layer.receive("c") == {"n": 2}
        await layer.close()

    run(main())


def test_a_blocking_look_that_is_called_off_in_between_puts_back_what_it_took() -> None:
    slow = engine(BlockingEngine)
    listener = OffloadingListener(Demultiplexer(slow), asyncio.new_event_loop())
    record = Record(b"c", b"x", slow.clock() + 10**10, 10)
    for called_off_first in (True, False):
        slow.push([record])
        look = _Pop(listener, b"c", slow.bell())
        if called_off_first:
            look.cancel()
            assert look.run() is None
        else:
            assert look.run() is not None
            assert look.cancel()
            look.put_back()
        assert [popped.payload for popped in slow.pop(b"c")] == [b"x"]
    loop = listener.loop()
    assert loop is not None
    loop.close()
    slow.close()


# Groups


def test_a_broadcast_is_planned_once_while_the_group_stays_as_it_is(monkeypatch: Any) -> None:
    from asgi_ipc.policy import groups

    plans = []

    def plan(*arguments: Any) -> Any:
        plans.append(arguments)
        return real(*arguments)

    real = groups.plan
    monkeypatch.setattr(groups, "plan", plan)

    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        await layer.group_add("g", "a")
        for _ in range(3):
            await layer.group_send("g", {})
        assert len(plans) == 1
        await layer.group_add("g", "b")
        await layer.group_send("g", {})
        assert len(plans) == 2
        await layer.receive("b")
        await layer.close()

    run(main())


def test_the_plan_of_one_store_is_not_used_on_the_next() -> None:
    """Versions of `Members` mean nothing to another engine, though they may look alike."""

    class Versioned(CountingEngine):
        def members(self, table: bytes, known: Any = None) -> Any:
            found = super().members(table)._replace(version=7)
            return known if known is not None and known.version == 7 else found

    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine=Versioned)
        await layer.group_add("g", "a")
        await layer.group_send("g", {})
        await layer.destroy()
        await layer.group_add("g", "b")
        await layer.group_send("g", {"n": 1})
        assert await asyncio.wait_for(layer.receive("b"), PATIENCE) == {"n": 1}
        await layer.close()

    run(main())


def test_dropped_group_messages_are_logged_but_not_each(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(), capacity=1)
        await layer.group_add("room", "a")
        await layer.group_add("room", "b")
        await layer.send("a", {})
        for _ in range(50):
            await layer.group_send("room", {})
        await layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "room" in record.getMessage()
    assert "1 of 2 channels (a)" in record.getMessage()
    assert "1 dropped in this group of late" in record.getMessage()


@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
@pytest.mark.parametrize("payload", [b"\xc1", b"\x90"])
def test_a_record_that_is_none_is_an_error_that_names_the_store_and_the_way_out(
    kind: Any, payload: bytes
) -> None:
    async def main() -> None:
        spoilt = engine(kind)
        layer = IPCChannelLayer("site", engine=spoilt)
        own = channel_name(await layer.new_channel())
        deadline = spoilt.clock() + 10**12

        await asyncio.to_thread(spoilt.put, b"g", b"no member", deadline)
        bad = Record(b"c", payload, deadline, 100)

        async def receive(channels: list[str]) -> Any:
            return await asyncio.to_thread(layer.sync.receive, channels)

        calls: list[tuple[Any, list[Record]]] = [
            (partial(layer.receive, "c"), [bad]),
            (partial(receive, ["c"]), [bad]),
            (
                partial(layer.receive, own.full),
                [bad._replace(queue=own.queue, payload=own.header + payload)],
            ),
            # No envelope, either.
            (partial(receive, [own.queue.decode()]), [bad._replace(queue=own.queue)]),
            (partial(layer.group_channels, "g"), []),
            (partial(layer.group_send, "g", {}), []),
        ]
        for call, records in calls:
            await asyncio.to_thread(spoilt.push, records)
            with pytest.raises(StoreCorrupt) as caught:
                await call()
            said = str(caught.value)
            assert type(caught.value) is StoreCorrupt
            assert said.startswith(f"the store of prefix 'site' on engine {spoilt!r} holds what no")
            assert said.endswith("to start afresh remove it with destroy()")
            assert isinstance(caught.value.__cause__, StoreCorrupt)
            assert f"({caught.value.__cause__});" in said
        await layer.close()

    run(main())


def test_the_error_of_a_record_that_is_none_names_the_directory_that_was_given(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"engine": "mmap", "engine_options": {"directory": tmp_path}}
    layer = SyncIPCChannelLayer("site", **options)
    store = layer._core.demux.engine
    store.push([Record(b"c", b"\xc1", store.clock() + 10**12, 100)])
    said = f"store of prefix 'site' on engine 'mmap' in '{tmp_path}' holds"
    with pytest.raises(StoreCorrupt, match=said):
        layer.receive(["c"])
    layer.destroy()


def test_a_full_store_is_a_channel_full_with_the_engines_advice() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(channel_memory=1000))
        with pytest.raises(StoreFull, match="channel_memory"):
            await layer.send("c", {"a": b"x" * 2000})
        await layer.group_add("g", "c")
        await layer.group_send("g", {"a": b"x" * 2000})
        await layer.close()

    run(main())


# Opening, closing, sharing


def test_layers_on_one_store_share_the_engine_until_the_last_closes() -> None:
    async def main() -> None:
        prefix = fresh()
        one = IPCChannelLayer(prefix, engine="memory")
        two = IPCChannelLayer(prefix, engine=MemoryEngine)
        three = SyncIPCChannelLayer(prefix, engine="asgi_ipc.engines.memory:MemoryEngine")
        other = IPCChannelLayer(fresh(), engine="memory")
        assert one._core.demux is two._core.demux is three._core.demux
        assert one._core.demux is not other._core.demux
        used = one._core.demux.engine
        channel = await one.new_channel()
        await two.send(channel, {"n": 1})
        assert await two.receive(channel) == {"n": 1}
        await one.close()
        await one.close()
        assert used.clock() > 0
        await two.close()
        three.close()
        with pytest.raises(StoreUnavailable):
            used.push([])
        await other.close()

    run(main())


def test_a_closed_layer_opens_again_when_it_is_used() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine="memory")
        await layer.send("c", {"n": 1})
        await layer.close()
        await layer.send("c", {"n": 2})
        message = await layer.receive("c")
        assert message == {"n": 2}
        await layer.close()
        assert layer.sync.receive(["c"]) == (None, None)
        layer.sync.close()

    run(main())


def test_an_engine_passed_in_stays_open() -> None:
    mine = engine()
    layer, other = IPCChannelLayer(engine=mine), SyncIPCChannelLayer(engine=mine)
    assert layer._core.demux is other._core.demux
    layer.sync.close()
    other.close()
    mine.push([])
    other.send("c", {"n": 1})
    assert other.receive(["c"]) == ("c", {"n": 1})
    other.close()
    mine.close()


def test_a_layer_that_is_dropped_without_closing_lets_go_of_its_store() -> None:
    class Disposable(MemoryEngine):
        closed = 0

        def close(self) -> None:
            type(self).closed += 1
            super().close()

    layer = IPCChannelLayer(fresh(), engine=Disposable)
    layer.sync.send("c", {})
    del layer
    gc.collect()
    other = SyncIPCChannelLayer(fresh(), engine="memory")
    assert Disposable.closed == 1
    other.close()


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


def test_destroying_the_store_leaves_other_layers_on_it_usable() -> None:
    async def main() -> None:
        prefix = fresh()
        one, two = (
            IPCChannelLayer(prefix, engine="memory"),
            IPCChannelLayer(prefix, engine="memory"),
        )
        await two.send("c", {"n": 1})
        await one.destroy()
        await two.send("c", {"n": 2})
        assert await one.receive("c") == {"n": 2}
        await one.close()
        await two.close()

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


def test_an_engine_that_cannot_be_opened_leaves_nothing_registered() -> None:
    before = dict(registry._shared)
    for _ in range(2):
        with pytest.raises(Exception, match="no engine 'nonesuch'"):
            IPCChannelLayer(fresh(), engine="nonesuch")
    assert registry._shared == before


# Processes


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


def test_it_serves_as_the_layer_of_channels() -> None:
    pytest.importorskip("channels")
    from channels.consumer import AsyncConsumer
    from django.conf import settings

    if not settings.configured:
        settings.configure(CHANNEL_LAYERS={})
    from asgiref import testing
    from channels.layers import channel_layers

    communicator: Any = testing.ApplicationCommunicator

    class Echo(AsyncConsumer):  # type: ignore[misc]
        async def test_start(self, event: Any) -> None:
            await self.channel_layer.group_add("g", self.channel_name)
            await self.send({"type": "ready"})

        async def test_message(self, event: Any) -> None:
            await self.send({"type": "got", "text": event["text"]})

    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine="memory")
        before = channel_layers.set("default", layer)
        try:
            application: Any = communicator(Echo(), {"type": "test"})
            await application.send_input({"type": "test.start"})
            assert await application.receive_output(PATIENCE) == {"type": "ready"}
            for number in range(3):
                await layer.group_send("g", {"type": "test.message", "text": f"{number}"})
                assert await application.receive_output(PATIENCE) == {
                    "type": "got",
                    "text": f"{number}",
                }
            application.future.cancel()
            await asyncio.gather(application.future, return_exceptions=True)
        finally:
            channel_layers.backends.pop("default")
            if before is not None:
                channel_layers.set("default", before)
            await layer.close()

    run(main())


def test_two_layers_of_a_process_differ_and_each_receives_on_the_others_channels() -> None:
    async def main() -> None:
        prefix = fresh()
        one, two = (IPCChannelLayer(prefix, engine="memory") for _ in range(2))
        assert one.client_prefix != two.client_prefix
        name = await one.new_channel()
        await one.send(name, {"to": "one"})
        assert await two.receive(name) == {"to": "one"}
        await one.close()
        await two.close()

    run(main())
