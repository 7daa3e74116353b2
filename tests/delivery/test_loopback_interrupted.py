"""Messages from a process to itself that pass by the store: cancelled, interrupted and forked."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from functools import partial

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery.spinning import Spinner
from asgi_ipc.encoding.names import channel_name
from tests.tools.doubles import (
    PATIENCE,
    run,
    watchdog,
)
from tests.tools.interruptions import (
    Interruption,
    interrupted_at,
)
from tests.tools.receivers import (
    Pair,
    rest,
)
from tests.tools.stores import (
    in_child,
)

__all__ = ["watchdog"]


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


def test_an_interrupted_send_leaves_no_receiver_that_is_not_woken_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Or who waits spins, and needs nobody to wake it.
    monkeypatch.setattr(Spinner, "worth_it", lambda self: False)

    async def main() -> None:
        both = Pair()
        both.demux.look_again = 0.05
        for call in itertools.count(1):
            (name,), (task,) = await both.readers(1)
            send = partial(both.layer.sync.send, name, {"n": 1})
            try:
                with interrupted_at(call) as interrupted:
                    send()
            except Interruption:
                pass
            if not interrupted.happened:
                break
            assert not both.demux.lock._is_owned()
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
