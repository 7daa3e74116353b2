"""Messages from a process to itself that pass by the store: when, and that nobody can tell."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.names import channel_name
from asgi_ipc.spinning import Spinner

from .doubles import (
    PATIENCE,
    BlockingEngine,
    CountingEngine,
    engine,
    fresh,
    patient,
    run,
    watchdog,
)
from .stores import in_child

__all__ = ["watchdog"]

_SECOND = 1_000_000_000


class Pair:
    """A layer, and one on the same store as another process would have it.

    ``pushed`` are the records that the first has put on the store.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns, **options: Any) -> None:
        prefix, memory = fresh(), {"channel_memory": 10_000_000, "group_memory": 1_000_000}
        self._engine, other = (CountingEngine(prefix, clock=clock, **memory) for _ in range(2))
        self.layer = patient(IPCChannelLayer(engine=self._engine, **options))
        self.other = IPCChannelLayer(engine=other, **options)

    @property
    def pushed(self) -> int:
        return self._engine.calls["records"]

    @property
    def demux(self) -> Any:
        return self.layer._core.demux

    async def channel(self) -> str:
        """A channel of the first, read before, as one is that is in use."""
        name: str = await self.layer.new_channel()
        await self.other.send(name, {})
        await self.layer.receive(name)
        return name

    async def readers(self, count: int) -> tuple[list[str], list[asyncio.Task[dict[str, Any]]]]:
        """Channels of the first, and who waits for a message on each."""
        names = [await self.channel() for _ in range(count)]
        tasks = [asyncio.ensure_future(self.layer.receive(name)) for name in names]
        await asyncio.sleep(0)
        return names, tasks


async def rest(layer: IPCChannelLayer, channel: str) -> list[int]:
    """What is on a channel."""
    found = []
    while True:
        try:
            found.append((await asyncio.wait_for(layer.receive(channel), 0.05))["n"])
        except asyncio.TimeoutError:
            return found


# When


def test_who_waits_gets_it_without_the_store() -> None:
    async def main() -> None:
        both = Pair()
        (name,), (task,) = await both.readers(1)
        await both.layer.send(name, {"n": 1})
        assert await task == {"n": 1}
        assert both.pushed == 0

    run(main())


def test_one_that_nobody_waits_for_lies_ready_and_the_next_goes_to_the_store() -> None:
    async def main() -> None:
        both = Pair()
        name, quiet = await both.channel(), await both.channel()
        await both.layer.send(name, {"n": 0})
        assert both.pushed == 0
        for number, channel in enumerate((name, quiet, name), 1):
            await both.layer.send(channel, {"n": number})
        assert both.pushed == 3
        assert await rest(both.layer, name) == [0, 1, 3]
        assert await rest(both.layer, quiet) == [2]
        # All is read, so there is room again.
        await both.layer.send(quiet, {"n": 4})
        assert both.pushed == 3
        assert await rest(both.layer, quiet) == [4]

    run(main())


def test_a_group_whose_members_all_wait_gets_it_without_the_store() -> None:
    async def main() -> None:
        both = Pair()
        names, tasks = await both.readers(3)
        for name in names:
            await both.layer.group_add("g", name)
        theirs = await both.other.new_channel()
        await both.layer.group_add("g", theirs)
        await both.layer.group_add("g", "ordinary")
        await both.layer.group_send("g", {"list": []})
        messages = await asyncio.gather(*tasks)
        assert messages == [{"list": []}] * 3
        assert len({id(message["list"]) for message in messages}) == 3  # Nobody shares.
        assert both.pushed == 2
        assert await both.other.receive(theirs) == {"list": []}
        assert await both.other.receive("ordinary") == {"list": []}

    run(main())


