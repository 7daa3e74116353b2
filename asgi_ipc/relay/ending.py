"""End what a relay does side by side, so that nothing is lost that is under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, TypeVar

from ..exceptions import WireError

_T = TypeVar("_T")

#: Seconds for each step of an end: what is under way, a goodbye, the close of a wire.
FAREWELL = 0.3
#: Seconds after which a task that was cancelled and goes on is cancelled again; longer than the
#: steps of any task take.
CANCEL_AGAIN = 1.0


async def first_of(*coroutines: Awaitable[Any]) -> None:
    """Run all until the first ends; then cancel the others, and raise what the first raised."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    for task in tasks:
        # Or asyncio would log what it raises after this was cancelled a second time.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
    ended: set[asyncio.Future[Any]] = set()
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Before Python 3.12 `asyncio.wait_for` swallows a cancellation that comes together with
        # its result, and the task would go on.
        while left := [each for each in tasks if not each.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=CANCEL_AGAIN)
        await asyncio.gather(*tasks, return_exceptions=True)
    for each in ended:
        each.result()


async def until_answered(call: Awaitable[_T]) -> _T:
    """Await a call to the server; if cancelled, first its answer, for `FAREWELL` at most."""
    calling = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(calling)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.TimeoutError, WireError):
            await asyncio.wait_for(calling, FAREWELL)
        raise


__all__ = ["CANCEL_AGAIN", "FAREWELL", "first_of", "until_answered"]
