"""The wire to a NATS server: core publish and subscribe.

It speaks the client protocol itself, a dozen kinds of lines, and not through nats-py. nats-py keeps
order within a subscription only (W6 asks for more), sends the ping of a ``flush`` ahead of the
subscriptions that it should confirm (W7), and drops messages that its own queues have no room for.

A PONG confirms all that was sent before its PING: a subscription, or published frames.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..exceptions import WireError, WireLost, WireRefused
from .wire import WINDOW, Frame, Heard, Pushed, Ready, WireCapabilities
from .wire_settings import (
    COMMON,
    CREDENTIALS,
    TLS,
    Option,
    Settings,
    check_frames,
    check_topic,
    text,
)
from .wire_state import PROGRESS, Window, WireState, connect

if TYPE_CHECKING:
    import ssl

#: The largest frame, and the smallest limit of a server with which a relay can work.
FRAME_LIMIT, SMALLEST_LIMIT = 16 * 1024 * 1024, 1024
#: The longest line of a server; INFO may list hundreds of addresses.
_MAX_LINE = 1 << 20
#: The longest word of a message's line: subjects are shorter, and so are numbers.
_LONGEST_WORD = 4096
#: The largest header of a message that another program publishes.
_MAX_HEADER = 1 << 16
#: Pings of a server that reads nothing; it sends one in two minutes.
_MOST_PINGS = 100
#: Errors of the server that a person must mend.
_REFUSALS = re.compile(rb"authori[sz]ation|authentication|permissions|tls required", re.I)


class NatsWire:
    """Connections to a NATS server. See `asgi_ipc.relay.wire.Wire`."""

    capabilities: ClassVar[WireCapabilities] = WireCapabilities(queues=False)
    no_queues: ClassVar[str] = (
        "a NATS server can't share channels between machines, as it keeps no lifetime and no"
        " capacity for each queue; remove relay_channels, or use a Redis or Valkey server"
    )

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        settings = Settings(url, prefix, ["nats", "tls"])
        takes = {**COMMON, **CREDENTIALS, "token": Option(None, text, secret=True)}
        self._tls: ssl.SSLContext | None = None
        if settings.parts.scheme == "tls":
            given = settings.options(options, {**takes, **TLS})
            self._tls = settings.tls(given)
        else:
            given = settings.options(options, takes)
        self._timeout: float = given["timeout"]
        self._login = _login(settings, given)
        if settings.right and not settings.parts.hostname:
            settings.wrong(f"it names no host; write {settings.parts.scheme}://HOST:4222")
        if settings.right and (settings.parts.path.strip("/") or settings.parts.query):
            settings.wrong("the URL has something behind its port; remove that")
        settings.finish()
        self._host, self._port = settings.parts.hostname or "", settings.parts.port or 4222
        self._name = f"asgi_ipc {prefix}"
        self._subjects = b"asgi_ipc.%s.t." % prefix.replace(".", "%").encode()
        self.frame_limit = 0
        secrets = [each.encode() for each in self._login.values()]
        self._state = WireState(settings.shown, secrets)
        self._window = Window(self._state)
        self._connections: list[_Connection] = []
        #: The numbers of subscriptions by topic, and the topics by these numbers.
        self._numbers: dict[bytes, int] = {}
        self._topics: dict[int, bytes] = {}
        self._last_number = 0
        #: Published bytes that no ping confirms yet, and pings under way that confirm some.
        self._unpinged = 0
        self._confirming = 0

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        """Connect both (W2). A wire without queues never calls ``ready``."""
        self._state.begin(heard, ready)
        no_answer = f"no greeting within {self._timeout:g} seconds; is it a NATS server?"
        try:
            await self._state.open(self._open(), self._timeout, no_answer)
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        for _ in range(2):
            connection = _Connection(self._on_message, self._state)
            self._connections.append(connection)
            self._state.connections.append(connection)
            await connect(lambda: connection, self._host, self._port)  # noqa: B023
            info = await self._state.reply(connection.info)
            if self._tls is not None:
                if not (info.get("tls_required") or info.get("tls_available")):
                    raise WireRefused(
                        self._state.text("it has no TLS; write nats:// or switch TLS on")
                    )
                await connection.encrypt(self._tls, self._host)
            elif info.get("tls_required"):
                raise WireRefused(
                    self._state.text("it requires TLS; write tls:// instead of nats://")
                )
            connection.send(b"CONNECT %s\r\n" % self._greeting())
            pong = asyncio.get_running_loop().create_future()
            connection.ping(pong)
            await self._state.reply(pong)
            connection.max_payload = self.frame_limit = self._largest(info)

    def _largest(self, info: dict[str, Any]) -> int:
        """Return the largest message that the server takes. Raises `WireRefused`."""
        given = info.get("max_payload", 1 << 20)
        if not isinstance(given, int) or given < SMALLEST_LIMIT:
            raise WireRefused(
                self._state.text(
                    f"its max_payload is {self._state.said(repr(given).encode())}; a relay needs"
                    f" {SMALLEST_LIMIT} bytes or more"
                )
            )
        return min(given, FRAME_LIMIT)

    def _greeting(self) -> bytes:
        words = {
            "verbose": False,
            "pedantic": False,
            "echo": True,
            "headers": True,
            "lang": "python",
            "version": "asgi_ipc",
            "name": self._name,
            "protocol": 1,
            **self._login,
        }
        return json.dumps(words).encode()

    async def publish(self, frames: Sequence[Frame]) -> None:
        """Send the frames as fast as the server confirms them (W8)."""
        self._state.check(unsent=len(frames))
        check_frames(frames, self.frame_limit)
        sent = 0
        while sent < len(frames):
            await self._window.opening(unsent=len(frames) - sent)
            lines: list[bytes] = []
            while sent < len(frames) and self._window.is_open:
                topic, payload = frames[sent]
                subject = self._subjects + topic.hex().encode()
                lines += (b"PUB %s %d\r\n" % (subject, len(payload)), payload, b"\r\n")
                self._window.sent(len(payload))
                self._unpinged += len(payload)
                sent += 1
            self._connections[0].send(b"".join(lines))
            if not self._confirming or self._unpinged > WINDOW // 4:
                self._confirm()

    def _confirm(self) -> None:
        """Have the server confirm what was published so far."""
        count, self._unpinged = self._unpinged, 0
        self._confirming += 1

        def confirmed(_: asyncio.Future[None]) -> None:
            self._confirming -= 1
            self._window.confirmed(count)
            if self._unpinged and not self._confirming and self._state.alive:
                self._confirm()

        pong = asyncio.get_running_loop().create_future()
        pong.add_done_callback(confirmed)
        self._connections[0].ping(pong)

    async def subscribe(self, topics: Collection[bytes]) -> None:
        """Hear these too."""
        for topic in topics:
            check_topic(topic)
        self._state.check()
        lines: list[bytes] = []
        for topic in topics:
            if topic not in self._numbers:
                self._last_number += 1
                self._numbers[topic], self._topics[self._last_number] = self._last_number, topic
                subject = self._subjects + topic.hex().encode()
                lines.append(b"SUB %s %d\r\n" % (subject, self._last_number))
        await self._confirmed(lines)

    async def unsubscribe(self, topics: Collection[bytes]) -> None:
        """Hear these no more, even those that are under way."""
        self._state.check()
        lines: list[bytes] = []
        for topic in topics:
            number = self._numbers.pop(topic, 0)
            if number:
                del self._topics[number]
                lines.append(b"UNSUB %d\r\n" % number)
        await self._confirmed(lines)

    async def _confirmed(self, lines: list[bytes]) -> None:
        pong = asyncio.get_running_loop().create_future()
        self._connections[1].send(b"".join(lines))
        self._connections[1].ping(pong)
        await self._state.reply(pong)

    async def lost(self) -> WireError:
        """Wait until the wire is lost (W3)."""
        return await self._state.lost()

    async def close(self) -> None:
        """End both connections, without waiting for the server (W4)."""
        await self._state.close()

    async def push(self, queue: bytes, frame: bytes, lifetime: float, capacity: int) -> Pushed:
        """Raise: see `no_queues`."""
        raise WireRefused(self._state.text(self.no_queues))

    async def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        """Raise: see `no_queues`."""
        raise WireRefused(self._state.text(self.no_queues))

    async def disarm(self, queue: bytes) -> None:
        """Raise: see `no_queues`."""
        raise WireRefused(self._state.text(self.no_queues))

    async def length(self, queue: bytes) -> int:
        """Raise: see `no_queues`."""
        raise WireRefused(self._state.text(self.no_queues))

    async def clear(self) -> None:
        """Do nothing: there are no queues."""

    def _on_message(self, number: int, payload: bytes) -> None:
        topic = self._topics.get(number)
        if topic is not None:
            self._state.hear(topic, payload)


class _Connection(asyncio.Protocol):
    """One connection, which reads lines and messages as they come."""

    def __init__(self, on_message: Callable[[int, bytes], None], state: WireState) -> None:
        self._on_message = on_message
        self._state = state
        self._transport: Any = None
        self._buffer = bytearray()
        #: The message whose bytes are awaited: its subscription, header bytes, all bytes.
        self._message: tuple[int, int, int] | None = None
        self._pings: deque[asyncio.Future[None] | None] = deque()
        self.info: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        #: The largest message, which the server announces.
        self.max_payload = 1 << 20
        #: Whether an answer was read since the last look, or much of one.
        self.has_read = True
        #: Bytes that came since then.
        self._unfinished = 0
        #: Pings of the server since it was last known to read what is written.
        self._unread_pongs = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = transport
        if not self._state.alive:  # The wire was lost or closed meanwhile.
            self.abort()

    async def encrypt(self, context: ssl.SSLContext, host: str) -> None:
        """Go on with TLS. Raises `WireRefused`."""
        if self._buffer or self._message is not None:
            # Anybody on the way may have put it there, to be read as if it had come encrypted.
            raise WireRefused(self._state.text("it sent more than its greeting before TLS began"))
        loop = asyncio.get_running_loop()
        self._transport = await loop.start_tls(self._transport, self, context, server_hostname=host)

    def send(self, data: bytes) -> None:
        """Write, in order; the caller bounds how much is under way."""
        if data:
            self._transport.write(data)

    def ping(self, pong: asyncio.Future[None] | None = None) -> None:
        """Have the server answer, and then set the future."""
        self._pings.append(pong)
        self._transport.write(b"PING\r\n")

    def abort(self) -> None:
        """End it at once, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()

    def _lose(self, kind: type[WireError], what: str) -> None:
        self._state.lose(kind(self._state.text(what)))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that it is gone."""
        self._lose(WireLost, f"the connection ended: {error or 'the server closed it'}")

    def data_received(self, data: bytes) -> None:
        """Take lines and messages; anything else ends the connection."""
        self._unfinished += len(data)
        if self._unfinished >= PROGRESS:
            self.has_read, self._unfinished = True, 0
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while True:
                if self._message is not None:
                    number, header, size = self._message
                    end = at + size
                    if len(buffer) < end + 2:
                        break
                    if buffer[end : end + 2] != b"\r\n":
                        raise ValueError("no end of message")
                    payload, at, self._message = bytes(buffer[at + header : end]), end + 2, None
                    self._on_message(number, payload)
                else:
                    end = buffer.find(b"\r\n", at, at + _MAX_LINE)
                    if end < 0:
                        if len(buffer) - at >= _MAX_LINE:
                            raise ValueError("no end of line")
                        break
                    line, at = bytes(buffer[at:end]), end + 2
                    self._take(line)
                    self.has_read = True
        except Exception:
            # Of no form that a NATS server sends. The words of the error are of no use.
            kind = WireLost if self.info.done() else WireRefused
            self._lose(kind, "it sent what makes no sense from a NATS server")
            buffer.clear()
            return
        del buffer[:at]

    def _take(self, line: bytes) -> None:
        verb, _, rest = line.partition(b" ")
        verb = verb.upper()
        if verb in (b"MSG", b"HMSG"):
            words = rest.split()
            if max(map(len, words)) > _LONGEST_WORD:
                raise ValueError("a word that can't be")
            size = int(words[-1])
            header = int(words[-2]) if verb == b"HMSG" else 0
            if not 0 <= header <= size <= self.max_payload + _MAX_HEADER:
                raise ValueError("a size that can't be")
            self._message = int(words[1]), header, size
        elif verb == b"PING":
            is_behind = self._transport.get_write_buffer_size() > 0
            self._unread_pongs = self._unread_pongs + 1 if is_behind else 0
            if self._unread_pongs > _MOST_PINGS:
                raise ValueError("it asks, and does not read the answers")
            self._transport.write(b"PONG\r\n")
        elif verb == b"PONG":
            pong, self._unread_pongs = self._pings.popleft(), 0
            if pong is not None and not pong.done():
                pong.set_result(None)
        elif verb == b"INFO":
            info = json.loads(rest)
            if not isinstance(info, dict):
                raise ValueError("no object")
            if not self.info.done():
                self.info.set_result(info)
        elif verb == b"-ERR":
            kind = WireRefused if _REFUSALS.search(rest) else WireLost
            said = self._state.said(rest.strip(b" '"))
            self._lose(kind, f"it answered: {said}")
        elif verb != b"+OK":
            raise ValueError("no such verb")


def _login(settings: Settings, given: dict[str, Any]) -> dict[str, str]:
    """Return how the greeting names the user; note what is wrong."""
    username, password, token = given["username"], given["password"], given["token"]
    if settings.password is None and settings.username is not None:
        token = settings.one_of("token", settings.username, token)  # nats://TOKEN@HOST
    else:
        username = settings.one_of("username", settings.username, username)
        password = settings.one_of("password", settings.password, password)
    if token and (username or password):
        settings.wrong("it has a token and a user or password; give either the one or the other")
    if bool(username) != bool(password):
        settings.wrong("it has a user or a password alone; give both, or a token")
    found = {"user": username, "pass": password, "auth_token": token}
    return {name: value for name, value in found.items() if value}
