"""The wire to a NATS server: credentials, TLS, queues that it has not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from asgi_ipc.conformance.wires.servers import Nats

from asgi_ipc.exceptions import OptionError, WireError, WireLost, WireRefused
from asgi_ipc.relay.wire import Frame
from asgi_ipc.relay.wire_choice import open_wire
from tests.relay.conftest import PASSWORD
from tests.tools.certificates import Files
from tests.tools.machines import eventually
from tests.tools.wires import error_of, in_loop, started, works


@in_loop
async def test_a_user_comes_from_the_url_or_from_options(nats: Nats) -> None:
    await works(nats.url, username="us/er", password=PASSWORD)
    await works(f"nats://us%2Fer:{quote(PASSWORD, safe='')}@127.0.0.1:{nats.port}")


@in_loop
async def test_credentials_that_are_refused_are_told_and_not_shown(nats: Nats) -> None:
    for options in ({}, {"username": "n0body", "password": "wr0ng"}, {"token": "wr0ng"}):
        error = await error_of(nats.url, **options)
        assert isinstance(error, WireRefused), error
        assert "Authorization Violation" in str(error)
        assert "wr0ng" not in str(error)
        assert "n0body" not in str(error)


@in_loop
async def test_tls_needs_the_right_authority_and_the_right_name(
    nats_with_tls: Nats, files: Files
) -> None:
    url, token = nats_with_tls.url, PASSWORD
    await works(url, ca_file=files.ca, token=token)
    there = url.replace("127.0.0.1", "localhost")
    await works(there, ca_file=files.ca, check_hostname=False, token=token)
    for url_of, ca in ((url, files.other_ca), (there, files.ca)):
        error = await error_of(url_of, ca_file=ca, token=token)
        assert isinstance(error, WireRefused), error
        assert "its certificate is not accepted: " in str(error)


@in_loop
async def test_a_wire_and_a_server_of_which_one_alone_has_tls_say_so(
    nats_with_tls: Nats, nats: Nats, files: Files
) -> None:
    error = await error_of(nats_with_tls.url.replace("tls", "nats"))
    assert "it requires TLS; write tls:// instead of nats://" in str(error)
    error = await error_of(nats.url.replace("nats", "tls"), ca_file=files.ca)
    assert "it has no TLS; write nats://" in str(error)


@contextlib.asynccontextmanager
async def saying(words: bytes) -> AsyncIterator[int]:
    """A server that says this to each client, and then only listens; its port."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        with contextlib.suppress(OSError):
            while await reader.read(1000):
                pass
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    "info", [b"INFO {}\r\nINFO 7\r\n", b'INFO {"max_payload": "x"}\r\nPONG\r\n', b"INFO []\r\n"]
)
@in_loop
async def test_a_greeting_that_makes_no_sense_is_refused(info: bytes) -> None:
    async with saying(info) as port:
        assert isinstance(await error_of(f"nats://127.0.0.1:{port}"), WireError)


@pytest.mark.parametrize("more", [b"MSG x 1 1000\r\n", b"MSG x 1 1000\r\nforged", b"-E", b"P"])
@in_loop
async def test_nothing_that_came_before_tls_is_read_with_what_comes_encrypted(more: bytes) -> None:
    async with saying(b'INFO {"tls_required": true}\r\n' + more) as port:
        error = await error_of(f"tls://127.0.0.1:{port}", timeout=2.0)
        assert isinstance(error, WireRefused)
        assert "more than its greeting before TLS" in str(error)


@contextlib.asynccontextmanager
async def greeting(
    connections: list[asyncio.StreamWriter],
    more: bytes = b"",
    begin: asyncio.Event | None = None,
) -> AsyncIterator[str]:
    """A server that takes everybody, and says more than it should, from then on; its URL."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.write(b"INFO {}\r\n")
        with contextlib.suppress(OSError):
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
            if begin is not None:
                await begin.wait()
            while more:
                writer.write(more)
                await writer.drain()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for each in connections:
            each.transport.abort()


@in_loop
async def test_a_connection_that_is_made_when_the_other_has_ended_is_ended_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W2."""
    loop: Any = asyncio.get_running_loop()
    connect, ends = loop.sock_connect, [False, True]
    connections: list[asyncio.StreamWriter] = []

    async def connect_slowly(sock: socket.socket, address: object) -> None:
        if ends.pop(0):
            connections[0].transport.abort()
            await asyncio.sleep(0.1)
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", connect_slowly)
    async with greeting(connections) as url:
        assert isinstance(await error_of(url), WireLost)
        assert not ends
        await eventually(lambda: len(connections) == 2)
        closed = asyncio.ensure_future(connections[1].wait_closed())
        await asyncio.wait([closed], timeout=10)
        assert closed.done()
        with contextlib.suppress(ConnectionError):
            closed.result()


@in_loop
async def test_a_server_that_pings_without_end_and_reads_no_answer_takes_no_memory() -> None:
    begin = asyncio.Event()
    async with greeting([], b"PING\r\n" * 10_000, begin) as url, started(url) as wire:
        for each in wire._connections:  # type: ignore[attr-defined]
            link = each._transport.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        begin.set()
        error = await wire.lost()
        assert "what makes no sense from a NATS server" in str(error)


@in_loop
async def test_a_server_may_ping_as_often_as_it_reads_the_answers(nats: Nats) -> None:
    async with started(nats.url, username="us/er", password=PASSWORD) as wire:
        connection = wire._connections[1]  # type: ignore[attr-defined]
        for _ in range(1000):
            connection.data_received(b"PING\r\n")
            await asyncio.sleep(0)
        await wire.subscribe([b"t"])


@in_loop
async def test_shared_queues_are_refused_with_the_remedy(nats: Nats) -> None:
    async with started(nats.url, username="us/er", password=PASSWORD) as wire:
        await wire.clear()
        with pytest.raises(WireRefused, match="remove relay_channels, or use a Redis or Valkey"):
            await wire.push(b"q", b"", 1, 1)
        assert not wire.capabilities.queues


@in_loop
async def test_what_a_user_may_not_publish_is_refused(nats: Nats, tmp_path: object) -> None:
    config = nats.folder / "limited.conf"
    config.write_text(
        'authorization { users = [{user: "limited", password: "p", permissions: {publish: "no"}}] }'
    )
    server = Nats("--config", str(config))
    try:
        async with started(server.url, username="limited", password="p") as wire:
            await wire.publish([Frame(b"t", b"")])
            error = await wire.lost()
            assert isinstance(error, WireRefused)
            assert "Permissions Violation for Publish" in str(error)
    finally:
        server.end()


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("nats://", {}, "it names no host; write nats://HOST:4222"),
        ("nats://h/x", {}, "the URL has something behind its port"),
        ("nats://u:p@h", {"token": "t"}, "a token and a user or password"),
        ("nats://t@h", {"token": "t"}, "the URL and the option 'token' both give one"),
        ("nats://h", {"username": "u"}, "a user or a password alone"),
        ("nats://h1,h2", {}, "several servers; name one server"),
        ("nats://h1:1,nats://h2:2", {}, "several servers; name one server"),
        ("nats://", {"timeout": "x"}, "it names no host"),
        ("nats://", {"timeout": "x"}, "relay_options['timeout'] is 'x'; it must be"),
        ("nats://h", {"ca_file": "/etc/passwd"}, "there is no option 'ca_file'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    url: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(OptionError) as caught:
        open_wire(url, "tests", options)
    assert words in str(caught.value)
