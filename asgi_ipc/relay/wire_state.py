"""What all wires need: `WireState`, with the loss of a wire and a watchdog; `Window`, for W8."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from ..exceptions import WireError, WireLost, WireRefused
from .texts import printable
from .wire import WINDOW, Heard, Ready

#: Looks at a connection in each ``timeout``.
LOOKS = 4
#: So many bytes of an answer that is not whole count as a sign of life, between two looks: a large
#: frame may take long, and what trickles is none.
PROGRESS = 64 * 1024
#: Seconds until a host's next address is tried beside those that have not answered.
_NEXT_ADDRESS = 0.25
#: Shorter ones are no secrets, and stand in other words.
_SHORTEST_SECRET = 4
#: How asyncio says that it can't connect.
_CONNECT = re.compile(r"\[Errno (\d+)\] Connect call failed")
#: The longest that is shown of a server's words.
_LONGEST_WORDS = 200


class Connection(Protocol):
    """One of a wire's connections to the server."""

    #: Whether an answer was read since the last look.
    has_read: bool

    def ping(self) -> None:
        """Ask the server for any answer."""

    def abort(self) -> None:
        """End it at once, whatever is unsent. May be called twice."""


class WireState:
    """Whether a wire is alive, the calls that wait for it, and its callbacks. Of one event loop."""

    def __init__(self, shown: str, secrets: Sequence[bytes] = ()) -> None:
        #: The server's URL without credentials, for errors.
        self.shown = shown
        #: What no text may have, if the server should repeat it.
        self._secrets = secrets
        #: They end with the wire.
        self.connections: list[Connection] = []
        #: Whether the server has answered as its kind does, on all connections.
        self.is_open = False
        self._watching: asyncio.Task[None] | None = None
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

    async def open(
        self,
        opening: Coroutine[Any, Any, None],
        timeout: float,
        no_answer: str,
    ) -> None:
        """Wait for the wire to open, and watch its connections from then on (W2, W3).

        ``no_answer`` says what it means if that takes longer.
        """
        try:
            await asyncio.wait_for(opening, timeout)
        except BaseException as error:
            found: WireError | None = None
            if isinstance(error, WireError):
                found = error
            elif isinstance(error, asyncio.TimeoutError):
                found = WireLost(self.text(no_answer))
            elif isinstance(error, OSError):
                found = self._meaning(error)
            self.lose(found or WireLost(self.text("start() was interrupted")))
            if found is not None:
                raise found from None
            raise
        self.is_open = True
        self._watching = asyncio.create_task(self._watch(timeout))

    async def _watch(self, timeout: float) -> None:
        """Ping all connections; lose the wire if one is silent for ``timeout`` (W3).

        It counts looks and not seconds: a process that was stopped has missed looks, and reads what
        has come meanwhile before it looks four times again.
        """
        silent = [0] * len(self.connections)
        while True:
            await asyncio.sleep(timeout / LOOKS)
            for at, connection in enumerate(self.connections):
                silent[at] = 0 if connection.has_read else silent[at] + 1
                connection.has_read = False
                if silent[at] <= 1:  # One in use, too: it may have become one of no use.
                    connection.ping()
                elif silent[at] > LOOKS:
                    text = f"it has not answered for {timeout:g} seconds"
                    self.lose(WireLost(self.text(text)))
                    return

    def text(self, what: str) -> str:
        """Return the text of an error of the wire."""
        return f"relay {self.shown}: {what}"

    def said(self, words: bytes) -> str:
        """Return what a server said, fit to be shown: no secrets, no controls, no length."""
        # Redis repeats the arguments of commands that it does not know, up to some length.
        words = words.split(b", with args beginning with")[0]
        for secret in self._secrets:
            if len(secret) >= _SHORTEST_SECRET:
                words = words.replace(secret, b"***")
        return printable(words.decode("latin-1"), _LONGEST_WORDS)

    def _meaning(self, error: OSError) -> WireError:
        """Return what an error of the network means."""
        ssl = sys.modules.get("ssl")  # A Python may lack it; then no error is one of TLS.
        if ssl is not None and isinstance(error, ssl.SSLCertVerificationError):
            reason = error.verify_message
            return WireRefused(self.text(f"its certificate is not accepted: {reason}"))
        if ssl is not None and isinstance(error, ssl.SSLError):
            reason = error.reason
            return WireRefused(self.text(f"TLS failed: {reason}; is it a server with TLS?"))
        if isinstance(error, PermissionError):
            return WireRefused(self.text(f"no permission: {error.strerror}"))
        if error.errno == errno.EMFILE:
            return WireLost(
                self.text(
                    "can't connect: this process has too many open files; raise its limit (ulimit"
                    " -n), or close some"
                )
            )
        # asyncio names the number of an error alone.
        words = _CONNECT.sub(lambda found: os.strerror(int(found[1])), str(error))
        return WireLost(self.text(f"can't connect: {words}"))

    @property
    def alive(self) -> bool:
        """Whether the wire has been started, and neither lost nor closed."""
        return self.loop is not None and self._error is None

    @property
    def error(self) -> WireError:
        """Why the wire is lost, to be raised."""
        assert self._error is not None
        return copied(self._error)

    def check(self, unsent: int = 0) -> None:
        """Raise if the wire is lost or closed (W3), or has not been started."""
        if self._error is not None:
            raise copied(self._error, unsent)
        if self.loop is None:
            raise RuntimeError(f"the wire to {self.shown} was not started; await start() first")

    def lose(self, error: WireError) -> None:
        """Lose the wire: end its connections and all waiting calls. Only the first error counts."""
        if self._error is None:
            self._error = error
            for connection in self.connections:
                connection.abort()
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            self._waiting.clear()

    async def close(self) -> None:
        """Lose the wire if it was not lost before, without waiting for the server (W4)."""
        self.lose(WireLost(f"the wire to {self.shown} is closed; make another"))
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await asyncio.sleep(0)  # The transports close their sockets in the loop's next turn.

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

    @property
    def tells_ready(self) -> bool:
        """Whether the caller of the wire wants to know of frames in queues."""
        return self._ready is not None

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


async def connect(
    protocol: Callable[[], asyncio.Protocol], host: str, port: int, **options: Any
) -> None:
    """Connect to whichever address of a host answers first. Raises `OSError`.

    One that swallows all, as where IPv6 leads nowhere, must not use up the time for the others.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):  # Those of others know no such option.
        options["happy_eyeballs_delay"] = _NEXT_ADDRESS
    await loop.create_connection(protocol, host, port, **options)


def copied(error: WireError, unsent: int = 0) -> WireError:
    """Return an error of the same kind and text, to be raised with a traceback of its own."""
    if isinstance(error, WireLost):
        return WireLost(str(error), unsent=unsent)
    return type(error)(str(error))


class Window:
    """How many bytes were sent and are not confirmed, and the calls that wait for less (W8)."""

    def __init__(self, state: WireState) -> None:
        self._state = state
        self._bytes = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_open(self) -> bool:
        """Whether more may be sent."""
        return self._bytes <= WINDOW

    def sent(self, count: int) -> None:
        """Note bytes that were sent."""
        self._bytes += count

    def confirmed(self, count: int) -> None:
        """Note bytes that the server has confirmed."""
        self._bytes -= count
        if self._waiting and self.is_open:
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            self._waiting.clear()

    async def opening(self, unsent: int) -> None:
        """Wait until more may be sent. Raises if the wire is lost before."""
        while not self.is_open:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await self._state.wait(future)
            self._state.check(unsent)
