"""An engine that asks a server over TCP, as one that joins machines does.

It is small and slow, and keeps the contract: `conformance/` runs on it, behind a proxy too. Its
server is `tests.tools.network_server`. `WakingNetworkEngine` hears of pushes too.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgpack

from asgi_ipc.engines.base import (
    IDENTITY_BYTES,
    MAX_NAME,
    MAX_PAYLOAD,
    Bell,
    Capabilities,
    Members,
    Popped,
    Record,
    Refused,
)
from asgi_ipc.engines.bell import PipeBell, signal_for
from asgi_ipc.engines.guards import WeakBag, own_lock
from asgi_ipc.exceptions import (
    OptionError,
    OutcomeUnknown,
    Reentered,
    StoreFull,
    StoreUnavailable,
)
from tests.tools.network_server import HEAD, packed

#: Seconds of silence after which the server takes a process for dead.
LEASE = 1.0
_ERRORS = {"StoreFull": StoreFull, "ValueError": ValueError}


_engines: WeakBag[NetworkEngine] = WeakBag()


class NetworkEngine:
    """See the module. ``server`` is HOST:PORT; ``timeout`` bounds each call, in seconds."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        crosses_processes=True,
        survives_exit=True,
        wakes=False,
        owners=True,
        bounded=True,
        blocking=True,
        outage=10.0,
        lease=LEASE,
    )

    def __init__(
        self,
        prefix: str,
        *,
        channel_memory: int,
        group_memory: int,
        server: str,
        timeout: float = 5.0,
    ) -> None:
        for name, value in (("channel_memory", channel_memory), ("group_memory", group_memory)):
            if type(value) is not int or value < 1:
                raise OptionError(f"{name} is {value!r}; it must be a positive number of bytes")
        host, _, port = server.rpartition(":")
        self._address = host, int(port)
        self._prefix, self._timeout = prefix, timeout
        self._sizes = channel_memory, group_memory
        self._lock = own_lock()
        self._bells: WeakBag[PipeBell] = WeakBag()
        self._socket: socket.socket | None = None
        self._closed = False
        self._known = [0, 0, 0]
        self._known_at = 0
        self._clock = 0
        self._stopping = threading.Event()
        self._beating: threading.Thread | None = None
        self._identity = b""
        own = os.urandom(IDENTITY_BYTES)
        node = self._call("open", *self._sizes, identity=own)
        self._call("bye", identity=own)
        self._node = node
        self._identity = node + own[len(node) :]
        self._call("beat")
        _engines.add(self)
        self._beat()

    @classmethod
    def unavailable(cls) -> str | None:
        """Return None: whether there is a server is found out when it is opened."""
        return None

    # Asking the server

    def _call(self, method: str, *arguments: Any, identity: bytes = b"") -> Any:
        if self._closed:
            raise StoreUnavailable("this engine is closed; open another")
        if self._lock._is_owned():
            raise Reentered
        with self._lock:
            return self._ask(method, arguments, identity or self._identity)

    def _ask(self, method: str, arguments: Sequence[Any], identity: bytes) -> Any:
        sent = False
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, timeout=self._timeout)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent = True
            self._socket.sendall(packed([self._prefix, identity, method, arguments]))
            kind, result, *known = self._read(self._socket)
        except (OSError, ValueError) as error:
            self._hang_up()
            server = ":".join(map(str, self._address))
            if sent:
                raise OutcomeUnknown(f"server {server} has not answered {method}") from error
            raise StoreUnavailable(f"server {server} is away: {error}") from error
        except BaseException:
            self._hang_up()  # Else the next call would read the answer to this one.
            raise
        self._known, self._known_at = known, time.monotonic_ns()
        if kind != "ok":
            raise _ERRORS.get(kind, StoreUnavailable)(result)
        return result

    def _read(self, connection: socket.socket, length: int = 5) -> list[Any]:
        (size,) = HEAD.unpack(self._exactly(connection, HEAD.size))
        if size > 1 << 30:
            raise ValueError("no answer has so many bytes")
        answer = msgpack.unpackb(self._exactly(connection, size))
        if not isinstance(answer, list) or len(answer) != length:
            raise ValueError("no answer has this form")
        return answer

    def _exactly(self, connection: socket.socket, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            data = connection.recv(min(1 << 20, size - len(found)))
            if not data:
                raise ConnectionResetError("the server has ended the connection")
            found += data
        return bytes(found)

    def _hang_up(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _beat(self) -> None:
        """Tell the server every now and then that this process lives."""

        def beat() -> None:
            while not self._stopping.wait(LEASE / 5):
                try:
                    self._call("beat")
                except (StoreUnavailable, Reentered):
                    pass

        self._beating = threading.Thread(target=beat, name="network engine", daemon=True)
        self._beating.start()

    # The contract

    @property
    def identity(self) -> bytes:
        """That of this process."""
        if self._closed:
            raise StoreUnavailable("this engine is closed; open another")
        return self._identity

    @property
    def flushes(self) -> int:
        """The last number that the server gave."""
        if self._closed:
            raise StoreUnavailable("this engine is closed; open another")
        return self._known[0]

    @property
    def lapses(self) -> int:
        """How often the server has taken this process for dead."""
        return self._known[2]

    def inside(self) -> bool:
        """Whether this thread asks the server just now."""
        return self._lock._is_owned()

    def clock(self) -> int:
        """The server's time, reckoned from its last answer."""
        if self._closed:
            raise StoreUnavailable("this engine is closed; open another")
        now = self._known[1] + time.monotonic_ns() - self._known_at
        self._clock = max(self._clock, now)
        return self._clock

    def push(self, records: Sequence[Record]) -> list[Refused]:
        """Store a batch."""
        for record in records:
            _check(record.queue)
            if len(record.payload) > MAX_PAYLOAD:
                raise ValueError(f"a record has at most {MAX_PAYLOAD} bytes")
        found = self._call("push", [list(record) for record in records])
        return [Refused(*each) for each in found]

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """Take records. A bell is not armed: receivers look every 20 ms."""
        return [Popped(*each) for each in self._call("pop", queue, limit)]

    def peek(self, queue: bytes) -> bool:
        """Return True: only the server can tell."""
        return bool(self.identity)

    def restore(self, queue: bytes, record: Popped) -> None:
        """Put a record back."""
        self._call("restore", queue, *record)

    def disarm(self, queue: bytes, bell: Bell) -> None:
        """Do nothing: none is armed."""
        self.identity  # noqa: B018 (raises once it is closed)

    def bell(self) -> Bell:
        """Return a pipe."""
        if self._closed:
            raise StoreUnavailable("this engine is closed; open another")
        bell = PipeBell()
        self._bells.add(bell)
        return bell

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        """Add or renew a member."""
        _check(table)
        _check(member)
        self._call("put", table, member, deadline, owner)

    def remove(self, table: bytes, member: bytes) -> bool:
        """Remove a member."""
        return bool(self._call("remove", table, member))

    def members(self, table: bytes, known: Members | None = None) -> Members:
        """Return the members, or what is known."""
        found = self._call("members", table, known.version if known is not None else None)
        if found is None:
            assert known is not None
            return known
        return Members(tuple(found[0]), found[1])

    def statistics(self, queue: bytes | None = None) -> Mapping[str, int]:
        """Return the server's counts."""
        found: dict[str, int] = self._call("statistics", queue)
        return found

    def flush(self) -> None:
        """Empty the store."""
        self._call("flush")

    def close(self) -> None:
        """Say goodbye, if the server listens."""
        if self._closed:
            return
        if self._lock._is_owned():
            raise Reentered
        self._stopping.set()
        if self._beating is not None and self._beating is not threading.current_thread():
            self._beating.join()
        try:
            self._call("bye")
        except StoreUnavailable:
            pass
        self._closed = True
        self._hang_up()
        for bell in self._bells.alive():
            bell.close()

    def destroy(self) -> None:
        """Remove the store."""
        self._call("destroy")
        self.close()

    def after_fork_in_child(self) -> None:
        """Be another process."""
        self._lock = own_lock()
        self._hang_up()
        self._identity = self._node + os.urandom(IDENTITY_BYTES - len(self._node))
        self._stopping = threading.Event()
        if not self._closed:
            self._beat()


class NumberedBell(PipeBell):
    """A bell that the server knows by a number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class WakingNetworkEngine(NetworkEngine):
    """One with a second connection, on which a thread hears of pushes."""

    capabilities: ClassVar[Capabilities] = NetworkEngine.capabilities._replace(wakes=True)

    _numbers = itertools.count(1)
    _ear: socket.socket | None = None

    def _beat(self) -> None:
        super()._beat()
        # Of this process: a forked child has its own.
        self._hears = threading.Event()
        self._listening = threading.Thread(
            target=self._listen, args=(self._stopping,), name="network engine's ear", daemon=True
        )
        self._listening.start()

    def _listen(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                # The server says something ten times in each lease, so silence means it is gone.
                self._ear = socket.create_connection(self._address, timeout=LEASE / 2)
                with self._ear:
                    self._ear.sendall(packed([self._prefix, self._identity, "listen", []]))
                    self._hear(self._ear, stopping)
            except (OSError, ValueError, StoreUnavailable):
                stopping.wait(0.05)

    def _hear(self, ear: socket.socket, stopping: threading.Event) -> None:
        self._read(ear, 2)
        self.signal_all()
        self._hears.set()
        while not stopping.is_set():
            number, queue = self._read(ear, 2)
            bells = [bell for bell in self._bells.alive() if self._number(bell) == number]
            if number and not any(bell.try_signal(signal_for(queue)) for bell in bells):
                self._call("disarm", queue, self._identity, 0)

    def signal_all(self) -> None:
        """Have all receivers look: what was said on the connection before may be lost."""
        for bell in self._bells.alive():
            bell.signal()

    @staticmethod
    def _number(bell: Bell | None) -> int:
        return bell.number if isinstance(bell, NumberedBell) else 0

    def bell(self) -> Bell:
        """Return a pipe, once the server reports pushes."""
        if self._closed:
            raise StoreUnavailable("this engine is closed; open another")
        if not self._hears.wait(self._timeout):
            raise StoreUnavailable("the server does not report pushes yet")
        bell = NumberedBell(next(self._numbers))
        self._bells.add(bell)
        return bell

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> list[Popped]:
        """Take records, and arm a bell at the server."""
        found = self._call("pop", queue, limit, self._identity, self._number(bell))
        return [Popped(*each) for each in found]

    def disarm(self, queue: bytes, bell: Bell) -> None:
        """Take a bell off, or pass its signal on."""
        self._call("disarm", queue, self._identity, self._number(bell))

    def close(self) -> None:
        """End the thread too."""
        super().close()
        if self._listening is not threading.current_thread():
            self._listening.join()

    def after_fork_in_child(self) -> None:
        """Hear with another ear."""
        if self._ear is not None:
            self._ear.close()
        super().after_fork_in_child()


def _check(name: bytes) -> None:
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"a name has 1 to {MAX_NAME} bytes, not {len(name)}")


def _after_fork_in_child() -> None:
    for engine in _engines.alive():
        engine.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


@contextmanager
def server() -> Iterator[str]:
    """A server in a process of its own, as HOST:PORT."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tools.network_server", str(LEASE)],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
