"""The operations of an engine of shared memory, each as a function of the engine."""

from __future__ import annotations

from collections.abc import Callable

from asgi_ipc.engines.base import Popped
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap.layout import NEXT_SWEEP
from tests.tools.stores import record

__all__ = ["FAR", "OPERATIONS", "OTHERS", "Operation", "prepare", "use"]

#: A deadline that never comes.
FAR = 1 << 62

Operation = Callable[[SharedMemoryEngine], object]


def use(engine: SharedMemoryEngine) -> None:
    """A few operations on both segments that must work."""
    assert engine.push([record(engine, b"probe", b"hello")]) == []
    assert engine.pop(b"probe")[0].payload == b"hello"
    engine.put(b"probe", b"m", FAR)
    assert engine.remove(b"probe", b"m")


def prepare(engine: SharedMemoryEngine) -> None:
    """What an operation finds; and this process has joined."""
    use(engine)
    engine._test_bell = engine.bell()  # type: ignore[attr-defined]
    engine.push([record(engine, b"q") for _ in range(3)])


def _waits(engine: SharedMemoryEngine) -> object:
    return engine.pop(b"empty", 1, engine._test_bell)  # type: ignore[attr-defined]


def _upkeep(engine: SharedMemoryEngine) -> None:
    engine.upkeep.due = 0
    engine.session.words[NEXT_SWEEP] = 0
    engine.statistics()


#: Those that clean-up is tested with.
OPERATIONS: dict[str, Operation] = {
    "push": lambda engine: engine.push([record(engine, b"q")]),
    "pop": lambda engine: engine.pop(b"q"),
    "pop and wait": _waits,
    "restore": lambda engine: engine.restore(b"q", Popped(b"back", FAR)),
    "disarm": lambda engine: engine.disarm(b"empty", engine._test_bell),  # type: ignore[attr-defined]
    "put": lambda engine: engine.put(b"t", b"m", FAR, engine.identity),
    "remove": lambda engine: engine.remove(b"t", b"m"),
    "members": lambda engine: engine.members(b"t"),
    "statistics": lambda engine: engine.statistics(),
    "statistics of a queue": lambda engine: engine.statistics(b"q"),
    "flush": lambda engine: engine.flush(),
    "upkeep": _upkeep,
    "identity": lambda engine: engine.identity,
    "bell": lambda engine: engine.bell().close(),
    "peek": lambda engine: engine.peek(b"q"),
    "flushes": lambda engine: engine.flushes,
}


def _full(engine: SharedMemoryEngine) -> None:
    engine.push([record(engine, b"q", capacity=1)])
    engine.push([record(engine, b"q", b"x" * 400_000)])
    engine.push([record(engine, b"q", owner=bytes(len(engine.identity)))])


def _broadcast(engine: SharedMemoryEngine) -> None:
    for number in range(60):
        engine.pop(b"%d" % number, 1, engine._test_bell)  # type: ignore[attr-defined]
    engine.push([record(engine, b"%d" % number) for number in range(60)])


#: Other ones.
OTHERS: dict[str, Operation] = {
    "refused pushes": _full,
    "broadcast": _broadcast,
    "note": lambda engine: engine.note({"passed_directly": 1}),
    "look": lambda engine: engine.look(b"q"),
    "queues": lambda engine: list(engine.queues()),
    "tables": lambda engine: list(engine.tables()),
    "processes": lambda engine: list(engine.processes()),
    "hold a role": lambda engine: engine.hold(0),
    "ask for a role": lambda engine: engine.is_held(0),
    "release a role": lambda engine: engine.release(0),
}
