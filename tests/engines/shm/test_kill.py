"""Real SIGKILL between any two opcodes: an operation happened wholly or not at all."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap.layout import COMMITTED, STATE
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.segment import Location
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.stores import (
    assert_gone,
    assert_sound,
    in_child,
    killed_at,
    locators_in,
    open_store,
    record,
)

Operation = Callable[[SharedMemoryEngine], object]

LARGE = os.urandom(40_000)

#: An operation, and by how much it may change (pending records, members): not, or wholly.
OPERATIONS: dict[str, tuple[Operation, tuple[int, int]]] = {
    "push": (lambda engine: engine.push([record(engine, b"a")]), (1, 0)),
    "push to a new queue": (
        lambda engine: engine.push([record(engine, b"%x" % engine.clock())]),
        (1, 0),
    ),
    "push over several extents": (
        lambda engine: engine.push([record(engine, b"a", LARGE)]),
        (1, 0),
    ),
    "pop": (lambda engine: engine.pop(b"a"), (-1, 0)),
    "pop a batch": (lambda engine: engine.pop(b"a", 3), (-3, 0)),
    "put": (lambda engine: engine.put(b"t", b"%x" % engine.clock(), 1 << 62), (0, 1)),
    "put into a new table": (
        lambda engine: engine.put(b"%x" % engine.clock(), b"m", 1 << 62),
        (0, 1),
    ),
    "remove": (lambda engine: engine.remove(b"t", engine.members(b"t").names[0]), (0, -1)),
    "arm": (lambda engine: engine.pop(b"waited for", 1, engine.bell()), (0, 0)),
}


def joined(engine: SharedMemoryEngine) -> Callable[[], object]:
    """Has a forked child join the store, so that what is killed is the operation alone."""
    return lambda: engine.identity


def counts(engine: SharedMemoryEngine) -> tuple[int, int]:
    numbers = engine.statistics()
    return numbers["pending"], numbers["members"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_killed_operation_happened_wholly_or_not_at_all(name: str, tmp_path: Path) -> None:
    operation, (pending, members) = OPERATIONS[name]
    dice = random.Random(name)
    engine = open_store(tmp_path)
    try:
        kills, opcode = 0, dice.randrange(1, 30)
        while True:
            while counts(engine)[0] < 8:
                engine.push([record(engine, b"a")])
            while counts(engine)[0] > 12:
                engine.pop(b"a")
            if not engine.members(b"t").names:
                engine.put(b"t", b"m", 1 << 62)
            before = counts(engine)
            killed = killed_at(lambda: operation(engine), opcode, joined(engine))
            assert_sound(engine)
            after = counts(engine)
            change = after[0] - before[0], after[1] - before[1]
            if not killed:
                assert change == (pending, members)
                break
            assert change in ((0, 0), (pending, members))
            kills += 1
            opcode += dice.randrange(20, 90)
        assert kills >= 8
    finally:
        engine.destroy()


def test_a_killed_flush_happened_wholly_or_not_at_all(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    try:
        opcode = 10
        while True:
            engine.push([record(engine, b"a"), record(engine, b"b")])
            engine.put(b"t", b"m", 1 << 62)
            flushes, before = engine.flushes, counts(engine)
            killed = killed_at(engine.flush, opcode, joined(engine))
            assert counts(engine) == ((0, 0) if engine.flushes > flushes else before)
            assert_sound(engine)
            if not killed:
                break
            opcode += 41
    finally:
        engine.destroy()


def test_a_kill_in_the_recovery_of_a_kill_is_recovered_too(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    try:
        engine.push([record(engine, b"a")])
        found = 0
        for opcode in range(200, 1_500, 7):
            before = counts(engine)[0]
            if not killed_at(lambda: engine.push([record(engine, b"a")]), opcode, joined(engine)):
                break
            if engine._channels.words[STATE] != COMMITTED:
                continue
            found += 1
            for second in range(60, 600, 20):
                if not killed_at(lambda: engine.statistics(b"a"), second):
                    break
            assert_sound(engine)
            assert counts(engine)[0] == before + 1
        assert found >= 3
        assert engine.statistics()["recoveries"] >= found
    finally:
        engine.destroy()


@pytest.mark.parametrize("kind", [PosixEngine, SysVEngine, MmapEngine])
def test_a_creator_killed_at_any_point_leaves_nothing_in_the_way(
    kind: type[SharedMemoryEngine], tmp_path: Path
) -> None:
    opcode = 5
    while killed_at(lambda: open_store(tmp_path, kind), opcode):
        location = Location(str(tmp_path / "store"), 0o600, None, private=False)
        begun = locators_in(location, kind)
        # Anybody can open it, and what they remove is all there is.
        engine = open_store(tmp_path, kind)
        engine.push([record(engine, b"a")])
        assert counts(engine) == (1, 0)
        assert_sound(engine)
        engine.destroy()
        assert list(tmp_path.iterdir()) == []
        assert_gone(location, kind, begun)
        opcode += 211
    open_store(tmp_path, kind).destroy()
    assert opcode > 1_000


def test_what_a_killed_process_held_is_gone_within_seconds(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    try:

        def child() -> None:
            mine = engine.identity
            engine.push([record(engine, b"its own", owner=mine)])
            engine.put(b"t", b"its member", 1 << 62, mine)
            engine.put(b"t", b"another", 1 << 62)
            os._exit(0)

        in_child(child)
        engine._next_look = 0
        engine._channels.words[47] = 0  # NEXT_TEND: time has passed
        assert engine.members(b"t").names == (b"another",)
        assert engine.pop(b"its own") == []
        numbers = engine.statistics()
        assert (numbers["orphaned"], numbers["processes"]) == (1, 1)
        assert_sound(engine)
    finally:
        engine.destroy()
