"""A signal handler that raises while a receiver waits, is woken, or begins to wait.

No receiver sleeps on because of it. A trace function plays the handler, and raises at each call
in turn.
"""

from __future__ import annotations

import asyncio
import itertools
from asyncio import CancelledError

import pytest

from asgi_ipc.delivery.spinning import Spinner
from tests.tools.doubles import (
    PATIENCE,
    run,
)
from tests.tools.interruptions import (
    RESUMING,
    Interruption,
    interrupted_at,
)
from tests.tools.receivers import (
    Pair,
    soon,
)


@pytest.fixture(autouse=True)
def no_receiver_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a receiver spins, and needs no waking."""
    monkeypatch.setattr(Spinner, "worth_it", lambda self: False)


def pair() -> Pair:
    both = Pair()
    both.demux.look_again = 0.02
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    return both


async def assert_counts_come_right(both: Pair) -> None:
    """By the next regular look each listener's count is what the lists say."""
    await asyncio.sleep(0.05)
    for own in both.demux.own.values():
        lists = [own.anyone, *(channel.waiters for channel in own.locals.values())]
        listed = {waiter for waiters in lists for waiter in waiters}
        assert {waiter for waiter, _ in own.waiters()} == listed
    for listener in both.demux.loops.values():
        assert not len(listener.wake_queue)


def test_an_interrupted_send_leaves_no_receiver_asleep() -> None:
    async def main() -> None:
        for call in itertools.count(1):
            both = pair()
            (name,), (task,) = await both.readers(1)
            try:
                with interrupted_at(call, RESUMING) as interrupted:
                    await both.layer.send(name, {"n": 1})
            except Interruption:
                pass
            await asyncio.sleep(0.01)
            await both.other.send(name, {"n": 2})
            assert (await asyncio.wait_for(task, PATIENCE))["n"] in (1, 2)
            await assert_counts_come_right(both)
            if not interrupted.happened:
                break
        assert call > 10

    run(main())


def test_an_interrupted_broadcast_leaves_no_receiver_asleep() -> None:
    async def main() -> None:
        for call in itertools.count(1):
            both = pair()
            names, tasks = await both.readers(5)
            for name in names:
                await both.layer.group_add("room", name)
            tasks[2].cancel()
            names.append(names.pop(2))
            tasks.append(asyncio.ensure_future(both.layer.receive(names[-1])))
            await soon()
            # Its plan is made.
            await both.layer.group_channels("room")
            try:
                with interrupted_at(call, RESUMING) as interrupted:
                    await both.layer.group_send("room", {"n": 1})
            except Interruption:
                pass
            await asyncio.sleep(0.01)
            for name in names:
                await both.other.send(name, {"n": 2})
            got = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
            assert all(
                each["n"] in (1, 2) if isinstance(each, dict) else type(each) is CancelledError
                for each in got
            )
            await assert_counts_come_right(both)
            if not interrupted.happened:
                break
        assert call > 20

    run(main())


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with_others"])
def test_an_interrupted_receive_leaves_no_other_receiver_asleep(alone: bool) -> None:
    async def main() -> None:
        for call in itertools.count(1):
            both = pair()
            names, tasks = await both.readers(0 if alone else 1)
            mine = await both.channel()

            async def receive(both: Pair = both, mine: str = mine, call: int = call) -> bool:
                receiving = asyncio.ensure_future(both.layer.receive(mine))
                with interrupted_at(call) as interrupted:
                    await asyncio.sleep(0)
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
                return interrupted.happened

            interrupted = await receive()
            await both.other.send(mine, {"n": 1})
            await asyncio.sleep(0.01)
            for name in names:
                await both.other.send(name, {"n": 2})
            for task in tasks:
                assert await asyncio.wait_for(task, PATIENCE) == {"n": 2}
            assert await asyncio.wait_for(both.layer.receive(mine), PATIENCE) == {"n": 1}
            await assert_counts_come_right(both)
            if not interrupted:
                break
        assert call > 3

    run(main())


def test_an_interrupted_signal_for_ordinary_channels_leaves_no_receiver_asleep() -> None:
    async def main() -> None:
        # Each of the first calls, and of the many others of regular looks some.
        for call in itertools.chain(range(1, 100), itertools.count(100, 23)):
            both = pair()
            (first, second) = await soon(both.layer.receive("a"), both.layer.receive("a"))
            await both.other.send("a", {"n": 1})
            with interrupted_at(call) as interrupted:
                await asyncio.sleep(0.03)
            await asyncio.sleep(0.03)
            # If it was the regular look that was interrupted, the next to wait begins it anew.
            (third,) = await soon(both.layer.receive("b"))
            await both.other.send("a", {"n": 2})
            await both.other.send("a", {"n": 3})
            got = [
                each["n"] if isinstance(each, dict) else each
                for each in await asyncio.wait_for(
                    asyncio.gather(first, second, return_exceptions=True), PATIENCE
                )
            ]
            assert all(each in (1, 2, 3) or isinstance(each, Interruption) for each in got), got
            third.cancel()
            if not interrupted.happened:
                break
        assert call > 5

    run(main())


def test_a_receiver_cancelled_just_after_it_was_woken_leaves_no_other_asleep() -> None:
    async def main() -> None:
        both = Pair()
        names, tasks = await both.readers(3)
        for name in names:
            await both.layer.group_add("room", name)
        await both.layer.group_send("room", {"n": 1})
        tasks[0].cancel()
        for task in tasks[1:]:
            assert await asyncio.wait_for(task, PATIENCE) == {"n": 1}
        assert await both.layer.receive(names[0]) == {"n": 1}

    run(main())


def test_the_next_receiver_restarts_a_regular_look_that_never_came() -> None:
    async def main() -> None:
        both = pair()
        (first,) = await soon(both.layer.receive("a"))
        (listener,) = both.demux.loops.values()
        # A handler raised when asyncio was about to call it.
        lost = listener._timer
        lost.cancel()
        await asyncio.sleep(0.05)
        assert listener._timer is lost
        (second,) = await soon(both.layer.receive("b"))
        assert listener._timer is not lost
        for task in (first, second):
            task.cancel()

    run(main())
