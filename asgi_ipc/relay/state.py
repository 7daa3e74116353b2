"""What all wires need: the loss of a wire told once and to everybody, and safe callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..exceptions import WireError, WireLost
from .wire import Heard, Ready


class WireState:
    """Whether a wire is alive, what waits for it, and whom it calls. Of one event loop."""

    def __init__(self, shown: str) -> None:
        #: The server's URL without credentials, for errors.
        self.shown = shown
        self.loop: asyncio.AbstractEventLoop | None = None
        self._heard: Heard | None = None
        self._ready: Ready | None = None
        self._error: WireError | None = None
        self._waiting: set[asyncio.Future[Any]] = set()

    def begin(self, heard: Heard, ready: Ready | None) -> None:
        """Note the loop and the callbacks. Raises `RuntimeError` for a wire started before."""
        if self.loop is not None:
            raise RuntimeError(f"the wire to {self.shown} was started before; make another")
        if self._error is not None:
            raise copied(self._error)
        self.loop = asyncio.get_running_loop()
        self._heard, self._ready = heard, ready

    @property
    def alive(self) -> bool:
        """Whether the wire has been started, and neither lost nor closed."""
        return self.loop is not None and self._error is None

    def check(self, unsent: int = 0) -> None:
        """Raise if the wire is lost or closed (W3), or has not been started."""
        if self._error is not None:
            raise copied(self._error, unsent)
        if self.loop is None:
            raise RuntimeError(f"the wire to {self.shown} was not started; await start() first")

    def lose(self, error: WireError) -> None:
        """Note that the wire is lost; only the first error counts. Ends all waiting calls."""
        if self._error is None:
            self._error = error
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            self._waiting.clear()

    def close(self) -> bool:
        """Note that the wire is closed; return whether it was not lost before."""
        was_alive = self._error is None
        self.lose(WireLost(f"the wire to {self.shown} is closed; make another"))
        return was_alive

    async def lost(self) -> WireError:
        """Wait for the loss, and return it."""
        while self._error is None:
            await self.wait(asyncio.get_running_loop().create_future())
        return copied(self._error)

    async def wait(self, future: asyncio.Future[Any]) -> Any:
        """Wait for a future, or for the loss, which gives None."""
        if self._error is not None:
            return None
        self._waiting.add(future)
        try:
            return await future
        finally:
            self._waiting.discard(future)

    async def reply(self, future: asyncio.Future[Any]) -> Any:
        """Wait for a future's result; raise if the wire is lost before."""
        result = await self.wait(future)
        if not future.done() or self._error is not None:
            self.check()
        return result

    def hear(self, topic: bytes, frame: bytes) -> None:
        """Hand a frame to the caller of the wire (W9)."""
        if self._error is None and self._heard is not None:
            self._call(self._heard, topic, frame)

    def tell_ready(self, queue: bytes) -> None:
        """Tell the caller of the wire of a frame in a queue (W13)."""
        if self._error is None and self._ready is not None:
            self._call(self._ready, queue)

    def _call(self, function: Callable[..., None], *arguments: bytes) -> None:
        try:
            function(*arguments)
        except Exception as error:
            assert self.loop is not None
            self.loop.call_exception_handler(
                {"message": f"a callback of the wire to {self.shown} failed", "exception": error}
            )


def copied(error: WireError, unsent: int = 0) -> WireError:
    """Return an error of the same kind and text, to be raised with a traceback of its own."""
    if isinstance(error, WireLost):
        return WireLost(str(error), unsent=unsent)
    return type(error)(str(error))
