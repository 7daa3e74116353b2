"""Receiving from an engine that blocks: a receive that is called off puts back what it took."""

from __future__ import annotations

import asyncio

from asgi_ipc import IPCChannelLayer
from asgi_ipc.delivery.blocking_listener import OffloadingListener, _Pop
from asgi_ipc.delivery.demultiplexer import Demultiplexer
from asgi_ipc.engines.base import Record
from tests.tools.doubles import (
    BlockingEngine,
    engine,
    run,
)


def test_a_blocking_receive_that_is_cancelled_puts_back_what_it_took() -> None:
    class Slow(BlockingEngine):
        delay = 0.05

    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(Slow))
        await layer.send("c", {"n": 1})
        await layer.send("c", {"n": 2})
        for moment in (0.0, 0.01, 0.06, 0.09):
            task = asyncio.ensure_future(layer.receive("c"))
            await asyncio.sleep(moment)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.25)
        assert await layer.receive("c") == {"n": 1}
        assert await layer.receive("c") == {"n": 2}
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
