"""Any sequence of what a process and another do with its channels: nothing lost, twice or late.

Two layers on one store, as two processes have it, send to channels of the first, alone or in a
group, while receivers come, wait and are cancelled, the store is flushed and time passes. What
was sent lies in a list; what a receiver gets must be the first of its channel that was neither
received nor flushed and has not expired, and at the end nothing may be left over.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_ipc import IPCChannelLayer
from asgi_ipc.engines.memory import MemoryEngine
from tests.tools.doubles import (
    PATIENCE,
    fresh,
    patient,
    watchdog,
    way,
    without_loopback,
)

__all__ = ["watchdog", "way", "without_loopback"]

_SECOND = 10**9
_EXPIRY = 60
_CHANNELS = range(3)

#: An operation and what it is done to.
_OPERATIONS = st.one_of(
    st.tuples(st.just("send"), st.booleans(), st.sampled_from(_CHANNELS)),
    st.tuples(st.just("group_send"), st.booleans(), st.just(0)),
    st.tuples(st.just("receive"), st.booleans(), st.sampled_from(_CHANNELS)),
    st.tuples(st.just("cancel"), st.booleans(), st.integers(0, 9)),
    st.tuples(st.just("let run"), st.booleans(), st.integers(1, 4)),
    st.tuples(st.just("take"), st.booleans(), st.just(0)),
    st.tuples(st.just("flush"), st.booleans(), st.just(0)),
    st.tuples(st.just("time"), st.booleans(), st.sampled_from([1, 30, 59, 61])),
)


class World:
    """Both layers, and what there should be."""

    def __init__(self) -> None:
        self.now = _SECOND
        prefix = fresh()
        here, there = (
            MemoryEngine(
                prefix, clock=lambda: self.now, channel_memory=1 << 24, group_memory=1 << 20
            )
            for _ in range(2)
        )
        options: dict[str, Any] = {"expiry": _EXPIRY, "capacity": 10_000}
        self.layer = patient(IPCChannelLayer(engine=here, **options))
        self.other = IPCChannelLayer(engine=there, **options)
        self.numbers = itertools.count()
        #: Number and deadline of what was sent to each channel and is not received or flushed.
        self.sent: list[list[tuple[int, int]]] = [[] for _ in _CHANNELS]
        self.names: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def note_sent(self, channels: Any) -> dict[str, int]:
        number = next(self.numbers)
        for channel in channels:
            self.sent[channel].append((number, self.now + _EXPIRY * _SECOND))
        return {"n": number}

    def note_received(self, channel: int, message: dict[str, int]) -> None:
        """It is the first that there is."""
        live = [number for number, deadline in self.sent[channel] if deadline > self.now]
        assert live, f"{message} is not there any more, or was received before"
        assert message["n"] == live[0]
        self.sent[channel] = [each for each in self.sent[channel] if each[0] > live[0]]

    async def receive(self, channel: int) -> None:
        self.note_received(channel, await self.layer.receive(self.names[channel]))

    def take(self) -> bool:
        """Receive as a thread does that takes whatever there is."""
        prefix = self.names[0][: self.names[0].index("!") + 1]
        name, message = self.layer.sync.receive([prefix])
        if message is None:
            return False
        self.note_received(self.names.index(str(name)), message)
        return True

    async def do(self, operation: str, here: bool, what: int) -> None:
        layer = self.layer if here else self.other
        if operation == "send":
            await layer.send(self.names[what], self.note_sent([what]))
        elif operation == "group_send":
            await layer.group_send("g", self.note_sent(_CHANNELS))
        elif operation == "receive":
            self.tasks.append(asyncio.ensure_future(self.receive(what)))
        elif operation == "cancel" and self.tasks:
            self.tasks[what % len(self.tasks)].cancel()
        elif operation == "let run":
            for _ in range(what):
                await asyncio.sleep(0)
        elif operation == "take":
            self.take()
        elif operation == "flush":
            await layer.flush()
            self.sent = [[] for _ in _CHANNELS]
            for name in self.names:
                await layer.group_add("g", name)
        elif operation == "time":
            self.now += what * _SECOND
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def run(self, operations: list[tuple[str, bool, int]]) -> None:
        self.names = [await self.layer.new_channel() for _ in _CHANNELS]
        await self.do("flush", True, 0)
        for operation in operations:
            await self.do(*operation)
        # Nobody waits without result, and what nobody waits for is there.
        until = asyncio.get_running_loop().time() + PATIENCE
        while any(self.live(c) and self.waiting(c) for c in _CHANNELS):
            assert asyncio.get_running_loop().time() < until, "somebody waits for what is there"
            await self.do("let run", True, 1)
        while self.take():
            pass
        assert not any(self.live(channel) for channel in _CHANNELS)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.do("let run", True, 1)
        assert not any(own.waiting for own in self.layer._core.demux.own.values())
        await self.layer.destroy()
        await self.other.close()

    def live(self, channel: int) -> bool:
        return any(deadline > self.now for _, deadline in self.sent[channel])

    def waiting(self, channel: int) -> bool:
        name = self.names[channel]
        known = self.layer._core.demux.channels.get(name)
        return known is not None and bool(known.waiters)


@pytest.mark.usefixtures("way")
@settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "400")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(_OPERATIONS, min_size=20, max_size=80))
def test_any_sequence_loses_and_doubles_nothing(operations: list[tuple[str, bool, int]]) -> None:
    asyncio.run(World().run(operations))
