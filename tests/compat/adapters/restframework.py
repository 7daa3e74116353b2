"""djangochannelsrestframework: its archive has tests, but not the modules that they share."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

from channels.testing import WebsocketCommunicator

from .consumers import stores_of_its_own  # Sets Django up.

from .app import models  # isort: skip


class Communicator(WebsocketCommunicator):
    """Can also receive all that has come."""

    async def receive_many_json_from(self) -> list[Any]:
        """Receive until nothing comes any more."""
        found = []
        while not await self.receive_nothing(timeout=0.5):
            found.append(await self.receive_json_from())
        return found


@asynccontextmanager
async def connected_communicator(
    consumer: Any, path: str = "/testws/"
) -> AsyncIterator[Communicator]:
    """Connect to a consumer, and disconnect from it."""
    communicator = Communicator(consumer, path)
    connected, _ = await asyncio.wait_for(communicator.connect(timeout=10), 20)
    assert connected
    try:
        yield communicator
    finally:
        await communicator.disconnect()


def _module(name: str, **contents: Any) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module


_module("tests.communicator", connected_communicator=connected_communicator)
_module(
    "tests.models",
    TestModel=models.TestModel,
    TestModelWithCustomPK=models.TestModelWithCustomPK,
)

__all__ = ["stores_of_its_own"]
