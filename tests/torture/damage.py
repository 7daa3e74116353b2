"""Spoiled memory: whatever a store holds, no call hangs, crashes or says something else.

Each round puts a sound store back, spoils a few words where it hurts, and makes calls.
Each must end soon, with a result of its usual shape or an error of ours. Rounds are
told by their number alone: ``--seed N --rounds 1`` repeats one.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from asgi_ipc.engines.base import Members, Popped
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.hash_table import HashTable
from asgi_ipc.engines.shm.heap.heap import Heap
from asgi_ipc.engines.shm.locks.base import FIRST_SLOT, Gone
from asgi_ipc.exceptions import StoreCorrupt, StoreFull, StoreUnavailable

from .examine import State, Tally
from .scenarios import SCENARIOS, maintain
from .steps import sweep
from .world import ENGINES, LARGE, Finding, World

#: Seconds of processor time that one call may take, on a store of this size.
LIMIT = 10.0
#: Seconds without a finished round after which the watchdog looks what is the matter.
_HANG = 120
#: Bytes that a round may need beyond what there is.
_MEMORY = 1 << 30
_CALLS = 12

NAMES = [
    b"a",
    b"ring",
    b"ring",
    b"large",
    b"old",
    b"all old",
    b"own",
    b"waited for",
    b"empty",
    b"orphan",
    b"new",
]
TABLES = [b"t", b"single", b"old", b"only the dead", b"new"]


class Spoiler:
    """Spoils words of a segment, knowing what they are."""

    #: Its methods, each as often as it is named here.
    kinds: tuple[str, ...] = (
        "control", "control", "journal", "handle", "handle", "record", "record", "record",
        "record", "bucket", "circle", "extent", "slot", "node", "ring", "ring", "any_word",
        "stretch",
    )  # fmt: skip

    def __init__(self, heap: Heap, dice: random.Random) -> None:
        self.heap = heap
        self.words = heap.words
        self.dice = dice

    def spoil(self) -> None:
        """One damage of some kind."""
        getattr(self, self.dice.choice(self.kinds))()

    def value(self, old: int) -> int:
        """Something to put in the place of a word."""
        dice, words = self.dice, self.words
        used = min(max(words[layout.IDS_USED], 1), 4000)
        return dice.choice(
            [
                0, 1, 2, layout.FREE, (1 << 64) - 1, (1 << 63) - 1, 1 << 32,
                old ^ 1 << dice.randrange(64), old ^ 1 << dice.randrange(16),
                (old + 1) % (1 << 64), (old - 1) % (1 << 64),
                dice.randrange(1, used + 1), dice.randrange(1, used + 1),
                dice.randrange(len(words)), dice.randrange(1 << 64),
                words[dice.randrange(len(words))],
            ]
        )  # fmt: skip

    def put(self, offset: int) -> None:
        """Spoil one word."""
        if 0 <= offset < len(self.words):
            self.words[offset] = self.value(self.words[offset])

    def control(self) -> None:
        """A word of the header, the heap's or a counter."""
        self.put(self.dice.choice([layout.STATE, *range(layout.CURSOR, layout.SWEPT_DEATHS + 1)]))

    def journal(self) -> None:
        """A committed journal of anything."""
        words, dice = self.words, self.dice
        count = dice.choice([0, 1, 3, 20, 512, 513, 1 << 40])
        for pair in range(min(count, layout.JOURNAL_PAIRS)):
            words[layout.JOURNAL + pair] = dice.choice(
                [dice.randrange(len(words)), dice.randrange(64, 1100), self.value(0)]
            )
            words[layout.JOURNAL + count % 513 + pair] = self.value(0)
        words[layout.JOURNAL_COUNT] = count
        words[layout.JOURNAL_AFTER] = dice.choice([0, 0, 0, 1, 2, 3, self.value(0)])
        words[layout.STATE] = dice.choice([1, 1, 1, 2, 3, self.value(0)])

    def _some_handle(self) -> int:
        return self.dice.randrange(1, min(max(self.words[layout.IDS_USED], 1), 4000) + 1)

    def handle(self) -> None:
        """Where a record is said to be."""
        words, one, other = self.words, self._some_handle(), self._some_handle()
        end = self.heap.end
        if self.dice.random() < 0.4:
            words[end - one] = words[end - other]
        else:
            self.put(end - one)

    def record(self) -> None:
        """A word of a record: META, links, counts; most of all the first few."""
        words, dice = self.words, self.dice
        address = words[self.heap.end - self._some_handle()]
        if not self.heap.geometry.first_extent <= address < self.heap.end - 16:
            return
        meta = words[address]
        kind = meta >> layout.KIND_SHIFT & layout.KIND_MASK
        at = address + dice.randrange(layout.HEADER_WORDS.get(kind, 4))
        how = dice.randrange(5)
        if how == 0:
            # A circle: it points to itself.
            words[at] = meta >> layout.ID_SHIFT
        elif how == 1:
            words[at] = self._some_handle()
        elif how == 2:
            bits = dice.choice([layout.SPLIT, layout.LENGTH_MASK, 15 << layout.KIND_SHIFT, 7 << 18])
            words[address] = dice.choice([meta ^ bits, meta & ~bits, meta | bits])
        elif how == 4 and dice.random() < 0.3:
            # A circle of one piece, long or without any length.
            length = dice.choice([0, 1, 2, meta & layout.LENGTH_MASK])
            words[address] = meta & ~layout.LENGTH_MASK | length | layout.SPLIT
            words[max(address + length - 1, 0)] = meta >> layout.ID_SHIFT
        elif how == 3 and kind == layout.MESSAGE:
            # Expired, and its own successor.
            words[address + layout.M_LINK] = meta >> layout.ID_SHIFT
            words[address + layout.M_DEADLINE] = dice.choice([0, 1 << 63])
        else:
            self.put(at)

    def ring(self) -> None:
        """Where a ring is, what is in it, or that it moves; if there is one."""
        words, dice = self.words, self.dice
        for handle in range(1, min(words[layout.IDS_USED], 4000) + 1):
            address = words[self.heap.end - handle]
            if address >= self.heap.end - layout.Q_WORDS or self.heap.kind(address) != layout.QUEUE:
                continue
            if not words[address + layout.Q_RING_IN]:
                continue
            how = dice.randrange(4)
            if how == 0:
                moves = dice.choice([layout.PUSHING, layout.POPPING, layout.PUSHING | 1 << 63])
                words[layout.STATE] = moves | dice.choice([address, address, address + 1])
            elif how == 1:
                ends = [layout.Q_RING_IN, layout.Q_IN, layout.Q_OUT, layout.Q_RING_OUT]
                ring = words[address + layout.Q_RING_OUT]
                links = [ring + layout.L_NEXT, ring + layout.L_STOP]
                self.put(dice.choice([*(address + end for end in ends), *links]))
            elif how == 2:
                into = words[address + layout.Q_IN]
                near = into + dice.randrange(-40, 40)
                words[address + dice.choice([layout.Q_IN, layout.Q_OUT])] = near % (1 << 64)
            else:
                location = words[address + layout.Q_OUT] & layout.OFFSET_MASK
                self.put(location + dice.randrange(40))

    def bucket(self) -> None:
        """The beginning of a chain."""
        geometry = self.heap.geometry
        self.put(geometry.hash_table + self.dice.randrange(geometry.buckets))

    def circle(self) -> None:
        """A chain of one record that is its own successor, where calls look for another name."""
        words, dice, geometry = self.words, self.dice, self.heap.geometry
        names, link = (
            (NAMES, layout.Q_CHAIN)
            if geometry.kind == layout.CHANNELS
            else (TABLES, layout.T_CHAIN)
        )
        table = HashTable(self.heap, link)
        bucket, other = table.home(dice.choice(names)), self._some_handle()
        at = words[self.heap.end - other] + link
        if geometry.first_extent <= at < self.heap.end:
            words[bucket] = words[at] = other

    def extent(self) -> None:
        """What is said of an extent."""
        geometry = self.heap.geometry
        self.put(self.dice.randrange(geometry.extent_live, geometry.slots))

    def slot(self) -> None:
        """A process."""
        geometry = self.heap.geometry
        self.put(geometry.slots + self.dice.randrange(16))

    def node(self) -> None:
        """A waiter."""
        self.put(self.heap.geometry.nodes + self.dice.randrange(12))

    def any_word(self) -> None:
        """Anything but what identifies the store."""
        self.put(self.dice.randrange(layout.STATE, len(self.words)))

    def stretch(self) -> None:
        """A stretch of zeros, ones or anything."""
        size = self.dice.choice([1, 8, 64, 512, 4096, 1 << 20])
        start = self.dice.randrange(layout.STATE * 8, len(self.words) * 8)
        stop = min(start + size, len(self.words) * 8)
        fill = self.dice.choice([b"\0", b"\xff", None])
        noise = self.dice.randbytes(stop - start)
        self.heap.bytes[start:stop] = fill * (stop - start) if fill else noise


