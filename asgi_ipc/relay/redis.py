"""The wire to a Redis or Valkey server: publish and subscribe, and queues as streams.

redis-py makes the two connections: addresses, TLS and greeting; hiredis reads the replies. redis-py
retries, checks health and connects again, and each of these may send a command twice (W3, W8): a
`_Link` takes its transport over, writes whole commands, and so no call that is cancelled can end a
connection in the middle of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

import hiredis
from redis import exceptions as errors
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection

from ..exceptions import WireError, WireLost, WireRefused
from .redis_scripts import CLEAR, DISARM, LENGTH, POP, PUSH
from .settings import COMMON, CREDENTIALS, TLS, Settings, check_frames, check_topic
from .state import Window, WireState
from .wire import WINDOW, Frame, Heard, Pushed, Ready, WireCapabilities

#: The largest frame. Far below the 32 MiB of unread output at which a server drops a subscriber.
FRAME_LIMIT = 16 * 1024 * 1024
#: The longest reply: some frames of a queue, see `redis_scripts.POP`.
_LONGEST_REPLY = 4 * FRAME_LIMIT
#: Has the server not answer the next command.
_SKIP = (b"CLIENT", b"REPLY", b"SKIP")
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
        #: Whether the server lets commands go without a reply; topics that it lets this user
        #: publish on; published bytes which no reply that is expected confirms.
        self._can_skip, self._unasked = False, 0
        self._published: set[bytes] = set()
        #: The replies that subscriptions wait for: how many, and the future of their caller.
        self._confirming: deque[tuple[int, asyncio.Future[Any]]] = deque()

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        """Connect both, and see what the server is (W2)."""
        self._state.begin(heard, ready)
        hint = "" if self._has_tls else "; if it speaks TLS, write rediss://"
        no_answer = f"no answer within {self._timeout:g} seconds{hint}"
        try:
            await self._state.open(self._open(), self._timeout, no_answer, self._meaning)
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        for handle, ping in (
            (self._on_reply, self._ping_publisher),
            (self._on_push, self._ping_subscriber),
        ):
            link = _Link(self._connect(), handle, ping, self._state)
            self._links.append(link)
            self._state.connections.append(link)
            await link.open()
        server, text = _pairs(await self._ask(b"HELLO")), self._state.text
        if server.get(b"mode") == b"cluster":
            raise WireRefused(text("it is a node of a cluster; use a server of its own"))
        if server.get(b"role") in (b"replica", b"slave"):
            raise WireRefused(text("it is a replica; give the address of its primary"))
        with contextlib.suppress(
            WireRefused
        ):  # To this user, or by a server that has no such thing.
            self._can_skip = await self._ask(b"CLIENT", b"REPLY", b"ON") == b"OK"
        await self._change(b"SUBSCRIBE", [self._ready_names + self._id])

    async def publish(self, frames: Sequence[Frame]) -> None:
        """Send the frames as fast as the server confirms them (W8)."""
        check_frames(frames, self.frame_limit)
        self._state.check(unsent=len(frames))
        link, sent = self._links[0], 0
        while sent < len(frames):
            await self._window.opening(unsent=len(frames) - sent)
            batch: list[tuple[bytes, ...]] = []
            while sent < len(frames) and self._window.is_open:
                topic, payload = frames[sent]
                self._window.sent(len(payload))
                self._unasked += len(payload)
                if self._asks(topic):
                    self._expect_confirmation()
                else:
                    batch.append(_SKIP)
                batch.append((b"PUBLISH", self._topic_names + topic, payload))
                sent += 1
            link.send(batch)

    def _asks(self, topic: bytes) -> bool:
        """Return whether the next frame on a topic is to be confirmed, with all before it.

        A reply to each would wake this process, and keep the server from others, for nothing. The
        first on each topic tells whether this user may publish there.
        """
        if not self._can_skip or topic not in self._published:
            self._published.add(topic)
            return True
        return self._unasked > WINDOW // 4

    def _expect_confirmation(self) -> None:
        """Note that a command was sent whose reply confirms all frames before it."""
        self._expected.append(self._unasked)
        self._unasked = 0

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
        await self._state.close()
        for link in self._links:
            await link.close()

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
        if isinstance(result, hiredis.ReplyError):
            # From a script it may come without its code.
            if str(result).startswith("OOM ") or "> 'maxmemory'" in str(result):
                raise _NoRoom
            raise WireRefused(self._state.text(f"it answered {command[0].decode()}: {result}"))
        return result

    def _on_reply(self, reply: Any) -> None:
        """Take what the publishing connection has read."""
        expected = self._expected.popleft()  # Raises if nothing was: a server that makes things up.
        if not isinstance(expected, int):
            if not expected.done():
                expected.set_result(reply)
        elif isinstance(reply, hiredis.ReplyError):
            self._state.lose(WireRefused(self._state.text(f"it answered PUBLISH: {reply}")))
        else:
            self._window.confirmed(expected)

    def _on_push(self, reply: Any) -> None:
        """Take what the subscribing connection has read."""
        if isinstance(reply, hiredis.ReplyError):
            self._state.lose(WireRefused(self._state.text(f"it answered a subscription: {reply}")))
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
        self._expect_confirmation()
        self._links[0].send([(b"PING",)])

    def _ping_subscriber(self) -> None:
        self._links[1].send([(b"PING",)])

    def _meaning(self, error: Exception) -> WireError:
        """Return what an error of redis-py means. Its texts have no credentials."""
        cause = error.__cause__ or error.__context__
        refused = self._state.tls_error(cause)
        if refused is not None:
            return refused
        text = self._state.text
        if isinstance(error, errors.InvalidResponse):
            return WireRefused(text("it does not answer as a Redis server does"))
        if isinstance(error, (errors.AuthenticationError, errors.AuthorizationError)):
            return WireRefused(text(f"the credentials are missing or refused: {error}"))
        if isinstance(error, errors.ResponseError):
            return WireRefused(text(f"it refuses: {error}"))
        if isinstance(cause, PermissionError):
            return WireRefused(text(f"no permission: {cause.strerror}"))
        return WireLost(text(f"can't connect: {error}"))


class _NoRoom(WireRefused):
    """The server has no memory left for a frame. Internal: `RedisWire.push` returns it."""


class _Link(asyncio.Protocol):
    """One connection: writes commands at once, and hands over each reply as it comes."""

    def __init__(
        self,
        connection: Any,
        handle: Callable[[Any], None],
        ping: Callable[[], None],
        state: WireState,
    ) -> None:
        self._connection = connection
        self._handle = handle
        self.ping = ping
        self._state = state
        self._reader = hiredis.Reader()
        #: Bytes that were read and are no whole reply yet, at most.
        self._unfinished = 0
        self._transport: Any = None
        #: Whether a reply was read since the last look.
        self.has_read = True

    async def open(self) -> None:
        """Connect, authenticate and begin to read. Raises as redis-py."""
        await self._connection.connect()
        # Its own reader and writer take several turns of the loop and timers for each reply.
        self._transport = self._connection._writer.transport
        self._transport.set_protocol(self)

    def send(self, commands: Iterable[Sequence[bytes]]) -> None:
        """Write commands, in order; the caller bounds how much is under way."""
        packed = []
        for command in commands:
            packed.append(b"*%d\r\n" % len(command))
            for word in command:
                packed += (b"$%d\r\n" % len(word), word, b"\r\n")
        self._transport.write(b"".join(packed))

    def data_received(self, data: bytes) -> None:
        """Take replies; what is none ends the connection."""
        reader, handle = self._reader, self._handle
        self._unfinished += len(data)
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                self.has_read, self._unfinished = True, len(data)
                handle(reply)
        except Exception:
            # No bytes of a Redis server, an answer that no command has asked for, or one of
            # another form. In the greeting it was a Redis server: this is the network's doing.
            self._lose("it sent what no Redis server sends")
        if self._unfinished > _LONGEST_REPLY:
            self._lose(f"an answer is longer than {_LONGEST_REPLY:,} bytes")

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that it is gone."""
        self._lose(f"the connection ended: {error or 'the server closed it'}")

    def _lose(self, what: str) -> None:
        self._state.lose(WireLost(self._state.text(what)))

    def abort(self) -> None:
        """End the connection at once, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """End it, and let redis-py know."""
        self.abort()
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
