"""A process that counted as dead although it lived puts its memberships again (E34)."""

from __future__ import annotations

import itertools

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.delivery.suspension import MOVES
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.doubles import fresh

SECOND = 1_000_000_000


class Leased(MemoryEngine):
    """Its server may take this process for dead."""

    capabilities = MemoryEngine.capabilities._replace(lease=1.0)
    lapses = 0

    def lapse(self) -> None:
        """Take it for dead: remove its memberships."""
        self._store.tables.clear()
        self.lapses += 1


@pytest.mark.parametrize("count", [1, 5 * MOVES])
def test_memberships_are_put_again_after_a_lapse(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    now = itertools.count(SECOND, 2 * SECOND // 1000)
    engine = Leased(fresh(), channel_memory=1 << 20, group_memory=1 << 20, clock=lambda: next(now))
    layer = SyncIPCChannelLayer(engine=engine, capacity=10_000)
    made = [f"specific.{layer.client_prefix}!{number}" for number in range(count)]
    for channel in made:
        layer.group_add("g", channel)
        layer.group_add("left", channel)
        layer.group_discard("left", channel)
    engine.lapse()
    assert layer.group_channels("g") == []
    for _ in range(3000):  # Each call takes time on that clock, and looks once a second.
        layer.group_send("other", {"n": 0})
    assert sorted(layer.group_channels("g")) == sorted(made)
    assert layer.group_channels("left") == []
    assert f"counted as dead; its {count} channels join their groups again" in caplog.text
    assert caplog.text.count("counted as dead") == 1
    layer.close()
    engine.close()
