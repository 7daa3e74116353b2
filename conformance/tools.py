"""Helpers for many tests."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from asgi_ipc.engines.base import Record

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Bell, Engine

_T = TypeVar("_T")

#: Seconds that outlast any test.
LONG = 3600.0
#: Seconds to wait for an event that should happen at once; only a failing test waits so long.
ENOUGH = 60.0
#: Environment variable: the maximum number of seconds of such a wait, for runs of an engine that is
#: known to be wrong.
PATIENCE = "ASGI_IPC_CONFORMANCE_PATIENCE"
#: A capacity that no test reaches.
MANY = 1 << 20


def deadline(engine: Engine, seconds: float = LONG) -> int:
    """Return the deadline ``seconds`` from now; a negative number gives a past one."""
    return engine.clock() + int(seconds * 1e9)


def record(
    engine: Engine,
    queue: bytes,
    payload: bytes = b"",
    *,
    capacity: int = MANY,
    seconds: float = LONG,
    owner: bytes = b"",
) -> Record:
    """Return a record that lives that many seconds."""
    return Record(queue, payload, deadline(engine, seconds), capacity, owner)


def push(
    engine: Engine,
    queue: bytes,
    payloads: Iterable[bytes],
    *,
    capacity: int = MANY,
    seconds: float = LONG,
) -> None:
    """Push a batch; fail if any record is refused."""
    batch = [record(engine, queue, each, capacity=capacity, seconds=seconds) for each in payloads]
    refused = engine.push(batch)
    assert refused == [], refused


def pop(engine: Engine, queue: bytes, limit: int = MANY) -> list[bytes]:
    """Pop records; return their payloads."""
    return [popped.payload for popped in engine.pop(queue, limit)]


def let_pass(engine: Engine, seconds: float) -> None:
    """Wait until that many seconds have passed on the engine's clock."""
    until = deadline(engine, seconds)
    while engine.clock() < until:
        time.sleep(0.005)


def in_time(engine: Engine, attempt: Callable[[int], _T], seconds: float = 0.4) -> _T:
    """Call ``attempt`` with a deadline; return its result after the deadline has passed.

    If the machine is too slow for the deadline, flush the store and try again with more time. So do
    everything that must be done in time in the attempt, and check its result afterwards.
    """
    while True:
        death = deadline(engine, seconds)
        outcome = attempt(death)
        if engine.clock() < death:
            # An engine may count in milliseconds.
            let_pass(engine, (death - engine.clock()) / 1e9 + 0.02)
            return outcome
        assert seconds < ENOUGH, f"{seconds} seconds were not enough"
        engine.flush()
        seconds *= 4


def patient(seconds: float) -> float:
    """Return that many seconds, or the limit of the environment if it is less."""
    return min(seconds, float(os.environ.get(PATIENCE, seconds)))


def signalled(bell: Bell, timeout: float = 0.0) -> bool:
    """Return whether the bell is signalled within that time; then drop the signal."""
    poll = select.poll()
    poll.register(bell.fileno(), select.POLLIN)
    if not poll.poll(int(patient(timeout) * 1000)):
        return False
    bell.clear()
    return True


class Port:
    """A port of this machine that no other process is given until it is closed.

    A connection to it is refused, unless a server listens there, which must set SO_REUSEADDR, as
    most do. Only Linux lets a server listen on a port that is kept: elsewhere it is just chosen.
    """

    def __init__(self) -> None:
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", 0))
        self.number: int = self._kept.getsockname()[1]
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        """Keep it no longer."""
        self._kept.close()


class CheckedThread(threading.Thread):
    """A thread whose exception `join` raises, so that it fails the test that started the thread.

    Else pytest reports it as a warning, in the test that runs when it happens.
    """

    def __init__(self, target: Callable[..., object], *args: Any) -> None:
        super().__init__(target=target, args=args)
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run the target, and keep what it raises."""
        try:
            super().run()
        except BaseException as error:
            self._error = error

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, and raise what the target raised."""
        super().join(timeout)
        if self._error is not None:
            raise self._error


def eventually(condition: Callable[[], bool], seconds: float = ENOUGH) -> bool:
    """Return whether a condition becomes true in time; only a failing test waits for all of it."""
    until = time.monotonic() + patient(seconds)
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
