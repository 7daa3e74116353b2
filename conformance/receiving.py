"""Receive with a time limit, for tests of the asynchronous layer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .tools import ENOUGH, patient

if TYPE_CHECKING:
    from asgi_ipc import IPCChannelLayer

_END = {"type": "the end of what `all_of` receives"}


async def within(seconds: float, layer: IPCChannelLayer, channel: str) -> Any:
    """Return the message received within that many seconds, or None."""
    try:
        return await asyncio.wait_for(layer.receive(channel), seconds)
    except asyncio.TimeoutError:
        return None


async def all_of(layer: IPCChannelLayer, channel: str) -> list[Any]:
    """Return all messages of a channel, in order.

    Sends a last message to know the end, since on a busy machine no pause is long enough.
    """
    found = []
    while True:
        try:
            await layer.send(channel, _END)
            break
        except layer.ChannelFull:
            found.append(await within(patient(ENOUGH), layer, channel))
    while (message := await within(patient(ENOUGH), layer, channel)) not in (None, _END):
        found.append(message)
    return found


async def at_some_pace(scenario: Callable[[float], Awaitable[bool]]) -> None:
    """Run a scenario with short times that must not be exceeded.

    The scenario gets a factor for its times. If it reports that the machine was too slow, it has
    proven nothing, and is run again with longer times.
    """
    for pace in (1.0, 5.0, 25.0, 100.0):
        if await scenario(pace):
            return
    raise AssertionError("the machine is too slow for times of minutes")