def test_a_group_of_which_one_member_does_not_wait_gets_it_from_the_store() -> None:
    async def main() -> None:
        both = Pair()
        names, tasks = await both.readers(2)
        names.append(await both.channel())
        for name in names:
            await both.layer.group_add("g", name)
        await both.layer.group_send("g", {"n": 1})
        assert both.pushed == 1
        assert await asyncio.gather(*tasks, both.layer.receive(names[2])) == [{"n": 1}] * 3

    run(main())


def test_an_engine_that_blocks_is_not_passed_by() -> None:
    async def main() -> None:
        blocking = engine(BlockingEngine)
        layer = IPCChannelLayer(engine=blocking)
        name = await layer.new_channel()
        for number in range(3):
            await layer.send(name, {"n": number})
            assert await layer.receive(name) == {"n": number}
        assert blocking.calls["records"] == 3
        await layer.close()

    run(main())


def test_while_the_buffers_are_in_use_it_goes_to_the_store_and_waits_for_nobody() -> None:
    """As in a signal handler, which interrupts the very thread that uses them."""

    async def main() -> None:
        both = Pair()
        name = await both.channel()
        with both.demux.lock:
            both.layer.sync.send(name, {"n": 1})
        assert both.pushed == 1
        assert await rest(both.layer, name) == [1]

    run(main())


def test_a_closed_layer_takes_nothing_more() -> None:
    async def main() -> None:
        both = Pair()
        name = await both.channel()
        both.demux.closed = True
        await both.layer.send(name, {"n": 1})
        assert both.pushed == 1

    run(main())


def test_a_thread_that_waits_and_another_event_loop_get_it_too() -> None:
    both = Pair()
    name = run(both.channel())
    prefix = name[: name.index("!") + 1]
    sync: SyncIPCChannelLayer = both.layer.sync
    got: list[Any] = []

    def receive_in_thread() -> None:
        got.append(sync.receive([prefix], block=True, timeout=PATIENCE)[1])

    def receive_in_loop() -> None:
        got.append(run(both.layer.receive(name)))

    for receive in (receive_in_thread, receive_in_loop):
        got.clear()
        thread = threading.Thread(target=receive)
        before = both.pushed
        thread.start()
        own = next(iter(both.demux.own.values()))
        while not own.waiting:
            os.sched_yield()
        sync.send(name, {"n": 1})
        thread.join(PATIENCE)
        assert got == [{"n": 1}]
        assert both.pushed == before


# That nobody can tell


def test_it_overtakes_nothing_on_the_store_or_in_the_buffer() -> None:
    async def main() -> None:
        both = Pair()
        name, second = await both.channel(), await both.channel()
        await both.other.send(name, {"n": 0})
        await both.layer.send(name, {"n": 1})
        assert both.pushed == 1
        await both.other.send(second, {"n": 2})
        await both.other.send(name, {"n": 3})
        # Fetches what is for the other channel, too.
        assert await both.layer.receive(second) == {"n": 2}
        await both.layer.send(name, {"n": 4})
        assert await rest(both.layer, name) == [0, 1, 3, 4]

    run(main())


def test_senders_here_and_elsewhere_each_keep_their_order() -> None:
    async def main() -> None:
        both = Pair(capacity=10**6)
        name, count = await both.channel(), 3_000

        def send(layer: SyncIPCChannelLayer, who: int) -> None:
            for number in range(count):
                layer.send(name, {"who": who, "n": number})

        layers = [both.layer.sync, both.layer.sync, both.other.sync]
        threads = [
            threading.Thread(target=send, args=(layer, who)) for who, layer in enumerate(layers)
        ]
        for thread in threads:
            thread.start()
        got: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for _ in range(count * len(layers)):
            message = await asyncio.wait_for(both.layer.receive(name), PATIENCE)
            got[message["who"]].append(message["n"])
        assert got == {who: list(range(count)) for who in got}
        assert both.pushed > 0

    run(main())


