"""The least of a WebSocket client, so that the load generator takes little of the machine.

Text frames only, over loopback, to a server that is trusted. A frame is masked with zeros, which
the protocol allows and which leaves the text as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89
_MASKED, _SHORT, _LONG = 0x80, 126, 65536
_NO_MASK = bytes(4)


class Socket(asyncio.Protocol):
    """One connection; calls ``received`` with the bytes of each text frame."""

    def __init__(self, received: Callable[[bytes], None]) -> None:
        self._received = received
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.opened.done():
            head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head:
                self.opened.set_exception(ConnectionError(head.decode(errors="replace")))
                return
            self._buffer[:] = rest
            self.opened.set_result(None)
        self._read_frames()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionError("closed before it was open"))

    def _read_frames(self) -> None:
        buffer, start = self._buffer, 0
        while len(buffer) - start >= 2:
            size, body = buffer[start + 1], start + 2
            if size == _SHORT:
                size, body = int.from_bytes(buffer[body : body + 2], "big"), body + 2
            elif size > _SHORT:
                size, body = int.from_bytes(buffer[body : body + 8], "big"), body + 8
            if len(buffer) < body + size:
                break
            kind = buffer[start]
            if kind == _TEXT:
                self._received(bytes(buffer[body : body + size]))
            elif kind == _PING:
                self._write(0x8A, bytes(buffer[body : body + size]))
            start = body + size
        del buffer[:start]

    def send(self, text: str) -> None:
        """Send a text."""
        self._write(_TEXT, text.encode())

    def close(self) -> None:
        """Say so and close."""
        if self._transport is not None and not self.closed:
            self._write(_CLOSE, b"")
            self._transport.close()

    def _write(self, kind: int, body: bytes) -> None:
        assert self._transport is not None
        size = len(body)
        if size < _SHORT:
            head = bytes((kind, _MASKED | size))
        elif size < _LONG:
            head = bytes((kind, _MASKED | _SHORT)) + size.to_bytes(2, "big")
        else:
            head = bytes((kind, _MASKED | 127)) + size.to_bytes(8, "big")
        self._transport.write(head + _NO_MASK + body)


async def connect(port: int, received: Callable[[bytes], None]) -> Socket:
    """Open a connection to a server here."""
    loop = asyncio.get_running_loop()
    _, socket = await loop.create_connection(lambda: Socket(received), "127.0.0.1", port)
    await socket.opened
    return socket
