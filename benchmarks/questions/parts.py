"""Where the time of a message goes: each step alone, on a warm processor."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Sequence
from typing import Any

from asgi_ipc.encoding.codec import decode, encode
from asgi_ipc.engines.base import Record

from ..messages import message
from ..peers import Peer
from ..processes import Bench, Role
from ..settings import Settings
from .base import Answer, Case, Question, micro

#: How often a step is repeated between two looks at the clock.
_TURNS = 100


def _each(step: Callable[[], object], seconds: float) -> float:
    """Seconds for one, in the fastest of many turns: what else the machine does is left out."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        for _ in range(_TURNS):
            step()
        best = min(best, (time.perf_counter() - started) / _TURNS)
    return best


async def _parts(bench: Bench, seconds: float) -> dict[str, Any]:
    layer: Any = bench.open()
    engine = layer._core.demux.engine
    sent = message()
    body = encode(sent)

    def send() -> None:
        layer.sync.send("work", sent)
        engine.pop(b"work")

    record = Record(b"work", body, engine.clock() + 10**13, 10**6)

    def push() -> None:
        engine.push((record,))
        engine.pop(b"work")

    def inside() -> None:
        with engine._channels:
            pass

    mutex = engine._channels.mutex

    def lock() -> None:
        mutex.lock()
        mutex.unlock()

    descriptor = engine._channels._lock_file._descriptor

    def record_lock() -> None:
        # On a byte that means nothing.
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 1 << 40)
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, 1 << 40)

    queues, now = engine._queues, engine.clock()

    def queue() -> None:
        with engine._channels:
            for _ in range(10):
                queues.push(record, now)
                queues.pop([], b"work", 1, 0, now)

    for _ in range(100):
        push()
    return {
        "encode": _each(lambda: encode(sent), seconds / 8),
        "decode": _each(lambda: decode(body), seconds / 8),
        "lock": _each(lock, seconds / 8),
        "record lock": _each(record_lock, seconds / 8),
        "entering": _each(inside, seconds / 8),
        "queue": _each(queue, seconds / 8) / 10,
        "engine": _each(push, seconds / 8),
        "send": _each(send, seconds / 8),
    }


def _answer(results: list[Any]) -> Answer:
    found = results[0]
    return {
        "encode µs": micro(found["encode"]),
        "decode µs": micro(found["decode"]),
        "lock, unlock µs": micro(found["lock"]),
        "record lock, unlock µs": micro(found["record lock"]),
        "enter, leave µs": micro(found["entering"]),
        "queue: push, pop µs": micro(found["queue"]),
        "engine: push, pop µs": micro(found["engine"]),
        "layer: send, engine: pop µs": micro(found["send"]),
    }


def _steps(settings: Settings, peers: Sequence[Peer]) -> list[Case]:
    role = Role(_parts, {"seconds": settings.seconds})
    ours = [each for each in peers if each.name.startswith("asgi_ipc") and each.crosses_processes]
    return [Case(peer.name, "", (role,), _answer, peer) for peer in ours]


QUESTIONS = [
    Question("parts", "What does each step of a message cost, one after the other?", _steps)
]
