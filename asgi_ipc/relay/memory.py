"""A server in the memory of this process, and its wire: the reference, and a double for tests.

``memory://name`` is the server of that name; several "machines" of one process use it from any
number of threads and event loops. A test orders faults from `MemoryServer.named`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

from ..exceptions import WireError, WireLost, WireRefused
from .wire import Frame, Heard, Pushed, Ready, WireCapabilities
from .wire_settings import COMMON, Settings, check_frames, check_topic
from .wire_state import WireState, copied

#: Bytes that a wire may have unread before the server drops it, as servers do.
UNREAD_LIMIT = 32 * 1024 * 1024
_servers: dict[str, MemoryServer] = {}
_servers_lock = threading.Lock()


class _Queued(NamedTuple):
    frame: bytes
    deadline: float


class MemoryServer:
    """What a server does, and what a test makes it do. Any thread may call any method."""

    @classmethod
    def named(cls, name: str) -> MemoryServer:
        """Return the server of a name. It lasts as long as the process."""
        with _servers_lock:
            return _servers.setdefault(name, cls())

    def __init__(self) -> None:
        self.lock = threading.RLock()
        #: Seconds, for the lifetimes of queued frames; a test may set its own.
        self.clock: Callable[[], float] = time.monotonic
        #: The largest frame, in bytes; a test may set less.
        self.frame_limit = 16 * 1024 * 1024
        #: Frames of each queue that the server has room for; a test may set less.
        self.room = 1 << 30
        self._wires: list[MemoryWire] = []
        self._queues: dict[tuple[str, bytes], deque[_Queued]] = {}
        self._armed: dict[tuple[str, bytes], deque[MemoryWire]] = {}
        self._away: WireError | None = None
        self._frozen: list[Callable[[], None]] | None = None
        self._to_drop = 0
        self._cut_after: int | None = None
        self._lag = 0.0

    def after_fork_in_child(self) -> None:
        """Be another server, with what is in the queues: the connections are the parent's."""
        self.lock = threading.RLock()
        self._wires.clear()
        self._armed.clear()
        self._frozen = None

    # Faults that a test orders.

    def cut(self, reason: str = "the test cut the connection") -> None:
        """End all connections. New ones succeed."""
        with self.lock:
            for wire in list(self._wires):
                self.drop_wire(wire, WireLost(reason))

    def go_away(self, reason: str = "the server is away") -> None:
        """End all connections; new ones fail with `WireLost` until `come_back`."""
        with self.lock:
            self._away = WireLost(reason)
            self.cut(reason)

    def refuse(self, reason: str = "the server refuses these credentials") -> None:
        """End all connections; new ones fail with `WireRefused` until `come_back`."""
        with self.lock:
            self._away = WireRefused(reason)
            self.cut(reason)

    def come_back(self) -> None:
        """Take connections again."""
        with self.lock:
            self._away = None

    def restart(self) -> None:
        """End all connections and forget all queues, as a server without a disk does."""
        with self.lock:
            self._queues.clear()
            self._armed.clear()
            self.cut("the server was restarted")

    def freeze(self) -> None:
        """Answer nothing and deliver nothing until `thaw`; wires that wait too long are lost."""
        with self.lock:
            if self._frozen is None:
                self._frozen = []
                for wire in self._wires:
                    wire.server_froze()

    def thaw(self) -> None:
        """Do what was asked while frozen."""
        with self.lock:
            held, self._frozen = self._frozen or [], None
            for wire in self._wires:
                wire.server_thawed()
            for work in held:
                work()

    def drop_frames(self, count: int) -> None:
        """Lose the next frames that are published: a gap, with all connections standing."""
        with self.lock:
            self._to_drop = count

    def cut_after(self, frames: int) -> None:
        """Take that many more frames, then end the connection of the wire that publishes."""
        with self.lock:
            self._cut_after = frames

    def set_lag(self, seconds: float) -> None:
        """Deliver each frame so much later."""
        with self.lock:
            self._lag = seconds

    @property
    def connections(self) -> int:
        """How many wires are connected."""
        with self.lock:
            return len(self._wires)

    # What wires ask for.

    def do(self, work: Callable[[], None]) -> None:
        """Do something now, or after the thaw, in the order of the calls."""
        with self.lock:
            if self._frozen is not None:
                self._frozen.append(work)
            else:
                work()

    def admit(self, wire: MemoryWire) -> None:
        """Take a new connection, or raise why not."""
        with self.lock:
            if self._away is not None:
                raise copied(self._away)
            self._wires.append(wire)
            if self._frozen is not None:
                wire.server_froze()

    def drop_wire(self, wire: MemoryWire, error: WireError | None = None) -> None:
        """End a connection."""
        with self.lock:
            if wire in self._wires:
                self._wires.remove(wire)
                if error is not None:
                    wire.end_from_afar(error)

    def publish(self, wire: MemoryWire, frames: Sequence[Frame]) -> int:
        """Hand frames to all wires; return how many were taken before the connection ended."""
        with self.lock:
            for taken, (topic, payload) in enumerate(frames):
                if self._cut_after == 0:
                    self._cut_after = None
                    self.drop_wire(wire, WireLost("the test cut the connection"))
                if wire not in self._wires:
                    return taken
                if self._cut_after is not None:
                    self._cut_after -= 1
                if self._to_drop:
                    self._to_drop -= 1
                    continue
                self.do(partial(self._hand_out, wire, topic, payload))
            return len(frames)

    def _hand_out(self, publisher: MemoryWire, topic: bytes, payload: bytes) -> None:
        for wire in list(self._wires):
            if wire.prefix == publisher.prefix and topic in wire.topics:
                wire.deliver(topic, payload, self._lag)

    def _live(self, key: tuple[str, bytes]) -> deque[_Queued]:
        """Return a queue without its dead frames (W12)."""
        now = self.clock()
        queue = deque(each for each in self._queues.get(key, ()) if now < each.deadline)
        if queue:
            self._queues[key] = queue
        else:
            self._queues.pop(key, None)
        return queue

    def push(
        self, prefix: str, name: bytes, frame: bytes, lifetime: float, capacity: int
    ) -> Pushed:
        """Take a frame and tell the wire armed first (W10, W11, W13)."""
        key = prefix, name
        for each in list(self._queues):
            self._live(each)  # Those that nobody uses any more, too.
        queue = self._live(key)
        if len(queue) >= min(capacity, self.room):
            full = len(queue) >= capacity
            return Pushed(len(queue), "capacity" if full else "no room")
        queue.append(_Queued(frame, self.clock() + lifetime))
        self._queues[key] = queue
        self._wake(key)
        return Pushed(len(queue))

    def _wake(self, key: tuple[str, bytes]) -> None:
        armed = self._armed.get(key, deque())
        while armed:
            wire = armed.popleft()
            if wire in self._wires:
                wire.tell_ready(key[1])
                break

    def pop(self, wire: MemoryWire, name: bytes, limit: int) -> list[bytes]:
        """Take frames; arm the wire if there are fewer than asked for (W13)."""
        key = wire.prefix, name
        queue = self._live(key)
        taken = [queue.popleft().frame for _ in range(min(limit, len(queue)))]
        if len(taken) < limit:
            armed = self._armed.setdefault(key, deque())
            if wire not in armed:
                armed.append(wire)
        return taken

    def disarm(self, wire: MemoryWire, name: bytes) -> None:
        """Take a wire off a queue; if frames are there, they are for another."""
        key = wire.prefix, name
        armed = self._armed.get(key, deque())
        if wire in armed:
            armed.remove(wire)
        if self._live(key):
            self._wake(key)

    def length(self, prefix: str, name: bytes) -> int:
        """Count live frames."""
        return len(self._live((prefix, name)))

    def clear(self, prefix: str) -> None:
        """Empty all queues of a prefix (W14)."""
        for key in [key for key in self._queues if key[0] == prefix]:
            del self._queues[key]