@pytest.mark.parametrize("to_group", [False, True])
def test_what_went_to_the_store_is_there_before_its_bell_is_heard(to_group: bool) -> None:
    async def main() -> None:
        both = Pair()
        _, (waiting,) = await both.readers(1)
        name, ready = await both.channel(), await both.channel()
        await both.layer.group_add("g", name)
        await both.layer.send(ready, {})
        await (both.layer.group_send("g", {}) if to_group else both.layer.send(name, {}))
        assert both.pushed == 1
        task = asyncio.ensure_future(both.layer.receive(name))
        await asyncio.sleep(0)
        assert task.done()
        waiting.cancel()

    run(main())


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_capacity_is_what_it_is_on_either_way(capacity: int) -> None:
    async def main() -> None:
        both = Pair(capacity=capacity)
        names = [await both.channel() for _ in range(3)]
        for name in names:
            await both.layer.group_add(name.replace("!", "."), name)
        for number in range(capacity):
            await both.layer.send(names[number % 3], {"n": number})
        for name in names:
            with pytest.raises(both.layer.ChannelFull, match=f"capacity of {capacity} "):
                await both.layer.send(name, {})
            await both.layer.group_send(name.replace("!", "."), {})
        counts = await both.layer.channel_statistics(names[0])
        assert counts["messages_pending"] == capacity
        assert counts["channel_full_count"] == 6
        found = [await rest(both.layer, name) for name in names]
        assert found == [list(range(start, capacity, 3)) for start in range(3)]

    run(main())


def test_what_was_fetched_later_into_the_same_buffer_takes_no_room() -> None:
    async def main() -> None:
        both = Pair(capacity=2)
        name, second = await both.channel(), await both.channel()
        await both.layer.send(name, {"n": 0})
        assert await both.layer.receive(name) == {"n": 0}
        await both.other.send(name, {"n": 1})
        await both.other.send(second, {})
        await both.layer.receive(second)
        for number in (2, 3):
            await both.layer.send(name, {"n": number})
        with pytest.raises(both.layer.ChannelFull):
            await both.layer.send(name, {})
        assert await rest(both.layer, name) == [1, 2, 3]

    run(main())


def test_what_was_dropped_is_named_though_others_were_passed_directly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        (name,), (task,) = await both.readers(1)
        full, room = await both.other.new_channel("full"), await both.other.new_channel("room")
        await both.layer.send(full, {})
        for channel in (name, full, room):
            await both.layer.group_add("g", channel)
        await both.layer.group_send("g", {"n": 1})
        assert await task == await both.other.receive(room) == {"n": 1}
        assert f"dropped for 1 of 3 channels ({full})" in caplog.text

    both = Pair(channel_capacity={"full.*": 1})
    run(main())


def test_one_that_expired_unread_makes_room() -> None:
    async def main() -> None:
        now = _SECOND
        both = Pair(clock=lambda: now, capacity=1, expiry=10)
        name = await both.channel()
        await both.layer.send(name, {"n": 1})
        with pytest.raises(both.layer.ChannelFull):
            await both.layer.send(name, {"n": 2})
        now += 11 * _SECOND
        await both.layer.send(name, {"n": 3})
        assert await rest(both.layer, name) == [3]
        assert (await both.layer.global_statistics())["expired_count"] == 1

    run(main())


@pytest.mark.parametrize("who", ["layer", "other"])
def test_a_flush_takes_what_was_sent_before_and_no_more(who: str) -> None:
    async def main() -> None:
        both = Pair()
        name = await both.channel()
        await both.layer.send(name, {"n": 1})
        await getattr(both, who).flush()
        await both.layer.send(name, {"n": 2})
        assert both.pushed == 0
        assert await rest(both.layer, name) == [2]

    run(main())


def test_it_is_counted() -> None:
    async def main() -> None:
        both = Pair()
        (name, other), (task, waiting) = await both.readers(2)
        before = await both.layer.global_statistics()
        await both.layer.send(name, {"n": 1})
        await task
        await both.layer.send(name, {"n": 2})
        for counts in (
            await both.layer.channel_statistics(other),
            await both.layer.global_statistics(),
        ):
            assert counts["messages_count"] == before["messages_count"] + 2
            assert counts["received_count"] == before["received_count"] + 1
            assert counts["messages_pending"] == 1
        waiting.cancel()

    run(main())


