"""One wire under test: what makes it, the line to its server, and what it hears."""

from __future__ import annotations

import asyncio
import functools
import secrets
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol
from urllib.parse import urlsplit

from asgi_ipc.conformance.tools import ENOUGH, patient

from asgi_ipc.exceptions import WireLost
from asgi_ipc.relay.memory import MemoryServer
from asgi_ipc.relay.wire import Frame

from .proxy import OnceMangled, Proxy

if TYPE_CHECKING:
    from asgi_ipc.relay.wire import Wire
    from asgi_ipc.relay.wire_choice import WireFactory

    from .servers import Server

_P = ParamSpec("_P")


class Line(Protocol):
    """What stands between a wire and its server."""

    #: The server, as the wire is told of it.
    url: str
    #: The server, around the line.
    direct: str

    @property
    def proxy(self) -> Proxy | None:
        """What can be done to single bytes; None where there are none."""

    async def start(self) -> None:
        """Stand ready."""

    async def close(self) -> None:
        """End everything."""

    def cut(self) -> None:
        """End all connections; new ones succeed."""

    def cut_after(self, count: int) -> None:
        """End all connections once about that many bytes have passed to the server."""

    def freeze(self) -> None:
        """Let nothing pass, and keep all connections."""

    def thaw(self) -> None:
        """Let everything pass again."""

    @property
    def standing(self) -> int:
        """How many connections stand."""


class ProxyLine:
    """A proxy in front of a server on a TCP port."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.proxy: Proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 0)
        self.url: str = url
        self.direct: str = url

    async def start(self) -> None:
        """Listen."""
        await self.proxy.start()
        self.url = at_port(self.direct, self.proxy.port)

    async def close(self) -> None:
        """End everything."""
        await self.proxy.close()

    def cut(self) -> None:
        """End all connections."""
        self.proxy.cut()

    def cut_after(self, count: int) -> None:
        """End all connections in the middle of a piece."""
        self.proxy.to_server = OnceMangled("halve", count, self.proxy.cut_and_heal)

    def freeze(self) -> None:
        """Let nothing pass."""
        self.proxy.freeze()

    def thaw(self) -> None:
        """Let everything pass."""
        self.proxy.thaw()

    @property
    def standing(self) -> int:
        """How many connections stand."""
        return self.proxy.standing


class MemoryLine:
    """A server in this process."""

    proxy = None

    def __init__(self) -> None:
        name = secrets.token_hex(8)
        self.url: str = f"memory://{name}"
        self.direct: str = self.url
        self._server = MemoryServer.named(name)

    async def start(self) -> None:
        """Do nothing: it is there."""

    async def close(self) -> None:
        """End everything."""
        self._server.thaw()
        self._server.cut()

    def cut(self) -> None:
        """End all connections."""
        self._server.cut()

    def cut_after(self, count: int) -> None:
        """End the connection of the wire that publishes, after about so many frames of 10 kB."""
        self._server.cut_after(count // 10_000)

    def freeze(self) -> None:
        """Answer nothing."""
        self._server.freeze()

    def thaw(self) -> None:
        """Answer again."""
        self._server.thaw()

    @property
    def standing(self) -> int:
        """How many connections stand."""
        return self._server.connections


class Listener:
    """A wire that was started, and what it has heard."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.frames: list[tuple[bytes, bytes]] = []
        self.ready: list[bytes] = []

    @property
    def payloads(self) -> list[bytes]:
        """What was heard, whatever the topic."""
        return [payload for _, payload in self.frames]

    def hear(self, topic: bytes, payload: bytes) -> None:
        """Note a frame."""
        self.frames.append((topic, payload))

    async def until(self, payload: bytes) -> list[bytes]:
        """Return all that was heard before a payload, waiting for that; forget both."""
        await eventually(lambda: payload in self.payloads)
        at = self.payloads.index(payload)
        before = self.payloads[:at]
        del self.frames[: at + 1]
        return before


class WireCase:
    """A wire under test, and a prefix that only this test uses."""

    def __init__(
        self, name: str, factory: WireFactory, line: Line, server: Server | None, options: Any
    ) -> None:
        self.name = name
        self.factory = factory
        self.line = line
        #: The server itself, if the suite has started it.
        self.server = server
        self.prefix: str = f"wire-{secrets.token_hex(6)}"
        self._options: dict[str, Any] = options
        self._wires: list[Wire] = []
        #: What went wrong in callbacks of the loop.
        self.complaints: list[dict[str, Any]] = []

    def make(self, prefix: str = "", url: str = "", **options: Any) -> Wire:
        """Make a wire, not started. It is closed after the test."""
        wire = self.factory(
            url or self.line.url, prefix or self.prefix, **{**self._options, **options}
        )
        self._wires.append(wire)
        return wire

    async def listener(
        self, topics: Collection[bytes] = (), prefix: str = "", url: str = "", **options: Any
    ) -> Listener:
        """Make and start a wire that hears these topics.

        With a short timeout it may fail on a busy machine, and is then tried again.
        """
        for attempts_left in range(20 if "timeout" in options else 1)[::-1]:
            listener = Listener(self.make(prefix, url, **options))
            try:
                await listener.wire.start(listener.hear, listener.ready.append)
                if topics:
                    await listener.wire.subscribe(topics)
                break
            except WireLost:
                await listener.wire.close()
                if not attempts_left:
                    raise
        return listener

    async def close(self) -> None:
        """Close all wires, and the line."""
        for wire in self._wires:
            await wire.close()
        await self.line.close()


def at_port(url: str, port: int, user: str = "") -> str:
    """Return the URL of a wire for another port, of this machine, and maybe another user."""
    parts = urlsplit(url)
    user = user or parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{user}{'@' if user else ''}127.0.0.1:{port}").geturl()


async def publish(wire: Wire, topic: bytes, *payloads: bytes) -> None:
    """Publish a batch on one topic."""
    await wire.publish([Frame(topic, payload) for payload in payloads])


async def eventually(condition: Callable[[], Any], seconds: float = ENOUGH) -> None:
    """Wait until something is so; only a failing test waits for all of the time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patient(seconds)
    while not condition():
        assert loop.time() < until, "it has not come about"
        await asyncio.sleep(0.002)


async def within(awaitable: Any, seconds: float = ENOUGH) -> Any:
    """Return what an awaitable gives; fail if it takes for ever."""
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([task], timeout=patient(seconds))
        assert task.done(), "a call must end, with an answer or with the wire's loss (W3)"
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=patient(seconds))  # It may have something to close.


def numbered(count: int, start: int = 0) -> Sequence[bytes]:
    """Return payloads that are all different."""
    return [b"%d" % number for number in range(start, start + count)]


def in_loop(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run an asynchronous test of a ``wires`` case in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        case: Any = kwargs["wires"]

        async def scenario() -> None:
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: case.complaints.append(context)
            )
            await case.line.start()
            try:
                await asyncio.wait_for(test(*args, **kwargs), 120)
            finally:
                await case.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                # Those that were cancelled end within a few turns.
                await asyncio.wait(others, timeout=5)
            left = [task for task in others if not task.done()]
            assert not left, f"tasks left: {left}"

        before = threading.enumerate()
        asyncio.run(scenario())
        threads = [thread for thread in threading.enumerate() if thread not in before]
        assert not threads, f"threads left: {threads}"
        assert not case.complaints, f"the event loop complains: {case.complaints}"

    return run
