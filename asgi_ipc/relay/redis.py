"""The wire to a Redis or Valkey server: publish and subscribe, and queues as streams.

It speaks the server's protocol itself (`resp`), and not through redis-py, which may send a command
twice when it retries, checks health or connects again (W3, W8), needs several turns of the event
loop for each reply, and shows passwords in errors. A `_Link` writes whole commands, so no call that
is cancelled can end a connection in the middle of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote

from ..exceptions import WireError, WireLost, WireRefused
from .redis_scripts import CLEAR, DISARM, LENGTH, POP, PUSH
from .resp import ErrorReply, Reader, pack
from .wire import WINDOW, Frame, Heard, Pushed, Ready, WireCapabilities
from .wire_settings import COMMON, CREDENTIALS, TLS, Settings, check_frames, check_topic
from .wire_state import PROGRESS, Window, WireState, connect

if TYPE_CHECKING:
    import ssl

#: The largest frame. Far below the 32 MiB of unread output at which a server drops a subscriber.
FRAME_LIMIT = 16 * 1024 * 1024
#: Has the server not answer the next command.
_SKIP = (b"CLIENT", b"REPLY", b"SKIP")
#: Topics in one command.
_TOPICS = 256
#: Errors that pass by themselves.
_PASSING = (b"LOADING", b"BUSY", b"ERR max number of clients")
#: What to do about a server that takes no messages of its own.
_PRIMARY = "give the address of the primary"
#: How a server answers PING that can't write to its disk: it passes frames on all the same.
_DISK = b"MISCONF"
#: Errors of credentials, by their codes.
_CREDENTIALS = (b"NOAUTH", b"WRONGPASS")

Command = tuple[bytes, ...]


class RedisWire:
    """Connections to a Redis or Valkey server. See `asgi_ipc.relay.wire.Wire`."""

    capabilities: ClassVar[WireCapabilities] = WireCapabilities(queues=True)

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        schemes = ["redis", "rediss", "valkey", "valkeys", "unix"]
        settings = Settings(url, prefix, schemes)
        takes = {**COMMON, **CREDENTIALS}
        has_tls = settings.parts.scheme in ("rediss", "valkeys")
        given = settings.options(options, {**takes, **TLS} if has_tls else takes)
        self._timeout: float = given["timeout"]
        self._tls: ssl.SSLContext | None = settings.tls(given) if has_tls else None
        self._login = _login(settings, given)
        self._database = _database(settings)
        #: Host and port, or the path of a socket.
        self._address = _address(settings)
        settings.finish()
        speaks, scheme = ("does not speak", "redis") if has_tls else ("speaks", "rediss")
        #: What it may mean that a server does not answer.
        self._hint = f"if it {speaks} TLS, write {scheme}://"
        self.frame_limit = FRAME_LIMIT
        self._state = WireState(settings.shown, self._login[-1:])
        # Publish and subscribe know no databases; all names have the number, as two sites may
        # share a server by it.
        database = b"/%d" % self._database if self._database else b""
        self._names = b"asgi_ipc:%s%s:" % (prefix.encode(), database)
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
        no_answer = f"it has not answered within {self._timeout:g} seconds; {self._hint}"
        try:
            await self._state.open(self._open(), self._timeout, no_answer)
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        select = [(b"SELECT", b"%d" % self._database)] if self._database else []
        for handle, ping, commands in (
            (self._on_reply, self._ping_publisher, select),
            (self._on_push, self._ping_subscriber, [(b"PING",)]),
        ):
            link = _Link(handle, ping, self._state, self._error, self._hint)
            self._links.append(link)
            self._state.connections.append(link)
            await link.connect(self._address, self._tls)
            # In no variable: services that collect errors show them.
            link.greet([*([(b"AUTH", *self._login)] if self._login else ()), *commands])
        # Only now: a server may be far, and both greetings are answered at the same time.
        for link in self._links:
            await self._greeted(link)
        server, own = _pairs(await self._ask(b"HELLO")), self._ready_names + self._id
        if server.get(b"mode") == b"cluster":
            raise WireRefused(
                self._state.text("it is a node of a cluster; use a server of its own")
            )
        if server.get(b"mode") == b"sentinel":
            raise WireRefused(self._state.text(f"it is a Sentinel; {_PRIMARY}"))
        if _is_replica(server):
            raise WireRefused(self._state.text(f"it is a replica; {_PRIMARY}"))
        # This user may not, or the server has no such thing.
        with contextlib.suppress(WireRefused):
            self._can_skip = await self._ask(b"CLIENT", b"REPLY", b"ON") == b"OK"
        # A user without the right to publish must learn it now, not when everything seems well.
        await self._ask(b"PUBLISH", own, b"")
        if self._state.tells_ready:
            await self._change(b"SUBSCRIBE", [own])

    async def _greeted(self, link: _Link) -> None:
        """Wait for the answers to a greeting. Raises `WireError`."""
        for answer in link.answers:
            reply = await self._state.reply(answer)
            if isinstance(reply, ErrorReply) and not reply.text.startswith(_DISK):
                raise self._error(reply, "the greeting")
        link.begin()

    async def publish(self, frames: Sequence[Frame]) -> None:
        """Send the frames as fast as the server confirms them (W8)."""
        check_frames(frames, self.frame_limit)
        self._state.check(unsent=len(frames))
        link, sent = self._links[0], 0
        while sent < len(frames):
            await self._window.opening(unsent=len(frames) - sent)
            batch: list[Command] = []
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

    async def push(self, queue: bytes, frame: bytes, lifetime: float, capacity: int) -> Pushed:
        """Put a frame on a queue (W11)."""
        check_frames([Frame(queue, frame)], self.frame_limit)
        milliseconds = b"%d" % max(0, min(int(lifetime * 1000), 1 << 50))
        arguments = frame, milliseconds, b"%d" % capacity, queue, self._ready_names
        try:
            reply = await self._script(PUSH, queue, *arguments)
        except _NoRoom:
            return Pushed(await self.length(queue), "no room")
        match reply:
            case [int(length), b""]:
                return Pushed(length)
            case [int(length), b"capacity"]:
                return Pushed(length, "capacity")
        raise self._nonsense()

    async def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        """Take frames off a queue."""
        found = await self._script(POP, queue, b"%d" % limit, self._id)
        if (
            not isinstance(found, list)
            or len(found) > limit
            or not all(isinstance(each, bytes) for each in found)
        ):
            raise self._nonsense()
        return found

    async def disarm(self, queue: bytes) -> None:
        """Wait for a queue no more."""
        await self._script(DISARM, queue, self._id, queue, self._ready_names)

    async def length(self, queue: bytes) -> int:
        """Count the live frames of a queue."""
        found = await self._script(LENGTH, queue)
        if not isinstance(found, int):
            raise self._nonsense()
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
        if isinstance(result, ErrorReply):
            # From a script it may come without its code.
            if result.text.startswith(b"OOM ") or b"> 'maxmemory'" in result.text:
                raise _NoRoom
            if b"READONLY" in result.text:
                self._lose_to_replica()
                raise self._state.error
            raise self._error(result, command[0].decode())
        return result

    def _error(self, reply: ErrorReply, what: str) -> WireError:
        """Return what an error of the server means."""
        said, text = self._state.said(reply.text), self._state.text
        if reply.text.startswith(_PASSING):
            return WireLost(text(f"it answered {what}: {said}"))
        if reply.text.startswith(_CREDENTIALS) or b"AUTH" in reply.text:
            return WireRefused(text(f"the credentials are missing or refused: {said}"))
        return WireRefused(text(f"it answered {what}: {said}"))

    def _nonsense(self) -> WireError:
        """Lose the wire to a server that answers in a form which no command asked for."""
        self._links[0].lose_to_nonsense()
        return self._state.error

    def _lose_to_replica(self) -> None:
        """Lose the wire to a server that passes frames on to its own subscribers only."""
        self._state.lose(WireRefused(self._state.text(f"it has become a replica; {_PRIMARY}")))

    def _on_reply(self, reply: Any) -> None:
        """Take what the publishing connection has read."""
        if not self._expected:
            self._nonsense()
            return
        expected = self._expected.popleft()
        if not isinstance(expected, int):
            if not expected.done():
                expected.set_result(reply)
        elif isinstance(reply, ErrorReply) and not reply.text.startswith(_DISK):
            self._state.lose(self._error(reply, "PUBLISH"))
        else:
            self._window.confirmed(expected)

    def _on_push(self, reply: Any) -> None:
        """Take what the subscribing connection has read."""
        match reply:
            case [b"message", bytes(name), bytes(payload)]:
                if name.startswith(self._topic_names):
                    topic = name[len(self._topic_names) :]
                    if topic in self._topics:
                        self._state.hear(topic, payload)
                elif payload:
                    self._state.tell_ready(payload)
            case [b"subscribe" | b"unsubscribe", *_] if self._confirming:
                left, done = self._confirming.popleft()
                if left > 1:
                    self._confirming.appendleft((left - 1, done))
                elif not done.done():
                    done.set_result(None)
            case [b"pong", *_] | b"PONG":
                pass
            case ErrorReply(text=text) if text.startswith(_DISK):
                pass
            case ErrorReply():
                self._state.lose(self._error(reply, "a subscription"))
            case _:
                self._nonsense()

    def _ping_publisher(self) -> None:
        """Have all frames confirmed, and ask what the server is by now."""

        def told(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled() and _is_replica(_pairs(reply.result())):
                self._lose_to_replica()

        self._expect_confirmation()
        server: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        server.add_done_callback(told)
        self._expected.append(server)
        self._links[0].send([(b"PING",), (b"HELLO",)])

    def _ping_subscriber(self) -> None:
        self._links[1].send([(b"PING",)])


class _NoRoom(WireRefused):
    """The server has no memory left for a frame. Internal: `RedisWire.push` returns it."""


class _Link(asyncio.Protocol):
    """One connection: writes commands at once, and hands over each reply as it comes."""

    def __init__(
        self,
        handle: Callable[[Any], None],
        ping: Callable[[], None],
        state: WireState,
        meaning: Callable[[ErrorReply, str], WireError],
        hint: str,
    ) -> None:
        self._handle, self._meaning, self._hint = handle, meaning, hint
        #: Called with each reply.
        self.handle = handle
        self.ping = ping
        self._state = state
        self._reader = Reader(self._take)
        #: Bytes that came since the last reply.
        self._unfinished = 0
        self._transport: Any = None
        #: The replies to a greeting.
        self.answers: list[asyncio.Future[Any]] = []
        #: Whether a reply was read since the last look, or much of one.
        self.has_read = True

    async def connect(self, address: tuple[str, int] | str, tls: ssl.SSLContext | None) -> None:
        """Connect. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        if isinstance(address, str):
            await loop.create_unix_connection(lambda: self, address)
        else:
            name = address[0] if tls is not None else None
            await connect(lambda: self, *address, ssl=tls, server_hostname=name)

    def greet(self, commands: Sequence[Command]) -> None:
        """Send commands whose replies go to `answers`, until `begin`."""
        loop = asyncio.get_running_loop()
        self.answers = [loop.create_future() for _ in commands]
        left = deque(self.answers)

        def answered(reply: Any) -> None:
            if left:
                left.popleft().set_result(reply)
            elif isinstance(reply, ErrorReply):
                # Said unasked, such as that it has too many clients, or is in protected mode.
                self._state.lose(self._meaning(reply, "the connection"))
            else:
                self.lose_to_nonsense()

        self.handle = answered
        self.send(commands)

    def begin(self) -> None:
        """Hand over all further replies."""
        self.handle = self._handle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = transport
        if not self._state.alive:  # The wire was lost or closed meanwhile.
            self.abort()

    def send(self, commands: Iterable[Command]) -> None:
        """Write commands, in order; the caller bounds how much is under way."""
        self._transport.write(pack(commands))

    def data_received(self, data: bytes) -> None:
        """Take replies; what is none ends the connection."""
        self._unfinished += len(data)
        if self._unfinished >= PROGRESS:
            self.has_read, self._unfinished = True, 0
        try:
            self._reader.feed(data)
        except Exception:
            self.lose_to_nonsense()

    def _take(self, reply: Any) -> None:
        self.has_read, self._unfinished = True, 0
        self.handle(reply)

    def lose_to_nonsense(self) -> None:
        """Lose the wire, as the server has sent what no Redis server sends."""
        if self._state.is_open:  # It was one in the greeting: this is the network's doing.
            self._state.lose(WireLost(self._state.text("it sent what no Redis server sends")))
        else:
            text = self._state.text("it does not answer as a Redis server does")
            self._state.lose(WireRefused(text))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that it is gone."""
        reason = str(error or "the server closed it")
        if not self._state.is_open:
            reason += f"; {self._hint}"
        self._state.lose(WireLost(self._state.text(f"the connection ended: {reason}")))

    def abort(self) -> None:
        """End the connection at once, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()


