"""Wires that get connections wrong, clauses W1 to W4."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

from asgi_ipc.exceptions import OptionError, WireError, WireLost, WireRefused
from asgi_ipc.relay.memory import MemoryWire
from asgi_ipc.relay.wire import Frame, Heard, Ready
from tests.wrong_wires import Wrong, WrongOnANetwork


class ShowsItsCredentials(Wrong):
    breaks = "W1"

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        try:
            super().__init__(url, prefix, **options)
        except OptionError as error:
            raise OptionError(f"{error} ({url})") from None


class HasThemInTheCause(Wrong):
    breaks = "W1"

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        try:
            super().__init__(url, prefix, **options)
        except OptionError as error:
            raise OptionError(str(error)) from ValueError(url)


class TakesAnyOption(Wrong):
    breaks = "W1"

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        super().__init__(url, prefix, timeout=options.get("timeout", 5.0))


class NamesTheFirstFaultAlone(Wrong):
    breaks = "W1"

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        for name, value in options.items():
            MemoryWire("memory://x", "p", **{name: value})
        super().__init__(url, prefix, **options)


class ConnectsWhenMade(WrongOnANetwork):
    breaks = "W1"

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        super().__init__(url, prefix, **options)
        self.early = asyncio.ensure_future(
            asyncio.get_running_loop().create_connection(asyncio.Protocol, self._host, self._port)
        )


class ShowsThemWhenPrinted(WrongOnANetwork):
    breaks = "W1"

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        super().__init__(url, prefix, **options)
        self.url = url

    def __repr__(self) -> str:
        return f"<wire to {self.url}>"


class LogsThem(WrongOnANetwork):
    breaks = "W1"

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        super().__init__(url, prefix, **options)
        self.url = url

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        logging.getLogger("mine").debug("connecting to %s", self.url)
        await super().start(heard, ready)


class SaysNotWhyItHasNoQueues(WrongOnANetwork):
    breaks = "W1"
    no_queues = ""


class LeavesTheFirstConnectionOpen(WrongOnANetwork):
    breaks = "W2"

    async def _open(self) -> None:
        connections, self._state.connections = self._state.connections, []
        try:
            await super()._open()
        finally:
            if len(self._connections) == 2:  # The other one will be closed.
                self._state.connections = [*connections, self._connections[1]]
        self._state.connections.append(self._connections[0])


class LeavesItOpen(Wrong):
    breaks = "W2"

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        drop = self._server.drop_wire
        self._server.drop_wire = lambda *_: None  # type: ignore[method-assign]
        try:
            await super().start(heard, ready)
        finally:
            self._server.drop_wire = drop  # type: ignore[method-assign]


class WaitsForEverToStart(Wrong):
    breaks = "W2"

    def server_froze(self) -> None:
        if self.frame_limit:
            super().server_froze()


class TellsNoServerOfAnotherKind(WrongOnANetwork):
    breaks = "W2"

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        super().__init__(url, prefix, **options)
        lose, state = self._state.lose, self._state

        def wait_for_better_words(error: WireError) -> None:
            if state.is_open or not isinstance(error, WireRefused):
                lose(error)

        state.lose = wait_for_better_words  # type: ignore[method-assign]


class NoticesNoSilence(Wrong):
    breaks = "W3"

    def _begin_silence(self) -> None:
        """Do nothing."""


class CountsTheSecondsThatItWasStopped(WrongOnANetwork):
    breaks = "W3"

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        await super().start(heard, ready)
        self._check(asyncio.get_running_loop().time())

    def _check(self, before: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - before > self._timeout:
            self._state.lose(WireLost("it was silent"))
        elif self._state.alive:
            loop.call_later(self._timeout / 4, self._check, loop.time())


class WatchesOneConnection(WrongOnANetwork):
    """And will not hear of the silence, or of the end, of the one that subscribes."""

    breaks = "W3"

    async def _open(self) -> None:
        await super()._open()
        other = self._state.connections.pop()
        other.connection_lost = lambda error: None  # type: ignore[attr-defined]


class ConnectsAgain(Wrong):
    breaks = "W3"

    def end_from_afar(self, error: WireError) -> None:
        super().end_from_afar(error)
        self._later(lambda: self._again(self.topics))

    def _again(self, topics: frozenset[bytes]) -> None:
        other = type(self).__mro__[2](
            f"memory://{self._state.shown.partition('//')[2]}", self.prefix
        )
        heard = self._state._heard
        assert heard is not None

        async def join() -> None:
            await other.start(heard)
            await other.subscribe(topics)

        self.joining = asyncio.ensure_future(join())


class GoesOnAfterTheLoss(Wrong):
    breaks = "W3"

    async def subscribe(self, topics: Collection[bytes]) -> None:
        try:
            await super().subscribe(topics)
        except WireError:
            self.topics |= frozenset(topics)


class LeavesCallsWaiting(Wrong):
    breaks = "W4"

    async def close(self) -> None:
        self._server.drop_wire(self)


class LeavesAThread(Wrong):
    breaks = "W4"

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        await super().start(heard, ready)
        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()


class ClosesNothingUntilItHasStarted(Wrong):
    breaks = "W4"

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        await super().start(heard, ready)
        self.__dict__["started"] = True

    async def close(self) -> None:
        if "started" in self.__dict__:
            await super().close()


class ClosesOnce(Wrong):
    breaks = "W4"
    closed = False

    async def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        await super().close()


class HearsWhenClosed(Wrong):
    breaks = "W4"

    async def close(self) -> None:
        await super().close()
        heard = self._state._heard
        if heard is not None:
            self._state.hear = heard  # type: ignore[method-assign, assignment]
            self._server._wires.append(self)


class SendsWhenClosed(Wrong):
    breaks = "W4"

    async def publish(self, frames: Sequence[Frame]) -> None:
        try:
            await super().publish(frames)
        except WireError:
            return
