"""Messages from a process to itself that pass by the store: when."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from tests.tools.doubles import (
    PATIENCE,
    BlockingEngine,
    engine,
    run,
    watchdog,
)
from tests.tools.receivers import (
    Pair,
    rest,
)

__all__ = ["watchdog"]


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