class MemoryWire:
    """A connection to a `MemoryServer`. See `asgi_ipc.relay.wire.Wire`.

    The server calls the methods that stand last, from any thread and while it holds its lock: they
    only leave work for the wire's event loop.
    """

    capabilities: ClassVar[WireCapabilities] = WireCapabilities(queues=True)

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        settings = Settings(url, prefix, ["memory"])
        self._timeout: float = settings.options(options, COMMON)["timeout"]
        if settings.right and not settings.parts.netloc:
            settings.wrong("it names no server; write memory://NAME")
        settings.finish()
        self.prefix = prefix
        self.topics: frozenset[bytes] = frozenset()
        self.frame_limit = 0
        self._server = MemoryServer.named(settings.parts.netloc)
        self._state = WireState(settings.shown)
        self._silence: asyncio.TimerHandle | None = None
        #: Frames for the event loop, each with the time from which it may be heard.
        self._coming: deque[tuple[float, bytes, bytes]] = deque()
        #: Bytes of them and of those under way to it; changed while holding the server's lock.
        self._unread = 0

    async def start(self, heard: Heard, ready: Ready | None = None) -> None:
        """Connect (W2)."""
        self._state.begin(heard, ready)
        try:
            self._server.admit(self)
            self.frame_limit = self._server.frame_limit
            await self._ask(lambda: None)
        except BaseException as error:
            self._server.drop_wire(self)
            self._state.lose(error if isinstance(error, WireError) else WireLost("not started"))
            raise

    async def publish(self, frames: Sequence[Frame]) -> None:
        """Hand the frames to the server (W8). It has no window: the server takes them at once."""
        self._state.check(unsent=len(frames))
        check_frames(frames, self.frame_limit)
        taken = self._server.publish(self, frames)
        if taken < len(frames):
            raise copied(await self._state.lost(), unsent=len(frames) - taken)
        # Fairness: a caller that publishes in a loop must not keep the loop from hearing.
        await asyncio.sleep(0)

    async def subscribe(self, topics: Collection[bytes]) -> None:
        """Hear these too."""
        for topic in topics:
            check_topic(topic)
        await self._ask(lambda: self._set_topics(self.topics | frozenset(topics)))

    async def unsubscribe(self, topics: Collection[bytes]) -> None:
        """Hear these no more."""
        await self._ask(lambda: self._set_topics(self.topics - frozenset(topics)))

    def _set_topics(self, topics: frozenset[bytes]) -> None:
        self.topics = topics

    async def lost(self) -> WireError:
        """Wait until the wire is lost (W3)."""
        return await self._state.lost()

    async def close(self) -> None:
        """Leave the server (W4)."""
        await self._state.close()
        self._server.drop_wire(self)
        if self._silence is not None:
            self._silence.cancel()

    async def push(self, queue: bytes, frame: bytes, lifetime: float, capacity: int) -> Pushed:
        """Put a frame on a queue."""
        check_topic(queue)
        found: Pushed = await self._ask(
            lambda: self._server.push(self.prefix, queue, frame, lifetime, capacity)
        )
        return found

    async def pop(self, queue: bytes, limit: int = 1) -> list[bytes]:
        """Take frames off a queue."""
        check_topic(queue)
        found: list[bytes] = await self._ask(lambda: self._server.pop(self, queue, limit))
        return found

    async def disarm(self, queue: bytes) -> None:
        """Wait for a queue no more."""
        await self._ask(lambda: self._server.disarm(self, queue))

    async def length(self, queue: bytes) -> int:
        """Count the frames of a queue."""
        found: int = await self._ask(lambda: self._server.length(self.prefix, queue))
        return found

    async def clear(self) -> None:
        """Empty all queues of the prefix."""
        await self._ask(lambda: self._server.clear(self.prefix))

    async def _ask(self, work: Callable[[], Any]) -> Any:
        """Have the server do something, and return its answer once the loop's turn has come."""
        self._state.check()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def run() -> None:
            _call_in(loop, partial(settle, work()))

        def settle(result: Any) -> None:
            if not answer.done():
                answer.set_result(result)

        self._server.do(run)
        return await self._state.reply(answer)

    # Called by the server, from any thread.

    def deliver(self, topic: bytes, payload: bytes, lag: float) -> None:
        """Leave a frame for the event loop; a wire that has too much unread is lost."""
        self._unread += len(payload)
        if self._unread > UNREAD_LIMIT:
            error = WireLost(f"the server dropped the connection: over {UNREAD_LIMIT} bytes unread")
            self._server.drop_wire(self, error)
            return

        self._later(partial(self._coming.append, (lag + time.monotonic(), topic, payload)))
        self._later(self._hear_what_has_come)

    def _hear_what_has_come(self) -> None:
        """Hear the frames whose time has come, in order, and wait for that of the next."""
        while self._coming:
            due, topic, payload = self._coming[0]
            wait = due - time.monotonic()
            if wait > 0:
                if self._state.loop is not None:
                    self._state.loop.call_later(wait, self._hear_what_has_come)
                return
            self._coming.popleft()
            with self._server.lock:
                self._unread -= len(payload)
            if topic in self.topics:
                self._state.hear(topic, payload)

    def tell_ready(self, queue: bytes) -> None:
        """Leave the call for the event loop."""
        self._later(lambda: self._state.tell_ready(queue))

    def end_from_afar(self, error: WireError) -> None:
        """Leave the loss for the event loop."""
        self._later(lambda: self._state.lose(error))

    def server_froze(self) -> None:
        """Count the seconds without an answer."""
        self._later(self._begin_silence)

    def server_thawed(self) -> None:
        """Count no more."""
        self._later(self._end_silence)

    def _begin_silence(self) -> None:
        assert self._state.loop is not None
        self._silence = self._state.loop.call_later(self._timeout, self._silent)

    def _silent(self) -> None:
        self._state.lose(WireLost(f"the server did not answer for {self._timeout} seconds"))
        self._server.drop_wire(self)

    def _end_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()

    def _later(self, work: Callable[[], object]) -> None:
        if self._state.loop is not None:
            _call_in(self._state.loop, work)


def _call_in(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(work)
    except RuntimeError:
        pass  # The loop is closed: nothing hears there any more.


def _after_fork_in_child() -> None:
    global _servers_lock
    _servers_lock = threading.Lock()
    for server in _servers.values():
        server.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
