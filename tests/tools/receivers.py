"""What the tests of receiving inside one process have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from asgi_ipc import IPCChannelLayer
from tests.tools.doubles import (
    CountingEngine,
    fresh,
    patient,
)


async def soon(*awaitables: Any) -> list[asyncio.Task[Any]]:
    """Start them, and let them get as far as they can."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    await asyncio.sleep(0.02)
    return tasks


async def nothing(layer: IPCChannelLayer, channel: str) -> bool:
    """Whether there is no message."""
    try:
        await asyncio.wait_for(layer.receive(channel), 0.1)
    except asyncio.TimeoutError:
        return True
    return False


async def rest(layer: IPCChannelLayer, channel: str) -> list[int]:
    """What is on a channel."""
    found = []
    while True:
        try:
            found.append((await asyncio.wait_for(layer.receive(channel), 0.05))["n"])
        except asyncio.TimeoutError:
            return found


class Pair:
    """A layer, and one on the same store as another process would have it.

    ``pushed`` are the records that the first has put on the store.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns, **options: Any) -> None:
        prefix, memory = fresh(), {"channel_memory": 10_000_000, "group_memory": 1_000_000}
        self._engine, other = (CountingEngine(prefix, clock=clock, **memory) for _ in range(2))
        self.layer = patient(IPCChannelLayer(engine=self._engine, **options))
        self.other = IPCChannelLayer(engine=other, **options)

    @property
    def pushed(self) -> int:
        return self._engine.calls["records"]

    @property
    def demux(self) -> Any:
        return self.layer._core.demux

    async def channel(self) -> str:
        """A channel of the first, read before, as one is that is in use."""
        name: str = await self.layer.new_channel()
        await self.other.send(name, {})
        await self.layer.receive(name)
        return name

    async def readers(self, count: int) -> tuple[list[str], list[asyncio.Task[dict[str, Any]]]]:
        """Channels of the first, and who waits for a message on each."""
        names = [await self.channel() for _ in range(count)]
        tasks = [asyncio.ensure_future(self.layer.receive(name)) for name in names]
        await asyncio.sleep(0)
        return names, tasks
