"""The layer that comes with Channels: a dictionary of one process."""

from __future__ import annotations

from typing import Any

from ..place import Place
from .base import CAPACITY, Layer, Peer, Resources


def _open(place: Place, **options: Any) -> Layer:
    from channels.layers import InMemoryChannelLayer

    layer: Layer = InMemoryChannelLayer(**{"capacity": CAPACITY, **options})
    return layer


async def _close(layer: Any) -> None:
    await layer.close()


def _unavailable(resources: Resources) -> str | None:
    return None


def peer() -> Peer:
    """Channels' InMemoryChannelLayer."""
    return Peer(
        name="InMemoryChannelLayer",
        open=_open,
        close=_close,
        unavailable=_unavailable,
        imports="from channels.layers import InMemoryChannelLayer",
        crosses_processes=False,
        # It looks at every channel in each receive.
        most_prefilled=10_000,
    )
