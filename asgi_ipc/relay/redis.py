"""The wire to a Redis or Valkey server: publish and subscribe, and queues as streams.

redis-py makes the two connections: addresses, TLS, greeting, and the parser. Its retries, its
health checks and its reconnecting are not used, since each of them may send a command twice (W3,
W8). A `_Link` has a task that writes and one that reads, so that cancelling a call cannot end a
connection in the middle of a command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

from redis import exceptions as errors
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection

from ..exceptions import WireError, WireLost, WireRefused
from .redis_scripts import CLEAR, DISARM, LENGTH, POP, PUSH
from .settings import COMMON, CREDENTIALS, TLS, Settings, check_frames, check_topic
from .state import Window, WireState, watch
from .wire import Frame, Heard, Pushed, Ready, WireCapabilities

#: The largest frame. Far below the 32 MiB of unread output at which a server drops a subscriber.
FRAME_LIMIT = 16 * 1024 * 1024
#: Topics in one command.
_TOPICS = 256


class RedisWire:
    """Connections to a Redis or Valkey server. See `asgi_ipc.relay.wire.Wire`."""

    capabilities: ClassVar[WireCapabilities] = WireCapabilities(queues=True)

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        schemes = ["redis", "rediss", "valkey", "valkeys", "unix"]
        settings = Settings(url, prefix, schemes)
        takes = {**COMMON, **CREDENTIALS}
        self._has_tls = settings.parts.scheme in ("rediss", "valkeys")
        if self._has_tls:
            takes = {**takes, **TLS}
        given = settings.options(options, takes)
        self._timeout: float = given["timeout"]
        self._connect = _connector(settings, given, self._timeout)
        settings.finish()
        self.frame_limit = FRAME_LIMIT
        self._state = WireState(settings.shown)
        self._names = b"asgi_ipc:%s:" % prefix.encode()
        self._topic_names = self._names + b"t:"
        self._ready_names = self._names + b"r:"
        #: Names this wire among those that wait for a queue.
        self._id = os.urandom(8).hex().encode()
        self._topics: set[bytes] = set()
        self._links: list[_Link] = []
        #: What the replies on the publishing connection are for: bytes of a frame, or a future.
        self._expected: deque[int | asyncio.Future[Any]] = deque()
        self._window = Window(self._state)
        #: The replies that subscriptions wait for: how many, and the future of their caller.
        self._confirming: deque[tuple[int, asyncio.Future[Any]]] = deque()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        """Connect both, and see what the server is (W2)."""
        self._state.begin(heard, ready)
        try:
            await asyncio.wait_for(self._open(), self._timeout)
        except BaseException as error:
            found = error if isinstance(error, WireError) else None
            if isinstance(error, asyncio.TimeoutError):
                hint = "" if self._has_tls else "; if it speaks TLS, write rediss://"
                text = f"no answer within {self._timeout:g} seconds{hint}"
                found = WireLost(self._text(text))
            self._state.lose(found or WireLost(self._text("start() was interrupted")))
            await self.close()
            if found is not None:
                raise found from None
            raise

    async def _open(self) -> None:
        for handle, ping in (
            (self._on_reply, self._ping_publisher),
            (self._on_push, self._ping_subscriber),
        ):
            link = _Link(self._connect(), handle, ping, self._lose, self._text)
            self._links.append(link)
            await link.open()
        server = _pairs(await self._ask(b"HELLO"))
        if server.get(b"mode") == b"cluster":
            raise WireRefused(self._text("it is a node of a cluster; use a server of its own"))
        if server.get(b"role") in (b"replica", b"slave"):
            raise WireRefused(self._text("it is a replica; give the address of its primary"))
        await self._change(b"SUBSCRIBE", [self._ready_names + self._id])
        self._tasks.append(asyncio.create_task(watch(self._links, self._timeout, self._lose_it)))

    async def publish(self, frames: Sequence[Frame]) -> None:
        """Send the frames as fast as the server confirms them (W8)."""
        check_frames(frames, self.frame_limit)
        self._state.check(unsent=len(frames))
        link, sent = self._links[0], 0
        while sent < len(frames):
            await self._window.opening(unsent=len(frames) - sent)
            batch = []
            while sent < len(frames) and self._window.is_open:
                topic, payload = frames[sent]
                batch.append((b"PUBLISH", self._topic_names + topic, payload))
                self._expected.append(len(payload))
                self._window.sent(len(payload))
                sent += 1
            link.send(batch)

    async def subscribe(self, topics: Collection[bytes]) -> None:
        """Hear these too. What is asked for twice is asked for and confirmed twice."""
        for topic in topics:
            check_topic(topic)
        self._state.check()
        self._topics.update(topics)
        await self._change(b"SUBSCRIBE", [self._topic_names + topic for topic in topics])

    async def unsubscribe(self, topics: Collection[bytes]) -> None:
        """Hear these no more, even those that are under way."""
        self._state.check()
        self._topics.difference_update(topics)
        await self._change(b"UNSUBSCRIBE", [self._topic_names + topic for topic in topics])

    async def _change(self, command: bytes, names: list[bytes]) -> None:
        done = None
        for at in range(0, len(names), _TOPICS):
            some = names[at : at + _TOPICS]
            done = asyncio.get_running_loop().create_future()
            self._confirming.append((len(some), done))
            self._links[1].send([(command, *some)])
        if done is not None:
            await self._state.reply(done)

    async def lost(self) -> WireError:
        """Wait until the wire is lost (W3)."""
        return await self._state.lost()

    async def close(self) -> None:
        """End both connections, without waiting for the server (W4)."""
        self._state.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for link in self._links:
            await link.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def push(self, queue: bytes, frame: bytes, lifetime: float, capacity: int) -> Pushed:
        """Put a frame on a queue (W11)."""
        check_frames([Frame(queue, frame)], self.frame_limit)
        milliseconds = b"%d" % max(0, min(int(lifetime * 1000), 1 << 50))
        arguments = frame, milliseconds, b"%d" % capacity, queue, self._ready_names
        try:
            length, refused = await self._script(PUSH, queue, *arguments)
        except _NoRoom:
            return Pushed(await self.length(queue), "no room")
        return Pushed(length, refused.decode() or None)

    async def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        """Take frames off a queue."""
        found: list[bytes] = await self._script(POP, queue, b"%d" % limit, self._id)
        return found

    async def disarm(self, queue: bytes) -> None:
        """Wait for a queue no more."""
        await self._script(DISARM, queue, self._id, queue, self._ready_names)

    async def length(self, queue: bytes) -> int:
        """Count the live frames of a queue."""
        found: int = await self._script(LENGTH, queue)
        return found

    async def clear(self) -> None:
        """Empty all queues of the prefix."""
        await self._ask(b"EVAL", CLEAR, b"1", self._names + b"queues", self._names)

    async def _script(self, script: bytes, queue: bytes, *arguments: bytes) -> Any:
        check_topic(queue)
        keys = [self._names + kind + queue for kind in (b"q:", b"d:", b"a:")]
        keys.append(self._names + b"queues")
        return await self._ask(b"EVAL", script, b"%d" % len(keys), *keys, *arguments)

    async def _ask(self, *command: bytes) -> Any:
        """Send a command on the publishing connection, and return its reply."""
        self._state.check()
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._expected.append(reply)
        self._links[0].send([command])
        result = await self._state.reply(reply)
        if isinstance(result, errors.ResponseError):
            # In a script the words alone tell; redis-py cuts the code off.
            if isinstance(result, errors.OutOfMemoryError) or "> 'maxmemory'" in str(result):
                raise _NoRoom
            raise WireRefused(self._text(f"it answered {command[0].decode()}: {result}"))
        return result

    def _on_reply(self, reply: Any) -> None:
        """Take what the publishing connection has read."""
        expected = self._expected.popleft()  # Raises if nothing was: a server that makes things up.
        if not isinstance(expected, int):
            if not expected.done():
                expected.set_result(reply)
        elif isinstance(reply, errors.ResponseError):
            self._lose(WireRefused(self._text(f"it answered PUBLISH: {reply}")))
        else:
            self._window.confirmed(expected)

    def _on_push(self, reply: Any) -> None:
        """Take what the subscribing connection has read."""
        if isinstance(reply, errors.ResponseError):
            self._lose(WireRefused(self._text(f"it answered a subscription: {reply}")))
        elif reply[0] == b"message":
            _, name, payload = reply
            if name.startswith(self._topic_names):
                topic = name[len(self._topic_names) :]
                if topic in self._topics:
                    self._state.hear(topic, payload)
            else:
                self._state.tell_ready(payload)
        elif reply[0] in (b"subscribe", b"unsubscribe"):
            left, done = self._confirming.popleft()
            if left > 1:
                self._confirming.appendleft((left - 1, done))
            elif not done.done():
                done.set_result(None)

    def _ping_publisher(self) -> None:
        self._expected.append(0)
        self._links[0].send([(b"PING",)])

    def _ping_subscriber(self) -> None:
        self._links[1].send([(b"PING",)])

    def _lose_it(self, what: str) -> None:
        self._lose(WireLost(self._text(what)))

    def _lose(self, error: WireError) -> None:
        self._state.lose(error)
        for link in self._links:
            link.stop()

    def _text(self, what: str) -> str:
        return f"relay {self._state.shown}: {what}"


class _NoRoom(WireRefused):
    """The server has no memory left for a frame. Internal: `RedisWire.push` returns it."""


class _Link:
    """One connection, a task that writes what is put into `send`, and one that reads."""

    def __init__(
        self,
        connection: Any,
        handle: Callable[[Any], None],
        ping: Callable[[], None],
        lose: Callable[[WireError], None],
        text: Callable[[str], str],
    ) -> None:
        self._connection = connection
        self._handle = handle
        self.ping = ping
        self._lose = lose
        self._text = text
        self._transport: Any = None
        self._outgoing: list[tuple[bytes, ...]] = []
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        #: Whether anything was read since the last look.
        self.has_read = True

    async def open(self) -> None:
        """Connect, authenticate and begin to read. Raises `WireError`."""
        try:
            await self._connection.connect()
        except Exception as error:
            raise _meaning(error, self._text, "can't connect") from None
        # redis-py closes a connection only after all that is unsent has been sent.
        self._transport = self._connection._writer.transport
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    def send(self, commands: Sequence[tuple[bytes, ...]]) -> None:
        """Have commands written, in order."""
        self._outgoing.extend(commands)
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                commands, self._outgoing = self._outgoing, []
                packed = self._connection.pack_commands(commands)
                await self._connection.send_packed_command(packed, check_health=False)
        except Exception as error:
            self._lose(WireLost(self._text(f"the connection ended while writing: {error}")))

    async def _read(self) -> None:
        try:
            while True:
                try:
                    # It must not disconnect here: `_write` would then connect again.
                    reply = await self._connection.read_response(disconnect_on_error=False)
                except errors.ResponseError as error:
                    reply = error
                self.has_read = True
                self._handle(reply)
        except errors.InvalidResponse:
            # In the greeting it was a Redis server, so this is the network's doing.
            self._lose(WireLost(self._text("it sent what no Redis server sends")))
        except errors.RedisError as error:
            self._lose(_meaning(error, self._text, "the connection ended"))
        except Exception:
            # Replies that no command asked for, or of a form that no Redis server sends.
            self._lose(WireLost(self._text("it sent what makes no sense as an answer")))

    def stop(self) -> None:
        """End the connection at once, and both tasks."""
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """End it, and wait for its tasks, which wait for nothing."""
        self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._connection.disconnect(nowait=True)


def _connector(
    settings: Settings, given: dict[str, Any], timeout: float
) -> Callable[[], Connection | UnixDomainSocketConnection]:
    """Return what makes a connection that does nothing by itself; note what is wrong."""
    parts = settings.parts
    arguments: dict[str, Any] = {
        "username": settings.one_of("username", settings.username, given["username"]),
        "password": settings.one_of("password", settings.password, given["password"]),
        "db": _database(settings),
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        "retry_on_timeout": False,
        "health_check_interval": 0,
    }
    if arguments["username"] and not arguments["password"]:
        settings.wrong("it names a user without a password; give the option 'password' too")
    if parts.scheme == "unix":
        if not parts.path:
            settings.wrong("it names no socket; write unix:///PATH/OF/SOCKET")
        return lambda: UnixDomainSocketConnection(path=parts.path, **arguments)
    if not parts.hostname and settings.right:
        settings.wrong(f"it names no host; write {parts.scheme}://HOST:6379")
    arguments.update(host=parts.hostname, port=parts.port or 6379 if settings.right else 0)
    if parts.scheme not in ("rediss", "valkeys"):
        return lambda: Connection(**arguments)
    settings.tls(given)  # redis-py makes its own, too late to say what is wrong.
    return lambda: SSLConnection(
        ssl_ca_certs=given["ca_file"] and str(given["ca_file"]),
        ssl_certfile=given["cert_file"] and str(given["cert_file"]),
        ssl_keyfile=given["key_file"] and str(given["key_file"]),
        ssl_check_hostname=given["check_hostname"],
        **arguments,
    )


def _database(settings: Settings) -> int:
    """Return the number of the database, which only queues depend on."""
    parts = settings.parts
    text = "" if parts.scheme == "unix" else parts.path.strip("/")
    for part in filter(None, parts.query.split("&")):
        name, _, value = part.partition("=")
        if name == "db":
            text = value
        else:
            settings.wrong(f"the URL has {name!r} behind its '?'; give it in relay_options")
    if text and not (text.isascii() and text.isdigit() and len(text) < 7):
        # Not shown: if the URL lacks its host, it may be a password.
        settings.wrong("the database is not a number; write it as in redis://HOST:6379/0")
        return 0
    return int(text or 0)


def _pairs(reply: Any) -> dict[Any, Any]:
    """Return a flat list of names and values as a dictionary."""
    return dict(zip(reply[::2], reply[1::2], strict=False)) if isinstance(reply, list) else {}


def _meaning(error: Exception, text: Callable[[str], str], otherwise: str) -> WireError:
    """Return what an error of redis-py means. Its texts have no credentials."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return WireRefused(text(f"its certificate is not accepted: {cause.verify_message}"))
    if isinstance(cause, ssl.SSLError):
        return WireRefused(text(f"TLS failed: {cause.reason}; is it a server with TLS?"))
    if isinstance(error, errors.InvalidResponse):
        return WireRefused(text("it does not answer as a Redis server does"))
    if isinstance(error, (errors.AuthenticationError, errors.AuthorizationError)):
        return WireRefused(text(f"the credentials are missing or refused: {error}"))
    if isinstance(error, errors.ResponseError):
        return WireRefused(text(f"it refuses: {error}"))
    if isinstance(cause, PermissionError):
        return WireRefused(text(f"no permission: {cause.strerror}"))
    return WireLost(text(f"{otherwise}: {error}"))