def test_cancelled_when_it_was_just_handed_over_it_is_there_for_the_next() -> None:
    async def main() -> None:
        both = Pair()
        (name,), (task,) = await both.readers(1)
        next_one = asyncio.ensure_future(both.layer.receive(name))
        await asyncio.sleep(0)
        await both.layer.send(name, {"n": 1})
        task.cancel()
        assert await next_one == {"n": 1}
        assert both.pushed == 0

    run(main())


def test_what_lies_ready_is_not_dropped_for_what_others_were_allowed_to_send() -> None:
    async def main() -> None:
        both = Pair(capacity=2)
        name, second = await both.channel(), await both.channel()
        await both.layer.send(name, {"n": 0})
        for number in (1, 2):
            await both.other.send(name, {"n": number})
        with pytest.raises(both.other.ChannelFull):
            await both.other.send(name, {})
        waiting = asyncio.ensure_future(both.layer.receive(second))
        await asyncio.sleep(0)
        assert await rest(both.layer, name) == [0, 1, 2]
        assert (await both.layer.global_statistics())["overflow_count"] == 0
        waiting.cancel()

    run(main())


def test_what_lies_ready_stays_with_an_engine_that_stays_open() -> None:
    async def main() -> None:
        both = Pair()
        name = await both.channel()
        await both.layer.send(name, {"n": 0})
        await both.other.send(name, {"n": 1})
        await both.layer.close()
        assert await rest(both.layer, name) == [0, 1]

    run(main())


def test_what_a_signal_handler_sends_wakes_a_loop_that_sleeps() -> None:
    async def main() -> None:
        both = Pair()
        (name,), (task,) = await both.readers(1)
        before = signal.signal(signal.SIGALRM, lambda *_: both.layer.sync.send(name, {"n": 1}))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            # Nothing else wakes it: the layer is patient.
            assert await asyncio.wait_for(task, PATIENCE) == {"n": 1}
        finally:
            signal.signal(signal.SIGALRM, before)

    run(main())


class Interruption(Exception):
    """As a signal's handler raises it."""


def interrupted_at(call: int, function: Callable[[], None]) -> bool:
    """Whether a function made so many calls within asgi_ipc; the last of them raised."""
    left = call

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if event == "call" and "asgi_ipc" in frame.f_code.co_filename:
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise Interruption

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupted_send_leaves_no_receiver_that_is_not_woken_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Or who waits looks out, and needs nobody to wake it.
    monkeypatch.setattr(Spinner, "worth_it", lambda self: False)

    async def main() -> None:
        both = Pair()
        both.demux.look_again = 0.05
        for call in itertools.count(1):
            (name,), (task,) = await both.readers(1)
            send = partial(both.layer.sync.send, name, {"n": 1})
            if not interrupted_at(call, send):
                break
            assert not both.demux.lock.locked()
            if not both.demux.has_fetched(channel_name(name)):
                await both.layer.send(name, {"n": 1})
            # By the next regular look, if need be.
            assert await asyncio.wait_for(task, PATIENCE) == {"n": 1}
        assert call > 10

    run(main())


def test_a_forked_child_sends_to_its_parent_by_the_store() -> None:
    layer = IPCChannelLayer(f"direct-{os.getpid()}", engine="posix", channel_memory=1 << 20)
    try:
        name, own = run(layer.new_channel()), layer.sync
        own.send(name, {"n": 0})
        run(layer.receive(name))
        own.send(name, {"n": 1})  # Lies ready in the parent, and in the child's copy of it.
        in_child(lambda: own.send(name, {"n": 2}))
        assert run(rest(layer, name)) == [1, 2]
    finally:
        layer.sync.destroy()