def call(world: World, dice: random.Random) -> None:
    """One call of the engine, with a look at the shape of its result."""
    engine = world.engine
    name, table = dice.choice(NAMES), dice.choice(TABLES)
    what = dice.choice(
        ["push"] * 6 + ["pop"] * 6 + ["restore", "disarm", "put", "put", "remove", "members"] * 2
        + ["members", "statistics", "counts", "sweep", "look", "check", "flush", "identity", "open"]
        + ["peek", "queues", "tables", "processes", "look at", "give back", "give back"]
    )  # fmt: skip
    if what == "push":
        payload = dice.choice([b"", b"x" * 50, b"x" * 5_000, LARGE])
        owner = dice.choice([b"", world.identity, world.dead])
        capacity = dice.choice([0, 1, 5, 10**6])
        records = [world.record(name, payload, owner=owner, capacity=capacity)]
        for refused in engine.push(records * dice.choice([1, 1, 3])):
            assert refused.detail
    elif what == "pop":
        bell = dice.choice([None, *world.bells])
        for record in engine.pop(name, dice.choice([1, 1, 5, 10**9]), bell):
            assert isinstance(record.payload, bytes)
            assert record.deadline > world.now
    elif what == "restore":
        engine.restore(name, Popped(dice.choice([b"", LARGE]), world.now + 10**9))
    elif what == "disarm":
        engine.disarm(name, dice.choice(world.bells))
    elif what == "peek":
        assert engine.peek(name) in (True, False)
    elif what == "put":
        engine.put(table, b"%d" % dice.randrange(9), 1 << 62, dice.choice([b"", world.dead]))
    elif what == "remove":
        assert engine.remove(table, b"m%d" % dice.randrange(6)) in (True, False)
    elif what == "members":
        assert isinstance(engine.members(table), Members)
    elif what == "statistics":
        engine.statistics()
    elif what == "counts":
        engine.statistics(name)
    elif what == "queues":
        assert all(isinstance(each.name, bytes) for each in engine.queues())
    elif what == "tables":
        assert all(each.members >= 0 for each in engine.tables())
    elif what == "processes":
        assert all(len(each.identity) == 14 for each in engine.processes())
    elif what == "look at":
        assert all(isinstance(each, Popped) for each in engine.look(name))
    elif what == "give back":
        for locked_segment in world.locked_segments:
            with locked_segment as heap:
                heap.returns.step(True, locked_segment.segment.give_back)
    elif what == "sweep":
        sweep(world)
    elif what == "look":
        engine.session.words[layout.NEXT_SWEEP] = 0
        maintain(world)
    elif what == "check":
        world.findings()
    elif what == "flush":
        if dice.random() < 0.1:
            engine.flush()
    elif what == "identity":
        with engine.session.channels:
            slot = engine.session.processes.join(b"a new process.", world.now, 0)
            if slot >= 0:
                engine.session.processes.leave(slot)
                engine.session.processes._lock_file.release(FIRST_SLOT + slot)
    elif what == "open":
        world.open().close()


