"""Receiving with an end to it, for tests of the asynchronous layer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asgi_ipc import IPCChannelLayer


async def within(seconds: float, layer: IPCChannelLayer, channel: str) -> Any:
    """What is received in so many seconds, or None."""
    try:
        return await asyncio.wait_for(layer.receive(channel), seconds)
    except asyncio.TimeoutError:
        return None


async def all_of(layer: IPCChannelLayer, channel: str) -> list[Any]:
    """Every message there is, in order; ends with the first short silence."""
    found = []
    while (message := await within(0.08, layer, channel)) is not None:
        found.append(message)
    return found
