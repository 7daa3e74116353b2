"""What the asynchronous layer guarantees beyond Channels' specification: O1 to O4, A5."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import asgi_ipc

from .case import in_loop
from .receiving import all_of, within
from .tools import ENOUGH, CheckedThread, patient

if TYPE_CHECKING:
    from .case import Case


@pytest.mark.clause("O1")
@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"a": [0, 1, object()]}, r"message\[.a.\]\[2\]"),
        ({"a": {"b": {1, 2}}}, r"message\[.a.\]\[.b.\]"),
        ({"n": 2**63}, r"message\[.n.\]"),
        ({"a": [{5: "key"}]}, r"message\[.a.\]\[0\]"),
        ("no dict", "dict"),
        (None, "dict"),
        ([], "dict"),
    ],
)
@in_loop
async def test_what_cannot_be_carried_is_refused_at_send(
    case: Case, message: Any, path: str
) -> None:
    layer = case.layer()
    await layer.group_add("g", "c")
    for send in (layer.send("c", message), layer.group_send("g", message)):
        with pytest.raises((TypeError, ValueError), match=path):
            await send
    assert await within(0.03, layer, "c") is None


@pytest.mark.clause("A5")
@pytest.mark.clause("O3")
@in_loop
async def test_statistics_count_messages_and_refusals(case: Case) -> None:
    layer = case.layer(capacity=2)
    await layer.send("c", {})
    await layer.send("c", {})
    for _ in range(3):
        with pytest.raises(layer.ChannelFull):
            await layer.send("c", {})
    await asyncio.sleep(0.04)
    of_channel = await layer.channel_statistics("c")
    assert of_channel["messages_count"] == 2
    assert of_channel["messages_pending"] == 2
    assert of_channel["channel_full_count"] == 3
    assert of_channel["messages_max_age"] >= 0.03
    of_all = await layer.global_statistics()
    assert of_all["messages_count"] == 2
    assert of_all["channel_full_count"] == 3


@pytest.mark.clause("O4")
def test_event_loops_in_several_threads_share_one_layer(case: Case) -> None:
    """As with `async_to_sync`: one layer outlives each of its event loops."""
    layer = case.sync_layer()  # Keeps the store open from loop to loop.
    both = case.layer()

    async def talk(name: str) -> None:
        channel = await both.new_channel()
        await both.group_add("g", channel)
        for number in range(10):
            await both.send(channel, {"to": name, "n": number})
            message = await asyncio.wait_for(both.receive(channel), patient(ENOUGH))
            assert message == {"to": name, "n": number}
        await both.group_discard("g", channel)

    def run(name: str) -> None:
        for _ in range(3):
            asyncio.run(talk(name))

    threads = [CheckedThread(run, f"thread {n}") for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(layer.group_channels("g")) == []
    asyncio.run(case.close_layers())


@pytest.mark.clause("O4")
def test_a_loop_that_is_closed_in_mid_receive_loses_no_message(case: Case) -> None:
    layer = case.layer()

    async def give_up(channel: str) -> None:
        await within(0.01, layer, channel)
        left = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0.01)
        assert not left.done()  # And asyncio.run cancels it.

    async def scenario() -> list[Any]:
        await layer.send("c", {"n": 1})
        await layer.send(specific, {"n": 2})
        try:
            return [await all_of(layer, "c"), await all_of(layer, specific)]
        finally:
            await case.close_layers()

    specific = asyncio.run(layer.new_channel())
    for _ in range(3):
        asyncio.run(give_up("c"))
        asyncio.run(give_up(specific))
    assert asyncio.run(scenario()) == [[{"n": 1}], [{"n": 2}]]


@pytest.mark.clause("O4")
@in_loop
async def test_the_synchronous_view_is_of_the_same_layer(case: Case) -> None:
    layer = case.layer()
    layer.sync.send("c", {"n": 1})
    assert await layer.receive("c") == {"n": 1}
    await layer.send("c", {"n": 2})
    assert layer.sync.receive(["c"]) == ("c", {"n": 2})
    channel = await layer.new_channel()
    waiting = asyncio.ensure_future(layer.receive(channel))
    await asyncio.sleep(0.01)
    layer.sync.send(channel, {"n": 3})
    assert await asyncio.wait_for(waiting, patient(ENOUGH)) == {"n": 3}


@pytest.mark.clause("O2")
@pytest.mark.needs("crosses_processes")
@in_loop
async def test_a_killed_receiver_keeps_no_message_from_the_next(case: Case) -> None:
    layer, victim = case.layer(), case.process()
    victim.start("async_layer", "receive", "c")
    await asyncio.sleep(0.3)
    waiting = asyncio.ensure_future(layer.receive("c"))
    await asyncio.sleep(0.02)
    victim.kill()
    await layer.send("c", {"x": 1})
    assert await asyncio.wait_for(waiting, patient(ENOUGH)) == {"x": 1}


@pytest.mark.clause("O2")
@pytest.mark.clause("E17")
@pytest.mark.needs("owners")
@in_loop
async def test_a_killed_process_leaves_its_groups(case: Case) -> None:
    layer, victim = case.layer(), case.process()
    theirs = victim.call("async_layer", "new_channel")
    ours = await layer.new_channel()
    for channel in (theirs, ours):
        await layer.group_add("g", channel)
    victim.kill()
    for _ in range(2000):
        if list(await layer.group_channels("g")) == [ours]:
            break
        await asyncio.sleep(0.03)
    assert list(await layer.group_channels("g")) == [ours]


@pytest.mark.clause("E21")
@in_loop
async def test_a_closed_layer_ends_its_receivers_and_opens_again_when_used(case: Case) -> None:
    layer, other = case.layer(), case.sync_layer()
    waiting = asyncio.ensure_future(layer.receive("c"))
    await asyncio.sleep(0.01)
    other.close()
    await layer.close()
    await layer.close()
    with pytest.raises(asgi_ipc.StoreUnavailable):
        await asyncio.wait_for(waiting, patient(ENOUGH))
    await layer.send("c", {"x": 1})
    assert await layer.receive("c") == {"x": 1}


@pytest.mark.clause("E22")
@in_loop
async def test_destroying_a_layers_store_leaves_it_empty(case: Case) -> None:
    layer = case.layer()
    await layer.send("c", {})
    await layer.group_add("g", "c")
    await layer.destroy()
    layer = case.layer()
    assert await within(0.03, layer, "c") is None
    assert list(await layer.group_channels("g")) == []
