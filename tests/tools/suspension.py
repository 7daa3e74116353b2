"""A site whose channels fall silent, and whose time a test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.engines.deferred import run_deferred
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.costs import (
    settle,
)
from tests.tools.doubles import (
    PATIENCE,
    fresh,
)
from tests.tools.layers import demux_of

EXPIRY = 10.0
SECOND = 1_000_000_000


class Site:
    """A layer of this process and one of another, on a store whose time a test moves."""

    def __init__(self, kind: type[MemoryEngine] = MemoryEngine, **options: Any) -> None:
        self.now = 1_000 * SECOND
        self._prefix, self._kind = fresh(), kind
        self.layer = self.another(**options)
        self.other = self.another()
        self.memberships = demux_of(self.layer).memberships
        # The looks are the test's.
        demux_of(self.layer).look_again = 1e6

    def another(self, **options: Any) -> IPCChannelLayer:
        """A layer of what is like another process."""
        engine = self._kind(
            self._prefix,
            clock=lambda: self.now,
            channel_memory=10_000_000,
            group_memory=options.pop("group_memory", 1_000_000),
        )
        return IPCChannelLayer(engine=engine, **{"expiry": EXPIRY, **options})

    async def pass_time(
        self, seconds: float, each: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Let seconds pass, with a look in each, as in a process that runs."""
        for _ in range(int(seconds)):
            self.now += SECOND
            if each is not None:
                await each()
            await self.look()

    def let_pass(self, seconds: int, look: bool = True) -> None:
        self.now += seconds * SECOND
        if look:
            self._sweep()
            self._look()

    async def look(self) -> None:
        self._sweep()
        await asyncio.get_running_loop().run_in_executor(None, self._look)

    def queue(self, channel: str) -> bytes:
        return self.layer.non_local_name(channel).encode()

    def _sweep(self) -> None:
        demux = demux_of(self.layer)
        with demux.lock:
            for own in demux.own.values():
                own.sweep(1000)

    def _look(self) -> None:
        while self.memberships.sweep():
            pass
        run_deferred()

    async def dead(self, *groups: str) -> str:
        """A channel whose consumer received a message, and failed."""
        channel = await self.layer.new_channel()
        for group in groups:
            await self.layer.group_add(group, channel)
        await self.other.send(channel, {"type": "fail"})
        await self.layer.receive(channel)
        return channel

    async def suspended(self, *groups: str) -> str:
        channel = await self.dead(*groups)
        for group in groups[:1]:
            await self.other.group_send(group, {"type": "unread"})
        await self.pass_time(6 * EXPIRY)
        for group in groups:
            assert await self.members(group) == []
        return channel

    async def members(self, group: str) -> list[str]:
        return await self.other.group_channels(group)

    async def gets(self, channel: str, message: dict[str, Any]) -> bool:
        """Whether a message to group "room" arrives."""
        await self.other.group_send("room", message)
        waiting = asyncio.ensure_future(self.layer.receive(channel))
        await settle()
        while not waiting.done():
            await self.other.send(channel, {"type": "end"})
            await asyncio.wait([waiting], timeout=PATIENCE)
        return waiting.result() == message


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, asking in a thread."""

    def wait() -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    await asyncio.get_running_loop().run_in_executor(None, wait)


async def begin_receiving(layer: IPCChannelLayer, channel: str) -> asyncio.Future[Any]:
    waiting = asyncio.ensure_future(layer.receive(channel))
    await settle()
    return waiting


async def end(waiting: asyncio.Future[Any]) -> None:
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def log_lines(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    """Return the messages that were logged with these words."""
    return [each.getMessage() for each in caplog.records if what in each.getMessage()]
