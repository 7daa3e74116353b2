"""Wires in tests: an event loop for each test, and one wire started, used and closed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

from asgi_ipc.relay.wire import Frame, Wire
from asgi_ipc.relay.wire_choice import open_wire

_P = ParamSpec("_P")


def in_loop(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run an asynchronous test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@asynccontextmanager
async def started(
    url: str, heard: Callable[[bytes, bytes], None] | None = None, **options: Any
) -> AsyncIterator[Wire]:
    """A wire that was started, closed afterwards."""
    wire = open_wire(url, "tests", options)
    try:
        await wire.start(heard or (lambda topic, frame: None))
        yield wire
    finally:
        await wire.close()


async def works(url: str, **options: Any) -> None:
    """Hear a frame that one publishes."""
    heard = asyncio.get_running_loop().create_future()
    async with started(url, lambda topic, frame: heard.set_result(frame), **options) as wire:
        await wire.subscribe([b"t"])
        await wire.publish([Frame(b"t", b"frame")])
        assert await heard == b"frame"


async def error_of(url: str, **options: Any) -> Exception:
    """What `start` raises."""
    try:
        async with started(url, **options):
            raise AssertionError("it started")
    except AssertionError:
        raise
    except Exception as error:
        return error
