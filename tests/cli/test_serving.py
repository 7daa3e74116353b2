"""The HTTP server: what it answers, and clients that are slow, many, or no clients."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable

import pytest

from asgi_ipc.cli import serving
from asgi_ipc.cli.serving import Page, serve
from tests.tools.doubles import eventually

#: Seconds until a test gives up.
ENOUGH = 30.0
Clients = Callable[[int], Awaitable[None]]


async def served(clients: Clients, page: Callable[[], Awaitable[Page]]) -> int:
    """Serve a page to clients, and end it by a signal; return that."""
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = asyncio.ensure_future(
        serve("127.0.0.1", 0, "/page", page, lambda host, port: listening.set_result(port))
    )
    try:
        await asyncio.wait_for(clients(await listening), ENOUGH)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        ended = await asyncio.wait_for(server, ENOUGH)
    return ended.number


async def ask(port: int, request: bytes) -> bytes:
    """Send a request as it is; return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def fine() -> Page:
    return Page(200, "content ä\n")


def test_it_answers_for_one_path_and_refuses_all_else() -> None:
    async def clients(port: int) -> None:
        whole = await ask(port, b"GET /page?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        head, body = whole.split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body.decode() == "content ä\n"
        assert f"Content-Length: {len(body)}\r\n".encode() in head
        assert await ask(port, b"HEAD /page HTTP/1.0\r\n\r\n") == head + b"\r\n\r\n"
        for request, status in (
            (b"GET / HTTP/1.1\r\n\r\n", b"404"),
            (b"GET /pages HTTP/1.1\r\n\r\n", b"404"),
            (b"GET http://x/page HTTP/1.1\r\n\r\n", b"404"),
            (b"POST /page HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
            (b"\xff\x00 \r\n\r\n", b"400"),
            (b"GET /page SSH-2.0\r\n\r\n", b"400"),
            (b"x" * 100_000, b"400"),
        ):
            assert (await ask(port, request)).split(b" ")[1] == status, request
        # A client that goes away in the middle leaves nothing behind.
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /pa")
        writer.close()

    assert asyncio.run(served(clients, fine)) == signal.SIGTERM


def test_slow_clients_and_many_keep_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST", 4)
    monkeypatch.setattr(serving, "PATIENCE", 10 * ENOUGH)

    async def clients(port: int) -> None:
        slow = []
        for _ in range(10):
            slow.append(await asyncio.open_connection("127.0.0.1", port))
            slow[-1][1].write(b"GET /page HTTP/1.1\r\n")
        assert b"content" in await ask(port, b"GET /page HTTP/1.1\r\n\r\n")
        # The oldest were closed.
        with pytest.raises((EOFError, ConnectionError)):
            await slow[0][0].readexactly(1)
        for _, writer in slow:
            writer.close()

    asyncio.run(served(clients, fine))


def test_of_many_clients_that_come_at_once_only_some_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "MOST", 4)
    monkeypatch.setattr(serving, "PATIENCE", 10 * ENOUGH)

    async def clients(port: int) -> None:
        loop = asyncio.get_running_loop()
        socks = [socket.socket() for _ in range(40)]
        for each in socks:
            each.connect(("127.0.0.1", port))  # All before the server takes the first.
            each.setblocking(False)
        ends = [asyncio.ensure_future(loop.sock_recv(each, 1)) for each in socks]
        await eventually(lambda: sum(each.done() for each in ends) >= 36)
        await asyncio.wait(ends, timeout=0.3)
        assert sum(each.done() for each in ends) == 36
        assert await ask(port, b"HEAD /page HTTP/1.0\r\n\r\n")
        for end, each in zip(ends, socks, strict=True):
            end.cancel()
            await asyncio.gather(end, return_exceptions=True)
            each.close()

    asyncio.run(served(clients, fine))


def test_a_client_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 0.05)

    async def clients(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises((EOFError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()

    asyncio.run(served(clients, fine))


def test_requests_wait_for_the_page_together() -> None:
    gate = asyncio.Event()

    async def page() -> Page:
        await gate.wait()
        return Page(503, "no\n")

    async def clients(port: int) -> None:
        asked = [asyncio.ensure_future(ask(port, b"GET /page HTTP/1.1\r\n\r\n")) for _ in range(5)]
        await asyncio.sleep(0)
        gate.set()
        for each in asked:
            assert (await each).startswith(b"HTTP/1.1 503 Service Unavailable")

    asyncio.run(served(clients, page))
