"""Members whose consumer has died, on both layers (O6)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from .case import in_loop
from .tools import ENOUGH, patient

if TYPE_CHECKING:
    from asgi_ipc import IPCChannelLayer

    from .case import Case

#: Short, as a test takes five times as long.
_EXPIRY = 0.2


@pytest.mark.clause("O6")
@in_loop
async def test_a_channel_that_nobody_receives_on_leaves_its_groups_until_the_next_receive(
    case: Case,
) -> None:
    layer = case.layer(expiry=_EXPIRY)
    dead, waits = await layer.new_channel(), await layer.new_channel()
    receiver = asyncio.ensure_future(_receive(layer, waits))
    for channel in (dead, waits):
        await layer.group_add("g", channel)
    for group in ("h", "left"):
        await layer.group_add(group, dead)
    await _receive_one(layer, dead)

    async def until_members_are(group: str, expected: set[str]) -> None:
        end = time.monotonic() + patient(10 * ENOUGH)
        while set(members := await layer.group_channels(group)) != expected:
            assert time.monotonic() < end, members
            await layer.group_send("g", {})
            await asyncio.sleep(_EXPIRY / 4)

    await until_members_are("g", {waits})
    await until_members_are("h", set())
    # What another process discards meanwhile does not come back.
    other = type(layer)(engine=case.open())
    await other.group_discard("left", dead)
    back = asyncio.ensure_future(_receive(layer, dead))
    await until_members_are("g", {dead, waits})
    await until_members_are("h", {dead})
    await until_members_are("left", set())
    await other.close()
    for task in (receiver, back):
        task.cancel()
    await asyncio.gather(receiver, back, return_exceptions=True)


@pytest.mark.clause("O6")
@in_loop
async def test_silent_channels_stay_in_their_groups_if_that_is_switched_off(case: Case) -> None:
    layer = case.layer(expiry=0.02, suspend_silent_channels=False)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await _receive_one(layer, channel)
    for _ in range(10):
        await layer.group_send("g", {})
        await asyncio.sleep(0.02)
    assert list(await layer.group_channels("g")) == [channel]


async def _receive_one(layer: IPCChannelLayer, channel: str) -> None:
    """Receive a message; on a busy machine some expire before."""
    receiving = asyncio.ensure_future(layer.receive(channel))
    while not receiving.done():
        await layer.send(channel, {})
        await asyncio.wait([receiving], timeout=0.05)
    await receiving


async def _receive(layer: IPCChannelLayer, channel: str) -> None:
    while True:
        await layer.receive(channel)


@pytest.mark.clause("O6")
def test_a_process_without_an_event_loop_suspends_channels_too(case: Case) -> None:
    layer = case.sync_layer(expiry=_EXPIRY)
    queue = f"own.{layer.client_prefix}!"
    layer.group_add("g", f"{queue}dead")
    end = time.monotonic() + patient(10 * ENOUGH)
    while layer.group_channels("g"):
        assert time.monotonic() < end
        layer.group_send("g", {})
        time.sleep(_EXPIRY / 4)
    layer.receive([queue])
    assert layer.group_channels("g") == [f"{queue}dead"]
    layer.group_discard("g", f"{queue}dead")
