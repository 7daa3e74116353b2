"""Receiving from an engine that blocks: a receive that is called off puts back what it took."""

from __future__ import annotations

import asyncio
from typing import Any

from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery.blocking_listener import OffloadingListener, _Pop
from asgi_ipc.delivery.demultiplexer import Demultiplexer
from asgi_ipc.engines.base import Record
from tests.tools.doubles import (
    BlockingEngine,
    engine,
    eventually,
    run,
)


def test_a_blocking_receive_that_is_cancelled_puts_back_what_it_took() -> None:
    class Slow(BlockingEngine):
        delay = 0.05

    async def main() -> None:
        slow = engine(Slow)
        layer = IPCChannelLayer(engine=slow)
        await layer.send("c", {"n": 1})
        await layer.send("c", {"n": 2})
        got: list[Any] = []

        def is_back() -> bool:
            left: int = slow.statistics(b"c")["pending"]
            return left + len(got) == 2

        for moment in (0.0, 0.01, 0.06, 0.09):
            task = asyncio.ensure_future(layer.receive("c"))
            await asyncio.sleep(moment)
            task.cancel()
            # On a busy machine it may be cancelled too late.
            found = await asyncio.gather(task, return_exceptions=True)
            got += [each for each in found if isinstance(each, dict)]
            await asyncio.sleep(0.25)
            await eventually(is_back)
        while len(got) < 2:
            got.append(await layer.receive("c"))
        assert got == [{"n": 1}, {"n": 2}]
        await layer.close()

    run(main())


def test_a_blocking_look_that_is_called_off_in_between_puts_back_what_it_took() -> None:
    slow = engine(BlockingEngine)
    listener = OffloadingListener(Demultiplexer(slow), asyncio.new_event_loop())
    record = Record(b"c", b"x", slow.clock() + 10**10, 10)
    for called_off_first in (True, False):
        slow.push([record])
        look = _Pop(listener, b"c", slow.bell())
        if called_off_first:
            look.cancel()
            assert look.run() is None
        else:
            assert look.run() is not None
            assert look.cancel()
            look.put_back()
        assert [popped.payload for popped in slow.pop(b"c")] == [b"x"]
    loop = listener.loop()
    assert loop is not None
    loop.close()
    slow.close()
