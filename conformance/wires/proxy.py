"""A proxy between a client and its server that delays, stops, cuts and garbles what passes.

Tests of wires run it in their event loop. Tests of engines, which block, run it in a process of its
own: `ProxyProcess`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from asgi_ipc.conformance.tools import Port

#: What becomes of a piece of a stream: the pieces that pass in its place.
Mangle = Callable[[bytes], Iterable[bytes]]


class Proxy:
    """Passes bytes between clients and a server on a TCP port, until a test orders otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        #: Both ends of each connection that stands, by its number: the first one made is 1.
        self._ends: dict[int, tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._late = 0.0
        self._whole = asyncio.Event()
        self._whole.set()
        self._kept: Port | None = None
        #: How many connections clients have ever made.
        self.made: int = 0
        #: Seconds by which each piece is late.
        self.lag: float = 0.0
        #: Connections, by their numbers, on which nothing more passes to the client.
        self.silent: set[int] = set()
        #: What becomes of pieces on their way, in each direction.
        self.to_server: Mangle | None = None
        self.to_client: Mangle | None = None

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        assert self._kept is not None
        number: int = self._kept.number
        return number

    async def start(self) -> None:
        """Take connections."""
        self._kept = Port()
        await self.come_back()

    async def go_away(self) -> None:
        """End all connections, and refuse new ones until `come_back`."""
        if self._server is not None:
            self._server.close()
        self.cut()

    async def come_back(self) -> None:
        """Take connections again, on the same port."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Take no more connections, and end those that stand."""
        await self.go_away()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._kept is not None:
            self._kept.close()

    @property
    def standing(self) -> int:
        """How many connections of clients stand."""
        return len(self._ends)

    def cut(self, number: int | None = None) -> None:
        """End all connections at once, or one; new ones are taken."""
        for at, ends in self._ends.items():
            if number in (None, at):
                for end in ends:
                    end.transport.abort()

    def heal(self) -> None:
        """Garble nothing any more."""
        self.to_server = self.to_client = None
        self._whole.set()

    def cut_and_heal(self) -> None:
        """End all connections; new ones are whole."""
        self.heal()
        self.cut()

    def freeze(self) -> None:
        """Let nothing pass, no end of a connection either, and keep all connections."""
        self._open.clear()

    def thaw(self, late: float = 0.0) -> None:
        """Let pass what was held back, ``late`` seconds after what comes now."""
        self._late = late
        self._open.set()

    def swallow(self) -> None:
        """Let nothing pass until `heal`, as `freeze`, and keep nothing of it."""
        self.to_server = self.to_client = lambda data: []
        self._whole.clear()

    def silence(self) -> None:
        """Let nothing more pass to the clients of the connections that stand, nor end these."""
        self.silent.update(self._ends)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        number = self.made
        # In a task of its own: asyncio complains if the one that it made for us is cancelled.
        connecting = asyncio.create_task(self._connect())
        self._tasks.add(connecting)
        await asyncio.wait([connecting])
        self._tasks.discard(connecting)
        if connecting.cancelled() or connecting.exception() is not None:
            writer.transport.abort()
            return
        there = connecting.result()
        self._ends[number] = writer, there[1]
        ways = [
            asyncio.create_task(self._pass(reader, there[1], "to_server", number)),
            asyncio.create_task(self._pass(there[0], writer, "to_client", number)),
        ]
        self._tasks.update(ways)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ways:
                task.cancel()
                self._tasks.discard(task)
            for end in self._ends.pop(number):
                end.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self._open.wait()
        return await asyncio.open_connection(*self._target)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, number: int
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if self.lag:
                    await asyncio.sleep(self.lag)
                await self._passage()
                if way == "to_client" and number in self.silent:
                    continue
                mangle: Mangle | None = getattr(self, way)
                for piece in [data] if mangle is None else mangle(data):
                    writer.write(piece)
                await writer.drain()
        except OSError:
            pass  # The connection was cut.
        await self._passage()
        await self._whole.wait()

    async def _passage(self) -> None:
        """Wait while nothing passes."""
        if not self._open.is_set():
            await self._open.wait()
            await asyncio.sleep(self._late)


class OnceMangled:
    """Garbles one piece of a stream, after some bytes have passed: `Mangle`."""

    def __init__(self, kind: str, after: int, cut: Callable[[], None]) -> None:
        self._kind = kind
        self._after = after
        self._cut = cut
        self._held = b""
        #: Whether it has happened.
        self.done: bool = False

    def __call__(self, data: bytes) -> Iterable[bytes]:
        """Pass the piece on, garbled if its turn has come."""
        if self.done:
            return [] if self._kind == "halve" else [data]
        if self._after >= len(data):
            self._after -= len(data)
            return [data]
        at, self._after = self._after, 0
        if self._kind == "reorder" and not self._held:
            self._held = data
            return []
        self.done = True
        if self._kind == "reorder":
            return [data, self._held]
        if self._kind == "drop":
            return [data[:at] + data[at + 5 :]]
        if self._kind == "duplicate":
            return [data[:at], data[max(0, at - 7) :]]
        # Half of it arrives, and then the connection ends.
        asyncio.get_running_loop().call_soon(self._cut)
        return [data[: at + 1]]


class ProxyProcess:
    """A proxy in a process of its own, for a test that blocks."""

    def __init__(self, server: str) -> None:
        #: Where the server itself is, as HOST:PORT.
        self.server: str = server
        host, _, port = server.rpartition(":")
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, host or "127.0.0.1", port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        #: Where clients find it, as HOST:PORT.
        self.address: str = f"127.0.0.1:{self._said()}"

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def order(self, *words: str) -> None:
        """Have it do something: ``cut``, ``freeze``, ``thaw LATE``, ``swallow``, ``silence``,
        ``away``, ``back``, ``heal``, ``cut_and_heal`` or ``garble KIND AFTER WAY`` (`OnceMangled`).
        Returns when it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        said = self._said()
        assert said == "done", said

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


async def _obey(host: str, port: int) -> None:
    proxy = Proxy(host, port)
    await proxy.start()
    print(proxy.port, flush=True)  # noqa: T201
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word, *rest = line.split()
        if word == "garble":
            kind, after, way = rest
            setattr(proxy, way, OnceMangled(kind, int(after), proxy.cut_and_heal))
        elif word == "away":
            await proxy.go_away()
        elif word == "back":
            await proxy.come_back()
        else:
            getattr(proxy, word)(*map(float, rest))
        print("done", flush=True)  # noqa: T201
    await proxy.close()


def main() -> None:
    """Run a proxy that obeys its input."""
    asyncio.run(_obey(sys.argv[1], int(sys.argv[2])))