def spoiled_round(world: World, states: list[State], seed: int) -> int:
    """One round; how many of its calls found the store corrupt."""
    dice = random.Random(seed)
    world.load(dice.choice(states))
    world.engine.session.slot, world.engine.session.identity = world.slot, world.identity
    world.engine.session.processes._known.clear()
    for locked_segment in dice.choice(
        [world.locked_segments, world.locked_segments[:1], world.locked_segments[1:]]
    ):
        spoiler = Spoiler(locked_segment.heap, dice)
        for _ in range(dice.choice([1, 1, 2, 5])):
            spoiler.spoil()
    corrupt = 0
    for _ in range(_CALLS):
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            call(world, dice)
        except StoreCorrupt as error:
            corrupt += 1
            text = str(error)
            assert str(world.directory) in text, text
            assert "start afresh" in text, text
        except (StoreFull, Gone):
            pass  # Gone: in what enters the store by itself, if the damage says destroyed.
        except StoreUnavailable as error:
            # No slot, as all are taken as far as can be told.
            # Or what identifies it was overwritten, and a newcomer sees that.
            if "already has" not in str(error) and "remove" not in str(error).lower():
                raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return corrupt


def _hangs(number: int, frame: FrameType | None) -> None:
    raise Finding(f"a call took {LIMIT} seconds of processor time")


