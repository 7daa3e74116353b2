"""Every engine against a model of a few dozen lines: any sequence of operations, by hypothesis.

`tests/engines/shm/test_model.py` fills the memory; here it is roomy, and what is tried is the
contract: names, sizes, capacities, deadlines, bells, owners, flushes, two engines on one store.
"""

from __future__ import annotations

import itertools
import os
import select
import shutil
import tempfile
from collections import deque
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from asgi_ipc.engines.base import IDENTITY_BYTES, MAX_NAME, Members, Popped, Record
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.stores import (
    assert_sound,
)

_numbers = itertools.count()
_BELLS = 3

QUEUES = st.sampled_from([b"a", b"b", b"c!", b"q" * MAX_NAME, b"\0", b"\xff\n/"])
TABLES = st.sampled_from([b"t", b"u", b"\0" * MAX_NAME])
MEMBERS = st.binary(min_size=1, max_size=3) | st.sampled_from([b"m", b"n", b"m" * MAX_NAME])
SIZES = st.sampled_from([0, 1, 7, 8, 9, 100, 511, 4_096, 20_000])
LIVES = st.sampled_from([0, 1, 10, 100, 10**9, 10**15])
CAPACITIES = st.sampled_from([0, 1, 2, 3, 100])
OWNERS = st.sampled_from(["nobody", "this process", "never seen"])


class Model:
    """What a store of queues and tables does."""

    def __init__(self) -> None:
        self.now = 10**12
        self.queues: dict[bytes, deque[tuple[bytes, int]]] = {}
        self.tables: dict[bytes, dict[bytes, int]] = {}
        self.armed: dict[bytes, deque[int]] = {}
        self.signalled: set[int] = set()
        self.pushed = self.popped = self.refused = 0

    def queue(self, name: bytes) -> deque[tuple[bytes, int]]:
        live = deque(each for each in self.queues.get(name, ()) if each[1] > self.now)
        self.queues[name] = live
        return live

    def table(self, name: bytes) -> dict[bytes, int]:
        live = {k: v for k, v in self.tables.get(name, {}).items() if v > self.now}
        self.tables[name] = live
        return live

    def signal(self, queue: bytes) -> None:
        if self.armed.get(queue):
            self.signalled.add(self.armed[queue].popleft())

    def push(self, queue: bytes, payload: bytes, deadline: int, capacity: int) -> bool:
        if len(self.queue(queue)) >= capacity:
            self.refused += 1
            return False
        self.queues[queue].append((payload, deadline))
        self.pushed += 1
        self.signal(queue)
        return True

    def pop(self, queue: bytes, limit: int, bell: int | None) -> list[tuple[bytes, int]]:
        live = self.queue(queue)
        taken = [live.popleft() for _ in range(min(limit, len(live)))]
        self.popped += len(taken)
        armed = self.armed.setdefault(queue, deque())
        if bell is not None and len(taken) < limit and bell not in armed:
            armed.append(bell)
        return taken

    def restore(self, queue: bytes, payload: bytes, deadline: int) -> None:
        self.queue(queue).appendleft((payload, deadline))
        self.popped -= 1
        if self.queue(queue):
            self.signal(queue)

    def disarm(self, queue: bytes, bell: int) -> None:
        armed = self.armed.setdefault(queue, deque())
        if bell in armed:
            armed.remove(bell)
        elif self.queue(queue):
            self.signal(queue)


