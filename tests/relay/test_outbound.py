"""What a relay has to say of what it published: R5."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.relay.counts import Counts
from asgi_ipc.relay.frames import Kind, unpack, unpack_beat
from asgi_ipc.relay.options import checked
from asgi_ipc.relay.outbound import Outbound
from asgi_ipc.relay.peers import Peers
from asgi_ipc.relay.wire import Frame


class _Machine:
    def __init__(self, engine: MemoryEngine) -> None:
        self.engine = engine


class _Wire:
    frame_limit = 1 << 20

    def __init__(self) -> None:
        self.published: list[Frame] = []

    async def publish(self, frames: Sequence[Frame]) -> None:
        self.published += frames


def test_machines_that_ask_at_once_are_told_all_together() -> None:
    """R5: a beat that tells all is long, and all machines hear it."""
    now = [1]
    engine = MemoryEngine(
        "outbound", channel_memory=1 << 20, group_memory=1 << 20, clock=lambda: now[0]
    )
    options = checked("memory://outbound", "site", None, 1 << 20)

    async def main() -> list[bool]:
        machine: Any = _Machine(engine)
        wire: Any = _Wire()
        outbound = Outbound(
            machine, options, 1, b"host", Peers(), Counts("relay"), lambda: True, _no_work, _nothing
        )
        outbound.begin()
        for later in (0, 1, 1, 1_000_000_000, 1_000_000_000):
            now[0] += later
            await outbound.say(wire, Kind.BEAT)
            if later <= 1:
                outbound.tell_all()
        outbound.close()
        return [unpack_beat(unpack(each.payload).payload).is_all for each in wire.published]

    assert asyncio.run(main()) == [True, False, False, True, False]
    engine.close()


async def _no_work(wire: object, records: object) -> None:
    """Do nothing, as no work is pushed here."""


def _nothing() -> None:
    """Do nothing."""
