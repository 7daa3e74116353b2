"""Receivers wait for an engine's server that is away, for as long as the engine says (E33)."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.delivery import outages
from asgi_ipc.engines.base import Bell, Popped
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.doubles import BlockingEngine, engine, eventually, run


class Distant(BlockingEngine):
    """Its server may be away for a while."""

    capabilities = BlockingEngine.capabilities._replace(outage=30.0, wakes=False)
    delay = 0.0
    away = False
    #: Calls that have found it away.
    failed = 0

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        self._check()
        return super().pop(queue, limit, bell)

    def bell(self) -> Bell:
        self._check()
        return super().bell()

    def _check(self) -> None:
        if self.away:
            self.failed += 1
            raise StoreUnavailable("the server is away")


class SoonGivenUp(Distant):
    """It says that it is away for a moment at most."""

    capabilities = Distant.capabilities._replace(outage=0.2)


class NeverAway(Distant):
    """It says nothing of outages."""

    capabilities = Distant.capabilities._replace(outage=0.0)


@pytest.mark.parametrize("own", [True, False], ids=["own", "ordinary"])
@pytest.mark.parametrize("first", [True, False], ids=["from the start", "while waiting"])
def test_a_receive_rides_out_an_outage(own: bool, first: bool) -> None:
    async def main() -> None:
        distant = engine(Distant)
        layer = IPCChannelLayer(engine=distant)
        channel = await layer.new_channel() if own else "c"
        distant.away = first
        receiving = asyncio.ensure_future(layer.receive(channel))
        if not first:
            await eventually(lambda: distant.calls["pop"])
            distant.away = True
        await eventually(lambda: distant.failed >= 3)
        assert not receiving.done()
        distant.away = False
        await layer.send(channel, {"n": 1})
        assert await receiving == {"n": 1}
        await layer.close()

    run(main())


def test_an_outage_that_lasts_too_long_is_told() -> None:
    async def main() -> None:
        distant = engine(SoonGivenUp)
        layer = IPCChannelLayer(engine=distant)
        distant.away = True
        with pytest.raises(StoreUnavailable, match="the server is away"):
            await layer.receive("c")
        assert distant.failed > 1
        distant.away = False
        await layer.close()

    run(main())


def test_each_outage_has_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One receive that meets many, and looks with success in between."""
    monkeypatch.setattr(outages, "_LONGEST", 0.05)

    async def main() -> None:
        distant = engine(SoonGivenUp)
        layer = IPCChannelLayer(engine=distant)
        receiving = asyncio.ensure_future(layer.receive("c"))
        began = time.monotonic()
        while time.monotonic() < began + 1.0:  # Five times what it says.
            distant.away, failed = True, distant.failed
            await eventually(lambda failed=failed: distant.failed > failed or receiving.done())  # type: ignore[misc]
            distant.away, calls = False, distant.calls["pop"]
            await eventually(lambda calls=calls: distant.calls["pop"] > calls or receiving.done())  # type: ignore[misc]
        assert not receiving.done()
        await layer.send("c", {"n": 1})
        assert await receiving == {"n": 1}
        await layer.close()

    run(main())


def test_an_engine_that_states_no_outage_has_its_error_raised_at_once() -> None:
    async def main() -> None:
        distant = engine(NeverAway)
        layer = IPCChannelLayer(engine=distant)
        distant.away = True
        with pytest.raises(StoreUnavailable):
            await layer.receive("c")
        assert distant.failed == 1
        await layer.close()

    run(main())


def test_a_layer_that_is_closed_ends_the_wait() -> None:
    async def main() -> None:
        distant = engine(Distant)
        layer = IPCChannelLayer(engine=distant)
        distant.away = True
        receiving = asyncio.ensure_future(layer.receive("c"))
        await eventually(lambda: distant.failed)
        await layer.close()
        with pytest.raises(StoreUnavailable):
            await receiving

    run(main())


def test_the_synchronous_layer_rides_it_out_within_its_timeout() -> None:
    distant = engine(Distant)
    layer = SyncIPCChannelLayer(engine=distant)
    distant.away = True
    with pytest.raises(StoreUnavailable):
        layer.receive(["c"], block=True, timeout=0.1)

    def come_back() -> None:
        while distant.failed < 5:
            time.sleep(0.01)
        distant.away = False
        layer.send("c", {"n": 1})

    thread = threading.Thread(target=come_back)
    thread.start()
    assert layer.receive(["c"], block=True) == ("c", {"n": 1})
    thread.join()
    layer.close()


def test_it_is_logged_once_for_all_receivers(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        distant = engine(Distant)
        layer = IPCChannelLayer(engine=distant, prefix="site")
        distant.away = True
        receiving = [asyncio.ensure_future(layer.receive(f"c{n}")) for n in range(5)]
        await eventually(lambda: distant.failed >= 10)
        distant.away = False
        for n in range(5):
            await layer.send(f"c{n}", {"n": n})
        await asyncio.gather(*receiving)
        await layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
    (line,) = [record.getMessage() for record in caplog.records if "server" in record.getMessage()]
    assert "receivers wait up to 30 seconds for its server: the server is away" in line