class Comparison(RuleBasedStateMachine):
    """Two engines of one process on one store, and the model."""

    kind: Any = MemoryEngine

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.folder = tempfile.mkdtemp(prefix="model")
        options: dict[str, Any] = {"clock": lambda: self.model.now}
        if self.kind is not MemoryEngine:
            options["directory"] = self.folder
        prefix = f"model{os.getpid()}-{next(_numbers)}"
        self.engines = [
            self.kind(prefix, channel_memory=4 << 20, group_memory=1 << 20, **options)
            for _ in range(2)
        ]

    @initialize()
    def open(self) -> None:
        # The bells belong to the first engine, and hear what the second pushes.
        self.turn = 0
        self.bells = [self.engines[0].bell() for _ in range(_BELLS)]
        self.known: dict[tuple[int, bytes], Members] = {}
        self.taken: list[tuple[bytes, Popped]] = []

    def engine(self) -> Any:
        """One after the other: what one does the other sees."""
        self.turn += 1
        return self.engines[self.turn % 2]

    def owner(self, whose: str) -> bytes:
        if whose == "this process":
            identity: bytes = self.engine().identity
            return identity
        return b"" if whose == "nobody" else b"\x07" * IDENTITY_BYTES

    @rule(
        batch=st.lists(st.tuples(QUEUES, SIZES, LIVES, CAPACITIES, OWNERS), max_size=5),
        seed=st.integers(0, 255),
    )
    def push(self, batch: list[tuple[bytes, int, int, int, str]], seed: int) -> None:
        records = [
            Record(queue, bytes([seed]) * size, self.model.now + life, capacity, self.owner(whose))
            for queue, size, life, capacity, whose in batch
        ]
        refused = self.engine().push(records)
        accepted = [self.model.push(*each[:4]) for each in records]
        assert [each.position for each in refused] == [
            position for position, taken in enumerate(accepted) if not taken
        ]
        assert not any(each.no_room for each in refused)
        assert all(each.detail for each in refused)

    @rule(queue=QUEUES, limit=st.integers(1, 5), bell=st.none() | st.integers(0, _BELLS - 1))
    def pop(self, queue: bytes, limit: int, bell: int | None) -> None:
        ours = None if bell is None else self.bells[bell]
        engine = self.engine() if ours is None else self.engines[0]
        taken = engine.pop(queue, limit, ours)
        assert taken == self.model.pop(queue, limit, bell)
        self.taken += [(queue, each) for each in taken]

    @rule()
    def restore(self) -> None:
        if self.taken:
            queue, record = self.taken.pop()
            self.engine().restore(queue, record)
            self.model.restore(queue, *record)

    @rule(queue=QUEUES, bell=st.integers(0, _BELLS - 1))
    def disarm(self, queue: bytes, bell: int) -> None:
        self.engines[0].disarm(queue, self.bells[bell])
        self.model.disarm(queue, bell)

    @rule(bell=st.integers(0, _BELLS - 1))
    def hear(self, bell: int) -> None:
        poll = select.poll()
        poll.register(self.bells[bell].fileno(), select.POLLIN)
        signalled = bool(poll.poll(0))
        # After a flush a bell is signalled or stays armed; the model says: armed.
        if signalled:
            self.bells[bell].clear()
        assert signalled == (bell in self.model.signalled)
        self.model.signalled.discard(bell)

    @rule(table=TABLES, member=MEMBERS, life=LIVES, whose=OWNERS)
    def put(self, table: bytes, member: bytes, life: int, whose: str) -> None:
        self.engine().put(table, member, self.model.now + life, self.owner(whose))
        self.model.table(table)[member] = self.model.now + life

    @rule(table=TABLES, member=MEMBERS)
    def remove(self, table: bytes, member: bytes) -> None:
        was_there = self.model.table(table).pop(member, None) is not None
        assert self.engine().remove(table, member) == was_there

    @rule(table=TABLES)
    def members(self, table: bytes) -> None:
        engine = self.engine()
        known = self.known.get((self.turn % 2, table))
        found = engine.members(table, known)
        assert sorted(found.names) == sorted(self.model.table(table))
        assert len(set(found.names)) == len(found.names)
        if known is not None and sorted(known.names) != sorted(found.names):
            assert found is not known
        self.known[self.turn % 2, table] = found
        assert engine.members(table, found) is found

    @rule(step=st.sampled_from([1, 5, 10, 99, 10**6, 2 * 10**9, 10**10]))
    def wait(self, step: int) -> None:
        self.model.now += step

    @rule()
    def statistics(self) -> None:
        counts = self.engine().statistics()
        model = self.model
        assert (counts["popped"], counts["refused"]) == (model.popped, model.refused)
        assert counts["pushed"] == model.pushed
        assert counts["pushed"] == sum(
            counts[key] for key in ("popped", "expired", "orphaned", "flushed", "pending")
        )
        assert counts["pending"] >= sum(len(model.queue(name)) for name in list(model.queues))
        assert 0 < counts["bytes_used"] + 1 <= counts["bytes_total"]

    @rule(queue=QUEUES)
    def statistics_of_a_queue(self, queue: bytes) -> None:
        assert self.engine().statistics(queue)["pending"] == len(self.model.queue(queue))

    @rule()
    def flush(self) -> None:
        before = [engine.flushes for engine in self.engines]
        self.engine().flush()
        assert all(e.flushes > b for e, b in zip(self.engines, before, strict=True))
        self.model.queues.clear()
        self.model.tables.clear()
        # Bells were signalled, or stay armed (E12): begin again from silence.
        self.model.armed.clear()
        self.model.signalled.clear()
        for name in (b"a", b"b", b"c!", b"q" * MAX_NAME, b"\0", b"\xff\n/"):
            for bell in self.bells:
                self.engines[0].disarm(name, bell)
        for bell in self.bells:
            bell.clear()

    @invariant()
    def sound(self) -> None:
        if isinstance(self.engines[0], SharedMemoryEngine) and self.model.pushed % 7 == 0:
            assert_sound(self.engines[0])

    def teardown(self) -> None:
        if isinstance(self.engines[0], SharedMemoryEngine):
            assert_sound(self.engines[0])
        self.engines[1].close()
        self.engines[0].destroy()
        shutil.rmtree(self.folder)


# In so short a test a queue gets a ring only if it may have one soon.
@pytest.mark.parametrize(
    ("kind", "hot"),
    [(MemoryEngine, HOT), (PosixEngine, HOT), (PosixEngine, 1), (SysVEngine, 1), (MmapEngine, 1)],
)
def test_any_sequence_of_operations_does_what_the_model_does(
    kind: Any, hot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_ipc.engines.shm.queues.lane_extents.HOT", hot)
    machine = type("Machine", (Comparison,), {"kind": kind})
    machine.TestCase.settings = settings(  # type: ignore[attr-defined]
        max_examples=int(os.environ.get("MODEL_EXAMPLES", "12")),
        stateful_step_count=30,
        deadline=None,
        derandomize="MODEL_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    machine.TestCase("runTest").debug()  # type: ignore[attr-defined]
