"""The store against a model of a few lines, in small memory so that cleaning never rests."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from pathlib import Path

import pytest

from asgi_ipc.engines.base import Record
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.queues.ring_extents import HOT
from asgi_ipc.exceptions import StoreFull
from tests.tools.stores import (
    KIB,
    assert_sound,
    open_store,
)

#: Nothing may be refused while less than this part of the extents is in use.
ROOMY = 0.75


class Model:
    """A store, and what must be in it."""

    def __init__(self, engine: SharedMemoryEngine, dice: random.Random, now: list[int]) -> None:
        self.engine = engine
        self.dice = dice
        self.now = now
        self.queues: dict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
        self.tables: dict[bytes, dict[bytes, int]] = defaultdict(dict)

    def live(self, queue: bytes) -> list[tuple[bytes, int]]:
        return [each for each in self.queues[queue] if each[1] > self.now[0]]

    def push(self) -> None:
        name, most = self.name(), self.dice.choice([50, 300, 5_000, 60_000, 200_000])
        payload = os.urandom(self.dice.randrange(most))
        deadline = self.now[0] + self.dice.choice([10, 100, 1_000, 10**6])
        capacity = self.dice.choice([1, 5, 100])
        refused = self.engine.push([Record(name, payload, deadline, capacity)])
        live = self.live(name)
        if len(live) >= capacity:
            assert [each.no_room for each in refused] == [False]
        elif refused:
            assert refused[0].no_room
            assert self.fill(len(payload)) > ROOMY
        else:
            live.append((payload, deadline))
        self.queues[name] = live

    def fill(self, more: int) -> float:
        heap = self.engine._channels.heap
        top = heap.end - heap.end // 16
        live = sum(heap._lives()) * 8
        return (live + more) / (8 * (top - heap.geometry.first_extent))

    def pop(self) -> None:
        name, limit = self.name(), self.dice.choice([1, 1, 2, 70])
        live = self.live(name)
        assert self.engine.pop(name, limit) == live[:limit]
        self.queues[name] = live[limit:]

    def restore(self) -> None:
        name = self.name()
        for taken in self.engine.pop(name):
            try:
                self.engine.restore(name, taken)
            except StoreFull:
                self.queues[name] = self.live(name)[1:]

    def put(self) -> None:
        table, member = b"t%d" % self.dice.randrange(5), b"m%d" % self.dice.randrange(2_000)
        deadline = self.now[0] + self.dice.choice([10, 100, 10**7])
        try:
            self.engine.put(table, member, deadline)
        except StoreFull:
            return
        self.tables[table][member] = deadline

    def remove(self) -> None:
        table, member = b"t%d" % self.dice.randrange(5), b"m%d" % self.dice.randrange(50)
        was_there = self.tables[table].pop(member, 0) > self.now[0]
        assert self.engine.remove(table, member) == was_there

    def members(self) -> None:
        table = b"t%d" % self.dice.randrange(5)
        names = self.engine.members(table).names
        live = {name for name, deadline in self.tables[table].items() if deadline > self.now[0]}
        assert sorted(names) == sorted(live)

    def flush(self) -> None:
        if self.dice.random() < 0.1:
            self.engine.flush()
            self.queues.clear()
            self.tables.clear()

    def wait(self) -> None:
        self.now[0] += self.dice.choice([1, 20, 200, 5_000])

    def name(self) -> bytes:
        return b"q%d" % self.dice.randrange(self.dice.choice([3, 30, 300]))


OPERATIONS = [
    *["push"] * 40,
    *["pop"] * 30,
    *["wait"] * 5,
    *["put"] * 10,
    *["remove"] * 5,
    *["members"] * 7,
    *["restore"] * 2,
    "flush",
]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hot", [1, HOT])
def test_any_sequence_of_operations_gives_what_a_model_gives(
    tmp_path: Path, hot: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_ipc.engines.shm.queues.lane_extents.HOT", hot)
    dice = random.Random(seed)
    now = [10**12]
    size = dice.choice([256, 512, 1024, 6 * 1024]) * KIB
    engine = open_store(tmp_path, channel_memory=size, clock=lambda: now[0])
    try:
        model = Model(engine, dice, now)
        for step in range(2_000):
            getattr(model, dice.choice(OPERATIONS))()
            if step % 50 == 0:
                assert_sound(engine)
        assert_sound(engine)
        counts = engine.statistics()
        pending = sum(len(model.queues[name]) for name in model.queues)
        assert counts["pending"] == pending or counts["expired"] >= 0
        assert counts["pushed"] == sum(
            counts[key] for key in ("popped", "expired", "orphaned", "flushed", "pending")
        )
    finally:
        engine.destroy()


def test_a_message_of_a_mebibyte_fits_in_the_holes_that_small_ones_left(tmp_path: Path) -> None:
    engine = open_store(tmp_path, channel_memory=8192 * KIB)
    try:
        dice = random.Random(1)
        far = engine.clock() + 10**12
        names = [b"q%d" % number for number in range(40)]
        while not engine.push(
            [Record(dice.choice(names), os.urandom(dice.randrange(900)), far, 10**6)]
        ):
            pass
        # Take out a third, one here and one there, so that every extent has holes.
        pending = engine.statistics()["pending"]
        for _ in range(pending // 3):
            engine.pop(dice.choice(names))
        large = os.urandom(1 << 20)
        assert engine.push([Record(b"large", large, far, 1)]) == []
        assert_sound(engine)
        assert engine.pop(b"large")[0].payload == large
    finally:
        engine.destroy()


def test_a_store_emptied_again_and_again_stays_as_small_as_at_first(tmp_path: Path) -> None:
    engine = open_store(tmp_path)
    try:
        for _ in range(3_000):
            engine.push([Record(b"q", b"x" * 300, engine.clock() + 10**12, 1)])
            engine.pop(b"q")
        heap = engine._channels.heap
        # The extent in use, the one after it, and the one that cleaning needs.
        assert len(heap._lives()) <= 3
        assert_sound(engine)
    finally:
        engine.destroy()
