"""channels_nats: its layer is ours; these are the fixtures of its tests, without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import channels_nats
import pytest

from .layer import AnyLayer, stores_of_its_own

channels_nats.NatsChannelLayer = AnyLayer


@pytest.fixture
def nats_url() -> str:
    """Return an address that nobody connects to."""
    return "nats://127.0.0.1:4222"


@pytest.fixture
async def layer() -> AsyncIterator[AnyLayer]:
    """A layer."""
    layer = AnyLayer()
    yield layer
    await layer.close()


@pytest.fixture
async def make_layer() -> AsyncIterator[Callable[..., AnyLayer]]:
    """Make more of them."""
    made: list[AnyLayer] = []

    def make(**options: Any) -> AnyLayer:
        made.append(AnyLayer(**options))
        return made[-1]

    yield make
    for layer in made:
        await layer.close()


__all__ = ["layer", "make_layer", "nats_url", "stores_of_its_own"]