def _login(settings: Settings, given: dict[str, Any]) -> tuple[bytes, ...]:
    """Return the arguments of AUTH, none without a login; note what is wrong."""
    username = settings.one_of("username", settings.username, given["username"])
    password = settings.one_of("password", settings.password, given["password"])
    if username and not password:
        settings.wrong("it names a user without a password; give the option 'password' too")
    # What is no string was found wrong before.
    words = [word for word in (username, password) if isinstance(word, str) and word]
    return tuple(word.encode() for word in words) if password else ()


def _address(settings: Settings) -> tuple[str, int] | str:
    """Return the server's host and port, or the path of its socket; note what is wrong."""
    parts = settings.parts
    if parts.scheme == "unix":
        if not parts.path:
            settings.wrong("it names no socket; write unix:///PATH/OF/SOCKET")
        return unquote(parts.path)
    if not parts.hostname and settings.right:
        settings.wrong(f"it names no host; write {parts.scheme}://HOST:6379")
    return parts.hostname or "", parts.port or 6379 if settings.right else 0


def _database(settings: Settings) -> int:
    """Return the number of the database; note what is wrong."""
    parts = settings.parts
    text = "" if parts.scheme == "unix" else parts.path.strip("/")
    for part in filter(None, parts.query.split("&")):
        name, _, value = part.partition("=")
        if name == "db":
            text = value
        else:
            options = ", ".join(map(repr, sorted({**COMMON, **CREDENTIALS, **TLS})))
            settings.wrong(
                f"the URL has {name!r} behind its '?'; remove it: relay_options may have {options}"
            )
    if text and not (text.isascii() and text.isdigit() and len(text) < 7):
        # Not shown: if the URL lacks its host, it may be a password.
        settings.wrong("the database is not a number; write it as in redis://HOST:6379/0")
        return 0
    return int(text or 0)


def _pairs(reply: Any) -> dict[Any, Any]:
    """Return the strings of a flat list of names and values as a dictionary."""
    pairs = zip(reply[::2], reply[1::2], strict=False) if isinstance(reply, list) else ()
    return {name: value for name, value in pairs if isinstance(name, bytes)}


def _is_replica(server: dict[Any, Any]) -> bool:
    """Return whether a server that says this of itself is a replica."""
    return server.get(b"role") in (b"replica", b"slave")
