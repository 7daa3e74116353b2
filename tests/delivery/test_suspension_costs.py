"""What suspending channels costs, and what it saves (O6)."""

from __future__ import annotations

import asyncio

import pytest

from asgi_ipc.delivery import suspension
from tests.tools.costs import (
    at_leisure,
    countable,
    opcodes,
    settle,
)
from tests.tools.doubles import (
    run,
    watchdog,
)
from tests.tools.suspension import EXPIRY, SECOND, Site, begin_receiving, end

__all__ = ["at_leisure", "watchdog"]


@countable
@pytest.mark.usefixtures("at_leisure")
def test_broadcasts_cost_after_the_suspension_what_they_cost_without_the_dead() -> None:
    async def main() -> None:
        site = Site(capacity=10)
        living = await site.layer.new_channel()
        await site.layer.group_add("room", living)

        async def broadcast() -> None:
            waiting = await begin_receiving(site.layer, living)
            await site.other.group_send("room", {"type": "news"})
            while not waiting.done():
                await settle()

        async def cost() -> int:
            return min([await opcodes(broadcast) for _ in range(5)])

        await broadcast()
        alone = await cost()
        for _ in range(1000):
            await site.dead("room")
        with_dead = await cost()

        async def each() -> None:
            if site.now // SECOND % 5 == 0:
                await broadcast()

        await site.pass_time(7 * EXPIRY, each)
        assert await site.members("room") == [living]
        assert with_dead > 10 * alone
        assert await cost() <= 1.05 * alone

    run(main())


@countable
def test_a_look_at_many_living_channels_is_short() -> None:
    async def main() -> None:
        site = Site()
        channels = [await site.layer.new_channel() for _ in range(1000)]
        for channel in channels:
            await site.layer.group_add("room", channel)
        waiting = [await begin_receiving(site.layer, channel) for channel in channels]

        async def look() -> None:
            site.now += SECOND
            assert not site.memberships.sweep()

        assert await opcodes(look) < 120 * suspension.VISITS
        await asyncio.gather(*(end(each) for each in waiting))

    run(main())


def test_what_is_remembered_of_a_membership_is_small() -> None:
    import tracemalloc

    site = Site(group_memory=10_000_000)
    layer = site.layer.sync
    channels = [f"own.{layer.client_prefix}!{number:032x}" for number in range(2000)]
    here = [tracemalloc.Filter(True, suspension.__file__)]

    def traced() -> int:
        found = tracemalloc.take_snapshot().filter_traces(here).statistics("filename")
        return sum(each.size for each in found)

    tracemalloc.start()
    try:
        before = traced()  # Another test may have begun to trace.
        for channel in channels:
            layer.group_add("room", channel)
        each = (traced() - before) / len(channels)
    finally:
        tracemalloc.stop()
    assert suspension.MOST * each < 30e6, each
