"""Layers that share a store: which opens and closes its engine, and what the others see of it."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, StoreUnavailable, SyncIPCChannelLayer
from asgi_ipc.delivery import leases
from asgi_ipc.delivery.demultiplexer import Demultiplexer
from asgi_ipc.engines.base import Engine
from asgi_ipc.engines.choice import EngineChoice
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.exceptions import Reentered
from tests.tools.doubles import (
    PATIENCE,
    engine,
    fresh,
    in_thread,
    run,
)
from tests.tools.layers import demux_of
from tests.tools.meetings import guarded, started


def test_layers_on_one_store_share_the_engine_until_the_last_closes() -> None:
    async def main() -> None:
        prefix = fresh()
        one = IPCChannelLayer(prefix, engine="memory")
        two = IPCChannelLayer(prefix, engine=MemoryEngine)
        three = SyncIPCChannelLayer(prefix, engine="asgi_ipc.engines.memory:MemoryEngine")
        other = IPCChannelLayer(fresh(), engine="memory")
        assert demux_of(one) is demux_of(two) is demux_of(three)
        assert demux_of(one) is not demux_of(other)
        used = demux_of(one).engine
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
    assert demux_of(layer) is demux_of(other)
    layer.sync.close()
    other.close()
    mine.push([])
    other.send("c", {"n": 1})
    assert other.receive(["c"]) == ("c", {"n": 1})
    other.close()
    mine.close()


def test_a_layer_that_is_dropped_without_closing_releases_its_store() -> None:
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("where", ["in the registry", "in another opening"])
def test_code_in_the_middle_of_an_opening_does_not_wait_for_a_thread_that_opens_another(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """That thread may wait for this one."""

    def meet() -> None:
        one = SyncIPCChannelLayer(fresh(), engine="memory")
        other = SyncIPCChannelLayer(fresh(), engine="memory")
        one.close()
        other.close()
        errors: list[BaseException] = []
        is_open, go_on = threading.Event(), threading.Event()
        opens = EngineChoice.open

        def open_slowly(choice: EngineChoice) -> Engine:
            if threading.current_thread() is not threading.main_thread():
                is_open.set()
                go_on.wait()
            elif where == "in another opening":
                interrupt()
            return opens(choice)

        class Opening(leases._Opening):
            def __init__(self) -> None:
                super().__init__()
                if where == "in the registry" and is_open.is_set():
                    interrupt()

        def interrupt() -> None:
            if not go_on.is_set():
                with pytest.raises(Reentered):
                    other.send("c", {})
                go_on.set()

        monkeypatch.setattr(EngineChoice, "open", open_slowly)
        monkeypatch.setattr(leases, "_Opening", Opening)
        thread = started(lambda: other.send("c", {}), errors)
        is_open.wait()
        if where == "in the registry":
            # Its opening is being made, with the lock of the registry held.
            SyncIPCChannelLayer(fresh(), engine="memory").close()
        one.send("c", {})
        thread.join()
        assert not errors
        one.close()
        other.close()

    guarded(meet)


@pytest.mark.parametrize("end", ["close", "destroy"])
def test_an_engine_that_cannot_be_closed_in_the_middle_of_a_call_is_closed_after_it(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    layer = SyncIPCChannelLayer(fresh(), engine="memory")
    used = demux_of(layer).engine
    really, calls = getattr(MemoryEngine, end), []

    def ends(engine: MemoryEngine) -> None:
        calls.append(engine)
        if len(calls) == 1:
            raise Reentered
        really(engine)

    monkeypatch.setattr(MemoryEngine, end, ends)
    getattr(layer, end)()
    assert calls == [used, used]
    with pytest.raises(StoreUnavailable):
        used.push([])


def test_it_works_in_a_child_forked_while_others_hold_every_lock() -> None:
    layer = SyncIPCChannelLayer(fresh(), engine="memory")
    layer.receive(["c"], block=True, timeout=0.01)
    demux = demux_of(layer)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with demux.lock, leases._lock:
            held.set()
            done.wait(2 * PATIENCE)

    holder = in_thread(hold)
    assert held.wait(PATIENCE)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(int(PATIENCE))
                threading.Timer(0.05, layer.send, ("c", {"n": 1})).start()
                assert layer.receive(["c", "x!"], block=True) == ("c", {"n": 1})
                layer.close()
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        done.set()
        holder.join(PATIENCE)
    layer.close()
