"""Channel layers that lose or double messages on purpose, to see that a benchmark notices."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.layers import InMemoryChannelLayer


class LossyLayer(InMemoryChannelLayer):  # type: ignore[misc]
    """Loses every tenth message that is to be queued."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._sent = 0

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        self._sent += 1
        if self._sent % 10:
            await super().send(channel, message)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        for channel in list(self.groups.get(group, ())):
            await self.send(channel, message)


class DoublingLayer(LossyLayer):
    """Queues every tenth message twice."""

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        self._sent += 1
        for _ in range(1 if self._sent % 10 else 2):
            await InMemoryChannelLayer.send(self, channel, message)


class SlowLayer(LossyLayer):
    """Delivers all, a tenth of a second late."""

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        await InMemoryChannelLayer.send(self, channel, message)

    async def receive(self, channel: str) -> dict[str, Any]:

        message: dict[str, Any] = await super().receive(channel)
        await asyncio.sleep(0.1)
        return message
