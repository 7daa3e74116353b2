"""Short words for what many tests do."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from asgi_ipc.engines.base import Record

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Bell, Engine

_T = TypeVar("_T")

#: Seconds that outlast any test.
LONG = 3600.0
#: Seconds to wait for what ought to happen at once; only a test that fails waits so long.
ENOUGH = 60.0
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


def in_time(engine: Engine, attempt: Callable[[int], _T], seconds: float = 0.4) -> _T:
    """What becomes of an attempt to do something before a deadline that it is given; then let
    that pass.

    A machine that was too slow gets more time, on a store that was flushed. So whatever has
    to be done in time is done by the attempt, and looked at afterwards.
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
    """So many seconds, or what patience there is."""
    return min(seconds, float(os.environ.get(PATIENCE, seconds)))


def signalled(bell: Bell, timeout: float = 0.0) -> bool:
    """Whether the bell signals within that time; then forget the signal."""
    poll = select.poll()
    poll.register(bell.fileno(), select.POLLIN)
    if not poll.poll(int(patient(timeout) * 1000)):
        return False
    bell.clear()
    return True


def eventually(condition: Callable[[], bool], seconds: float = ENOUGH) -> bool:
    """Whether it comes true in time; the time is only spent by a test that fails."""
    until = time.monotonic() + patient(seconds)
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