def unfinished(world: World, dice: random.Random) -> list[State]:
    """Sound states, and some that a kill left in the midst of a change."""
    from .kill import killed

    states = [world.base]
    for scenario in dice.sample(SCENARIOS, 12):
        if scenario.stride > 1:
            continue
        world.load(world.base)
        world.now = 10**15 + 200
        scenario.prepare(world)
        states.append(world.save())

        def in_place() -> None:
            world.engine.session.slot, world.engine.session.identity = world.slot, world.identity

        killed(lambda s=scenario: s.operate(world), dice.randrange(300, 1200), in_place)  # type: ignore[misc]
        states.append(world.save())
    world.now = 10**15 + 200
    world.load(world.base)
    return states


def run(
    engine: str, rounds: int, seed: int, say: Callable[[str], object], enough: int = 20
) -> Tally:
    """So many rounds on one engine, or until ``enough`` of them found something.

    Raises `Finding` with all that was found.
    """
    # Each round may wreck what its process has open, so a few hundred share a child.
    found: list[str] = []
    total = Tally()
    begun = time.monotonic()
    for first in range(seed, seed + rounds, 500):
        count = min(500, seed + rounds - first)
        done, corrupt, texts = _batch(engine, first, count, enough - len(found))
        total = total.plus(Tally(done, corrupt, done * _CALLS))
        found += texts
        if len(found) >= enough:
            break
    took = time.monotonic() - begun
    say(
        f"{engine}: {total.ends} spoiled stores, {total.operations} calls, {total.states} of them "
        f"refused as corrupt, {took:.1f} s"
    )
    if found:
        raise Finding("\n\n".join(found))
    return total


def _batch(engine: str, first: int, count: int, enough: int) -> tuple[int, int, list[str]]:
    """Rounds in a child: how many, how many calls were refused, and what was found."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _work(engine, first, count, enough, writer)
    os.close(writer)
    done = corrupt = 0
    texts: list[str] = []
    with os.fdopen(reader, "rb") as pipe:
        while header := pipe.read(12):
            number, refused, size = struct.unpack("<III", header)
            done += 1
            corrupt += refused
            if size:
                texts.append(f"round {number} on {engine}: {pipe.read(size).decode()}")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        texts.append(f"a round after {first + done} on {engine}: signal {os.WTERMSIG(status)}")
    elif os.WEXITSTATUS(status):
        texts.append(f"round {first + done} on {engine}: it hung or failed; see its traceback")
    return done, corrupt, texts


def _work(engine: str, first: int, count: int, enough: int, writer: int) -> None:
    """The child's part. Does not return."""
    status = 1
    world = None
    try:
        world = World(engine)
        states = unfinished(world, random.Random(1))
        signal.signal(signal.SIGPROF, _hangs)
        # A hang inside C code would not see the signal.
        faulthandler.enable()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, hard))
        for number in range(first, first + count):
            faulthandler.dump_traceback_later(_HANG, exit=True)
            text, corrupt = b"", 0
            try:
                corrupt = spoiled_round(world, states, number)
            except BaseException:
                text = traceback.format_exc()[-3000:].encode()
            os.write(writer, struct.pack("<III", number, corrupt, len(text)) + text)
            enough -= bool(text)
            if not enough:
                break
        faulthandler.cancel_dump_traceback_later()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        if world:
            _remove(world)
        os._exit(status)


def _remove(world: World) -> None:
    """A spoiled store can be removed, and a fresh one opened in its place."""
    world.close()


def afresh(engine: str, rounds: int) -> None:
    """What StoreCorrupt advises works, however the store was spoiled."""
    for seed in range(rounds):
        world = World(engine)
        dice = random.Random(seed)
        for locked_segment in world.locked_segments:
            for _ in range(5):
                Spoiler(locked_segment.heap, dice).spoil()
        world.engine.destroy()
        fresh = world.open()
        fresh.push([world.record(b"a", b"fresh")])
        popped: Any = fresh.pop(b"a")
        assert popped[0].payload == b"fresh"
        fresh.destroy()
        assert not list(world.directory.iterdir()), "something was left behind"
        world.directory.rmdir()


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture damage", description=__doc__)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all")
    parser.add_argument("--rounds", type=int, default=20_000, help="for each engine")
    parser.add_argument("--seed", type=int, default=0, help="number of the first round")
    parsed = parser.parse_args(arguments)
    for engine in parsed.engine or ENGINES:
        try:
            run(engine, parsed.rounds, parsed.seed, lambda text: sys.stdout.write(f"{text}\n"))
            afresh(engine, 5 + parsed.rounds // 200)
        except Finding:
            traceback.print_exc()
            return 1
    return 0
