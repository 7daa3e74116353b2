"""A small HTTP server for one page: for GET and HEAD of one path, until a signal ends it.

Each connection is for one request. A client gets `PATIENCE` seconds to ask and as long to read; of
more than `MOST` connections the oldest is closed, so that slow clients do not keep others waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import NamedTuple

#: Seconds.
PATIENCE = 10.0
#: Connections that are served at once.
MOST = 64
_LONGEST = 16 * 1024
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class Page(NamedTuple):
    """An answer."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"

    def encoded(self, with_body: bool) -> bytes:
        """Return it as it goes over the wire."""
        body = self.body.encode()
        head = [
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
            *["Allow: GET, HEAD"] * (self.status == 405),
        ]
        return "\r\n".join([*head, "", ""]).encode("ascii") + (body if with_body else b"")


class Ended(NamedTuple):
    """Which signal ended the server."""

    number: int


async def serve(
    host: str,
    port: int,
    path: str,
    page: Callable[[], Awaitable[Page]],
    listening: Callable[[str, int], None],
) -> Ended:
    """Serve one page until SIGINT or SIGTERM. Calls ``listening`` with the address once it does.

    Raises `OSError` if it can't listen there. Call it in the main thread.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Ended] = loop.create_future()
    numbers = (signal.SIGINT, signal.SIGTERM)
    handler = _Handler(path, page)
    server = await asyncio.start_server(handler.connected, host, port, limit=_LONGEST)
    try:
        for number in numbers:
            loop.add_signal_handler(number, _end, ended, number)
        address = server.sockets[0].getsockname()
        listening(address[0], address[1])
        return await ended
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        server.close()
        for each in list(handler.tasks):
            each.cancel()


def _end(ended: asyncio.Future[Ended], number: int) -> None:
    if not ended.done():
        ended.set_result(Ended(number))


class _Handler:
    def __init__(self, path: str, page: Callable[[], Awaitable[Page]]) -> None:
        self._path = path
        self._page = page
        #: One for each connection, the oldest first; with what it writes to.
        self.tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection in a task of its own."""
        task = asyncio.ensure_future(self._serve(reader, writer))
        self.tasks[task] = writer
        task.add_done_callback(lambda done: self.tasks.pop(done, None))
        while len(self.tasks) > MOST:
            # Taken out at once: many may come before a task that is cancelled ends, or begins.
            oldest = next(iter(self.tasks))
            self.tasks.pop(oldest).transport.abort()
            oldest.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError):
                writer.write(await self._answer(reader))
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), PATIENCE)
        finally:
            # What is still unsent is not wanted.
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        except asyncio.LimitOverrunError:
            return Page(400, "the request is too long\n").encoded(True)
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return Page(400, "this is no HTTP request\n").encoded(True)
        method, target = words[0], words[1].split(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return Page(405, "use GET or HEAD\n").encoded(True)
        if target != self._path.encode():
            found = Page(404, f"there is {self._path} alone\n")
        else:
            found = await self._page()
        return found.encoded(method == b"GET")


__all__ = ["Ended", "Page", "serve"]
