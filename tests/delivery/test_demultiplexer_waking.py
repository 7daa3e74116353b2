"""Inside one process: who waits is woken, and a wake-up that nobody took goes to the next."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery.loop_listener import LoopListener
from tests.tools.doubles import (
    KINDS,
    CountingEngine,
    engine,
    fresh,
    patient,
    run,
    watchdog,
    way,
    without_loopback,
)
from tests.tools.receivers import (
    nothing,
    soon,
)

__all__ = ["watchdog", "way", "without_loopback"]

pytestmark = pytest.mark.usefixtures("way")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("specific", [True, False])
def test_who_waits_is_woken(kind: Any, specific: bool) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind))
        channel = await layer.new_channel() if specific else "c"
        for number in range(3):
            (task,) = await soon(layer.receive(channel))
            await layer.send(channel, {"n": number})
            assert await task == {"n": number}
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("specific", [True, False])
def test_many_receivers_and_cancellations_lose_and_double_nothing(
    kind: Any, specific: bool
) -> None:
    """Receivers are cancelled at every possible moment; order is kept, none is missing (S10)."""

    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind), capacity=1000)
        channel = await layer.new_channel() if specific else "c"
        got: list[int] = []
        total = 60
        rng = random.Random(1)

        async def send() -> None:
            for number in range(total):
                await layer.send(channel, {"n": number})
                await asyncio.sleep(rng.choice([0, 0, 0.001, 0.004]))

        sender = asyncio.ensure_future(send())
        while len(got) < total:
            tasks = [asyncio.ensure_future(layer.receive(channel)) for _ in range(3)]
            await asyncio.sleep(rng.choice([0, 0, 0.001, 0.003]))
            for task in tasks:
                if rng.random() < 0.7:
                    task.cancel()
            done = [task for task in tasks if not task.cancelled()]
            for task in done:
                # Not wait_for, which from 3.12 on may time out on a task that has just got its
                # message.
                await asyncio.wait([task], timeout=0.05)
                task.cancel()
                try:
                    got.append((await task)["n"])
                except asyncio.CancelledError:
                    pass
        await sender
        assert sorted(got) == list(range(total))
        assert await nothing(layer, channel)
        await layer.close()

    run(main())


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_receive_cancelled_after_it_was_woken_passes_the_message_on(kind: Any) -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine(kind)))
        for channel in (await layer.new_channel(), "c"):
            first, second = await soon(layer.receive(channel), layer.receive(channel))
            listener = layer._core.demux.loops[id(asyncio.get_running_loop())]
            assert isinstance(listener, LoopListener)
            await layer.send(channel, {"n": 1})
            listener._signalled()
            first.cancel()  # Woken, or about to be; in any case not resumed yet.
            assert await second == {"n": 1}
            assert first.cancelled()
        await layer.close()

    run(main())


def test_a_receiver_that_leaves_lets_the_signal_go_to_another_process() -> None:
    """Two demultiplexers on one store stand for two processes (E14)."""

    async def main() -> None:
        prefix = fresh()
        sizes = {"channel_memory": 10**6, "group_memory": 10**6}
        one = patient(IPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
        two = patient(IPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
        assert one._core.demux is not two._core.demux
        for how in ("cancelled while it waits", "cancelled when woken", "got a message"):
            (first,) = await soon(one.receive("c"))
            (second,) = await soon(two.receive("c"))
            if how == "got a message":
                await one.send("c", {"n": 0})
                assert await first == {"n": 0}
                await asyncio.sleep(0.2)
            elif how == "cancelled when woken":
                await two.send("c", {"n": 1})
                listener = one._core.demux.loops[id(asyncio.get_running_loop())]
                listener._signalled()
                first.cancel()
            else:
                first.cancel()
                await asyncio.sleep(0)
            if how != "cancelled when woken":
                await two.send("c", {"n": 1})
            await asyncio.sleep(0)
            assert await second == {"n": 1}
        await one.close()
        await two.close()

    run(main())


@pytest.mark.parametrize("linger", [0.01, 1000.0])
def test_a_signal_that_nobody_here_wants_any_more_goes_to_another_process(
    linger: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines on one store stand for two processes.

    The first takes a message that rang the second, so that its own bell is still armed,
    and then turns away. It disarms the bell a little later, or when it signals.
    """
    monkeypatch.setattr("asgi_ipc.delivery.loop_listener.LINGER", linger)

    async def main() -> None:
        prefix = fresh()
        sizes = {"channel_memory": 10**6, "group_memory": 10**6}
        one = patient(IPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
        two = patient(IPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
        (second,) = await soon(two.receive("c"))
        (first,) = await soon(one.receive("c"))
        listener = one._core.demux.loops[id(asyncio.get_running_loop())]
        await two.send("c", {"n": 1})
        assert listener.bell is not None
        listener.bell.signal()  # For any queue.
        listener._signalled()
        assert await first == {"n": 1}
        await asyncio.sleep(0.1)
        assert (b"c" in listener.watches) == (linger == 1000)
        assert not second.done()
        await one.send("c", {"n": 2})
        assert await second == {"n": 2}
        assert not listener.watches
        await one.close()
        await two.close()

    run(main())


def test_who_waits_with_others_is_served_and_cancelled_as_who_waits_alone() -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine()))
        other, channel = await layer.new_channel(), await layer.new_channel()
        first, zero, *rest = await soon(
            layer.receive(other), *(layer.receive(channel) for _ in range(6))
        )
        one, two, three, four, five = rest
        # Who came first did not find others, and would see to those who come now.
        await layer.send(channel, {"n": 0})
        assert await zero == {"n": 0}
        # Not woken, and just woken.
        one.cancel()
        await layer.send(channel, {"n": 1})
        two.cancel()
        assert await three == {"n": 1}
        # In either order: one of them may have been woken for nothing, and waits anew.
        await layer.send(channel, {"n": 2})
        await layer.send(channel, {"n": 3})
        assert sorted([(await four)["n"], (await five)["n"]]) == [2, 3]
        await asyncio.gather(one, two, return_exceptions=True)
        (own,) = layer._core.demux.own.values()
        assert [len(each.waiters) for each in own.locals.values()] == [1, 0]
        assert not own.anyone
        assert len(list(own.waiters())) == 1
        await layer.send(other, {"n": 4})
        assert await first == {"n": 4}
        assert not own.waiting
        await layer.close()

    run(main())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda own, channel: channel.items.append((b"", 1 << 62, 0)),
        lambda own, channel: setattr(own, "certain", False),
        lambda own, channel: setattr(own, "armed_by", None),
        lambda own, channel: own.waiting.clear(),
        lambda own, channel: setattr(channel, "known", False),
        lambda own, channel: setattr(own.armed_by.demux, "closed", True),
    ],
    ids=["a message", "a ring", "another's bell", "nobody", "forgotten", "closed"],
)
def test_who_waits_goes_the_short_way_only_while_it_is_open(spoil: Any) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        demux = layer._core.demux
        names = [await layer.new_channel() for _ in range(2)]
        waiting, given_up = await soon(*(layer.receive(name) for name in names))
        given_up.cancel()
        await asyncio.sleep(0)
        channel = demux.channels[names[1]]
        listener = channel.own.armed_by
        assert isinstance(listener, LoopListener)
        waiter = listener.expect(channel)
        assert waiter is not None
        listener.give_up(channel, waiter)
        spoil(channel.own, channel)
        assert listener.expect(channel) is None
        waiting.cancel()

    run(main())
