"""What both layers offer beyond Channels' specification: O10 to O13."""

from __future__ import annotations

import asyncio
import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from .case import in_loop
from .tools import ENOUGH, patient

if TYPE_CHECKING:
    from .case import Case

_ZONE = datetime.timezone(datetime.timedelta(hours=-5, minutes=-30))
RICH: dict[str, Any] = {
    "numbers": [Decimal("1.10"), Decimal("-0E-7"), 1, 1.0],
    "at": datetime.datetime(2024, 2, 29, 23, 59, 59, 999999, _ZONE, fold=1),
    "day": datetime.date(1, 1, 1),
    "time": datetime.time(0, 0, 0, 1),
    "takes": datetime.timedelta(-1, 1, 1),
    "id": UUID(int=1 << 127),
    "tags": {"a", b"a", 1, None, ("t", frozenset([Decimal(2)]))},
    "none": frozenset(),
}


@pytest.mark.clause("O10")
@in_loop
async def test_more_types_arrive_unchanged(case: Case) -> None:
    layer, other = case.layer(serializer="extended"), case.layer(serializer="extended")
    mine, twin = await layer.new_channel(), await layer.new_channel()
    for channel in (mine, twin, "c"):
        await other.send(channel, RICH)
        message = await asyncio.wait_for(layer.receive(channel), patient(ENOUGH))
        assert message == RICH
        assert repr(message["at"]) == repr(RICH["at"])
        assert [str(each) for each in message["numbers"]] == ["1.10", "-0E-7", "1", "1.0"]
        assert {type(each) for each in message["tags"]} == {type(each) for each in RICH["tags"]}
        await layer.group_add("g", channel)
    await other.group_send("g", RICH)
    for channel in (mine, twin, "c"):
        assert await asyncio.wait_for(layer.receive(channel), patient(ENOUGH)) == RICH


@pytest.mark.clause("O11")
@in_loop
async def test_a_message_of_another_serializer_is_passed_over(case: Case) -> None:
    layer, other = case.layer(), case.layer(serializer="extended")
    for channel in (await layer.new_channel(), "c"):
        await other.send(channel, {"n": Decimal(1)})
        await other.send(channel, {"n": 2})
        assert await asyncio.wait_for(layer.receive(channel), patient(ENOUGH)) == {"n": 2}
    assert (await layer.global_statistics())["unreadable_count"] == 2


@pytest.mark.clause("O12")
@in_loop
async def test_a_broadcast_excludes_and_tells_what_it_dropped(case: Case) -> None:
    layer = case.layer(capacity=2)
    mine = [await layer.new_channel() for _ in range(3)]
    for channel in (*mine, "c", "full"):
        await layer.group_add("g", channel)
    assert await layer.group_count("g") == 5
    await layer.send("full", {})
    await layer.send("full", {})
    assert list(await layer.group_send("g", {"n": 1}, exclude=mine[0])) == ["full"]
    assert list(await layer.group_send("g", {"n": 2}, exclude=[*mine[1:], "c", "full"])) == []
    for channel, number in ((mine[0], 2), (mine[1], 1), (mine[2], 1), ("c", 1)):
        message = await asyncio.wait_for(layer.receive(channel), patient(ENOUGH))
        assert message == {"n": number}
    await layer.group_discard("g", mine[0])
    assert await layer.group_count("g") == 4


@pytest.mark.clause("O13")
@in_loop
async def test_a_sender_waits_for_room(case: Case) -> None:
    layer = case.layer(capacity=1)
    await layer.send("c", {"n": 1})
    with pytest.raises(layer.ChannelFull):
        await layer.send("c", {"n": 0}, wait=0.01)
    waiting = asyncio.ensure_future(layer.send("c", {"n": 2}, wait=patient(ENOUGH)))
    await asyncio.sleep(0.01)
    for number in (1, 2):
        message = await asyncio.wait_for(layer.receive("c"), patient(ENOUGH))
        assert message == {"n": number}
    await waiting


@pytest.mark.clause("A2")
@pytest.mark.clause("A3")
def test_the_synchronous_side_makes_and_receives_on_a_channel_of_its_process(case: Case) -> None:
    layer, other = case.sync_layer(), case.sync_layer()
    mine, twin = layer.new_channel(), layer.new_channel(prefix="specific")
    assert mine != twin
    other.send(twin, {"n": 1})
    other.send(mine, {"n": 2})
    assert layer.receive([mine]) == (mine, {"n": 2})
    assert layer.receive([mine]) == (None, None)
    assert layer.receive([mine, twin], block=True) == (twin, {"n": 1})
