"""A proxy between a wire and its server that delays, stops, cuts and garbles what passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

#: What becomes of a piece of a stream: the pieces that pass in its place.
Mangle = Callable[[bytes], Iterable[bytes]]


class Proxy:
    """Passes bytes between clients and a server on a TCP port, until a test orders otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open = asyncio.Event()
        self._open.set()
        #: How many connections clients have ever made.
        self.made = 0
        #: Seconds by which each piece is late.
        self.lag = 0.0
        #: What becomes of pieces on their way, in each direction.
        self.to_server: Mangle | None = None
        self.to_client: Mangle | None = None

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)

    async def close(self) -> None:
        """Take no more connections, and end those that stand."""
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def standing(self) -> int:
        """How many connections of clients stand."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """End all connections at once; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Let nothing pass, and keep all connections."""
        self._open.clear()

    def thaw(self) -> None:
        """Let pass what was held back, and all else."""
        self._open.set()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        # In a task of its own: asyncio complains if the one that it made for us is cancelled.
        connecting = asyncio.create_task(asyncio.open_connection(*self._target))
        self._tasks.add(connecting)
        await asyncio.wait([connecting])
        self._tasks.discard(connecting)
        if connecting.cancelled() or connecting.exception() is not None:
            writer.transport.abort()
            return
        there = connecting.result()
        self._writers |= {writer, there[1]}
        ways = [
            asyncio.create_task(self._pass(reader, there[1], "to_server")),
            asyncio.create_task(self._pass(there[0], writer, "to_client")),
        ]
        self._tasks.update(ways)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ways:
                task.cancel()
                self._tasks.discard(task)
            for each in (writer, there[1]):
                self._writers.discard(each)
                each.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if self.lag:
                    await asyncio.sleep(self.lag)
                await self._open.wait()
                mangle: Mangle | None = getattr(self, way)
                for piece in [data] if mangle is None else mangle(data):
                    writer.write(piece)
                await writer.drain()
        except OSError:
            pass  # The connection was cut.


class OnceMangled:
    """Garbles one piece of a stream, after some bytes have passed: `Mangle`."""

    def __init__(self, kind: str, after: int, cut: Callable[[], None]) -> None:
        self._kind = kind
        self._after = after
        self._cut = cut
        self._held = b""
        #: Whether it has happened.
        self.done = False

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
