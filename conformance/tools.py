"""Short words for what many tests do."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from asgi_ipc.engines.base import Record

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Bell, Engine

#: Seconds that outlast any test.
LONG = 3600.0
#: Environment variable: no wait for what ought to happen is longer than so many seconds.
#: For runs of an engine that is known to be wrong.
PATIENCE = "ASGI_IPC_CONFORMANCE_PATIENCE"
#: A capacity that no test reaches.
MANY = 1 << 20


def deadline(engine: Engine, seconds: float = LONG) -> int:
    """The deadline so many seconds from now; less than nothing is past."""
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
    """A record that lives so many seconds."""
    return Record(queue, payload, deadline(engine, seconds), capacity, owner)


def push(
    engine: Engine,
    queue: bytes,
    payloads: Iterable[bytes],
    *,
    capacity: int = MANY,
    seconds: float = LONG,
) -> None:
    """Push a batch of which nothing may be refused."""
    batch = [record(engine, queue, each, capacity=capacity, seconds=seconds) for each in payloads]
    refused = engine.push(batch)
    assert refused == [], refused


def pop(engine: Engine, queue: bytes, limit: int = MANY) -> list[bytes]:
    """Pop, and keep only the payloads."""
    return [popped.payload for popped in engine.pop(queue, limit)]


def let_pass(engine: Engine, seconds: float) -> None:
    """Wait until so many seconds have passed on the engine's clock."""
    until = deadline(engine, seconds)
    while engine.clock() < until:
        time.sleep(0.005)


def patient(seconds: float) -> float:
    """So many seconds, or what patience there is."""
    return min(seconds, float(os.environ.get(PATIENCE, seconds)))


def rung(bell: Bell, timeout: float = 0.0) -> bool:
    """Whether the bell rings within that time; then forget the ring."""
    poll = select.poll()
    poll.register(bell.fileno(), select.POLLIN)
    if not poll.poll(int(patient(timeout) * 1000)):
        return False
    bell.clear()
    return True


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Whether it comes true in time; the time is only spent by a test that fails."""
    until = time.monotonic() + patient(seconds)
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
