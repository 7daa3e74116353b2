"""Layers that share a store: who opens and closes its engine, and what the others see of it."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, StoreUnavailable, SyncIPCChannelLayer
from asgi_ipc.delivery import leases
from asgi_ipc.delivery.demultiplexer import Demultiplexer
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.doubles import (
    engine,
    fresh,
    run,
    watchdog,
)

__all__ = ["watchdog"]


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


def test_an_engine_that_cannot_be_opened_leaves_nothing_registered() -> None:
    before = dict(leases._shared)
    for _ in range(2):
        with pytest.raises(Exception, match="no engine 'nonesuch'"):
            IPCChannelLayer(fresh(), engine="nonesuch")
    assert leases._shared == before


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


def test_a_layer_that_a_finalizer_uses_while_it_is_being_opened_can_be_closed_and_opened_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefix = fresh()
    layer = SyncIPCChannelLayer(prefix, engine="memory")
    layer.close()
    messages = iter([{"n": 0}])

    def made(*arguments: Any) -> Demultiplexer:
        demux = Demultiplexer(*arguments)
        for message in messages:
            layer.send("channel", message)
        return demux

    monkeypatch.setattr(leases, "Demultiplexer", made)
    other = SyncIPCChannelLayer(prefix, engine="memory")
    other.send("channel", {"n": 1})
    assert layer.receive(["channel"]) == ("channel", {"n": 0})
    assert layer.receive(["channel"]) == ("channel", {"n": 1})
    other.close()
    layer.close()
    layer.send("channel", {"n": 2})
    assert layer.receive(["channel"]) == ("channel", {"n": 2})
    layer.close()
