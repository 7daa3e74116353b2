"""Wires that get queues wrong, clauses W9 to W14."""

from __future__ import annotations

import asyncio

from asgi_ipc.exceptions import WireLost
from asgi_ipc.relay.wire import Pushed
from tests.wrong_wires import Wrong


class EndsIfReadyRaises(Wrong):
    breaks = "W9"

    def tell_ready(self, queue: bytes) -> None:
        def tell() -> None:
            try:
                self._state._ready(queue)  # type: ignore[misc]
            except Exception:
                self._state.lose(WireLost("the caller has failed"))
                raise

        self._later(tell)


class EndsWithACancelledPop(Wrong):
    breaks = "W9"

    async def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        try:
            return await super().pop(queue, limit)
        except asyncio.CancelledError:
            await self.close()
            raise


class PopsSomeTwice(Wrong):
    breaks = "W10"
    pops = 0

    async def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        found = await super().pop(queue, limit)
        self.pops += 1
        if found and self.pops % 20 == 1:
            await super().push(queue, found[-1], 100, 1 << 20)
        return found


class PopsTheLastFirst(Wrong):
    breaks = "W10"

    async def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        return (await super().pop(queue, limit))[::-1]


class TakesOneTooMany(Wrong):
    breaks = "W11"

    async def push(self, queue: bytes, frame: bytes, lifetime: float, capacity: int) -> Pushed:
        return await super().push(queue, frame, lifetime, capacity + 1)


class DoesNotSayHowLong(Wrong):
    breaks = "W11"

    async def push(self, queue: bytes, frame: bytes, lifetime: float, capacity: int) -> Pushed:
        return (await super().push(queue, frame, lifetime, capacity))._replace(length=0)


class KeepsTheDead(Wrong):
    breaks = "W12"

    async def push(self, queue: bytes, frame: bytes, lifetime: float, capacity: int) -> Pushed:
        return await super().push(queue, frame, 1e6, capacity)


class ExpiresFromTheFrontAlone(Wrong):
    breaks = "W12"

    async def length(self, queue: bytes) -> int:
        return await super().length(queue) + 1


class TellsNobody(Wrong):
    breaks = "W13"

    def tell_ready(self, queue: bytes) -> None:
        """Do nothing."""


class TellsTwice(Wrong):
    breaks = "W13"

    def tell_ready(self, queue: bytes) -> None:
        super().tell_ready(queue)
        super().tell_ready(queue)


class IsAlwaysArmed(Wrong):
    breaks = "W13"

    def tell_ready(self, queue: bytes) -> None:
        super().tell_ready(queue)
        self._server._armed[self.prefix, queue].append(self)


class TellsTheLastFirst(Wrong):
    breaks = "W13"

    async def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        found = await super().pop(queue, limit)
        armed = self._server._armed.get((self.prefix, queue))
        if armed and armed[-1] is self:
            armed.appendleft(armed.pop())
        return found


class KeepsItsCall(Wrong):
    breaks = "W13"

    async def disarm(self, queue: bytes) -> None:
        armed = self._server._armed.get((self.prefix, queue))
        if armed and self in armed:
            armed.remove(self)


class DoesNotDisarm(Wrong):
    breaks = "W13"

    async def disarm(self, queue: bytes) -> None:
        """Do nothing."""


class ClearsNothing(Wrong):
    breaks = "W14"

    async def clear(self) -> None:
        """Do nothing."""


class ClearsEverything(Wrong):
    breaks = "W14"

    async def clear(self) -> None:
        self._server._queues.clear()
