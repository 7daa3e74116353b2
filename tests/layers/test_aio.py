"""The asynchronous layer, beyond what the conformance suite holds every engine to.

All its calls in a row, engines that block, how often a broadcast is planned, and Channels.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_ipc import ChannelFull, IPCChannelLayer
from tests.tools.doubles import (
    PATIENCE,
    BlockingEngine,
    CountingEngine,
    engine,
    fresh,
    run,
)


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


def test_the_capacity_of_a_channel_is_that_of_the_first_pattern_that_fits() -> None:
    layer = IPCChannelLayer(
        fresh(), engine="memory", capacity=7, channel_capacity={"http.*": 5, "http.x": 3}
    )
    assert layer.get_capacity("http.x") == 5
    assert layer.get_capacity("other") == 7
    layer.sync.close()


def test_a_broadcast_is_planned_once_while_the_group_stays_as_it_is(monkeypatch: Any) -> None:
    from asgi_ipc.policy import groups

    plans = []

    def plan(*arguments: Any, **options: Any) -> Any:
        plans.append(arguments)
        return real(*arguments, **options)

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
