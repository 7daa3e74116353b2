"""Bugs, planted one at a time, that the other modules must find: tests of the tests.

Each plant says which scenarios stumble over it and who is to find it. Some hide from one
of them: a store torn within C code is nothing that a kill between two opcodes can show.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from struct import pack_into
from typing import Any

from asgi_ipc.engines.shm import locked_segment, opening, store_memory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.hash_table import HashTable
from asgi_ipc.engines.shm.heap.heap import Heap
from asgi_ipc.engines.shm.heap.journal import Journal
from asgi_ipc.engines.shm.heap.layout import (
    COMMITTED,
    IDLE,
    JOURNAL,
    JOURNAL_AFTER,
    JOURNAL_COUNT,
    STATE,
)
from asgi_ipc.engines.shm.heap.log import Log
from asgi_ipc.engines.shm.heap.returns import Returns
from asgi_ipc.engines.shm.lock_file import LockFile, LockFileHeader
from asgi_ipc.engines.shm.locked_segment import LockedSegment
from asgi_ipc.engines.shm.processes import Processes
from asgi_ipc.engines.shm.queues import rings
from asgi_ipc.engines.shm.queues.armed_bells import ArmedBells
from asgi_ipc.engines.shm.queues.counters import Counts
from asgi_ipc.engines.shm.queues.rings import Rings
from asgi_ipc.engines.shm.store import Store
from asgi_ipc.exceptions import StoreCorrupt

from . import births, damage, kill, prefixes
from .examine import Examiner
from .pause_plants import PAUSE_PLANTS
from .planting import Plant, altered
from .scenarios import SCENARIOS
from .world import Finding


def _journal(change: Any, words: Any, view: Any) -> None:
    """Write the pairs down, as `Journal.commit` does."""
    count = len(change)
    pack_into(f"{2 * count}Q", view, JOURNAL * layout.WORD, *change, *change.values())
    words[JOURNAL_COUNT] = count


def no_journal() -> None:
    """Words are written directly."""

    def commit(self: Journal, change: Any, after: int = IDLE) -> None:
        for offset, value in change.items():
            self._words[offset] = value
        self._words[STATE] = after

    Journal.commit = commit  # type: ignore[method-assign]


def applied_too_soon() -> None:
    """The change is carried out before it is committed."""

    def commit(self: Journal, change: Any, after: int = IDLE) -> None:
        _journal(change, self._words, self._bytes)
        self._words[JOURNAL_AFTER] = after
        for offset, value in change.items():
            self._words[offset] = value
        self._words[STATE] = COMMITTED
        self._words[STATE] = after

    Journal.commit = commit  # type: ignore[method-assign]


def committed_too_soon() -> None:
    """The commit word is written before the pairs are."""

    def commit(self: Journal, change: Any, after: int = IDLE) -> None:
        self._words[JOURNAL_AFTER] = after
        self._words[STATE] = COMMITTED
        _journal(change, self._words, self._bytes)
        for offset, value in change.items():
            self._words[offset] = value
        self._words[STATE] = after

    Journal.commit = commit  # type: ignore[method-assign]


def cleared_too_soon() -> None:
    """The commit word is cleared before the change has been carried out."""

    def commit(self: Journal, change: Any, after: int = IDLE) -> None:
        _journal(change, self._words, self._bytes)
        self._words[JOURNAL_AFTER] = after
        self._words[STATE] = COMMITTED
        self._words[STATE] = after
        for offset, value in change.items():
            self._words[offset] = value

    Journal.commit = commit  # type: ignore[method-assign]


def packed_words() -> None:
    """Live words are packed, one by one, outside of the journal's protection."""

    def commit(self: Journal, change: Any, after: int = IDLE) -> None:
        _journal(change, self._words, self._bytes)
        self._words[JOURNAL_AFTER] = after
        self._words[STATE] = COMMITTED
        for offset, value in list(change.items())[:-1]:
            self._words[offset] = value
        self._words[STATE] = after
        for offset, value in list(change.items())[-1:]:
            pack_into("Q", self._bytes, offset * layout.WORD, value)

    Journal.commit = commit  # type: ignore[method-assign]


def no_recovery() -> None:
    """The next caller takes an unfinished change for a finished one."""

    def finish(self: LockedSegment) -> None:
        self.words[STATE] = IDLE

    LockedSegment._finish = finish  # type: ignore[method-assign]


def recovery_that_commits_first() -> None:
    """The recovery clears the commit word before it has carried out the change."""

    def replay(self: Journal) -> None:
        words = self._words
        count = words[JOURNAL_COUNT]
        pairs = words[JOURNAL : JOURNAL + 2 * count].tolist()
        words[STATE] = words[JOURNAL_AFTER]
        for offset, value in zip(pairs[:count], pairs[count:], strict=True):
            words[offset] = value

    Journal.replay = replay  # type: ignore[method-assign]
    # Where the first kill left most of the words stored, the second shows nothing.
    kill.MOST_SECOND = 100


def forgotten_handle() -> None:
    """A record is given up, and its handle is not."""
    free = Log.free

    def forgetful(self: Log, change: Any, handle: int) -> None:
        free(self, change, handle)
        if layout.FREE_ID in change:
            del change[layout.FREE_ID]

    Log.free = forgetful  # type: ignore[method-assign]


def old_extent_freed_first() -> None:
    """A move gives up the old place of a record in a change of its own, before the new one."""
    move = Heap._move

    def hasty(self: Heap, change: Any, address: int) -> None:
        live = self.geometry.extent_live + (address - self._first) // self._extent
        self.commit({live: self.words[live] - (self.words[address] & layout.LENGTH_MASK)})
        move(self, change, address)
        change[live] += self.words[address] & layout.LENGTH_MASK

    Heap._move = hasty  # type: ignore[method-assign]


def gone_forgotten() -> None:
    """A pop does not count what it took."""
    count = Counts.gone

    def forgetful(self: Counts, change: Any, *rest: Any) -> None:
        count(self, change, *rest)
        del change[layout.GONE]

    Counts.gone = forgetful  # type: ignore[method-assign, assignment]


def pop_in_two_changes() -> None:
    """A pop takes the record off its queue in one change and gives its room up in another."""
    count = Counts.gone

    def hasty(self: Counts, change: Any, address: int, *rest: Any) -> None:
        self._heap.commit({address + layout.Q_HEADS: change[address + layout.Q_HEADS]})
        count(self, change, address, *rest)

    Counts.gone = hasty  # type: ignore[method-assign, assignment]


def ring_uncounted() -> None:
    """The next caller after a kill takes the counts of the store for right."""

    def recount(heap: Heap) -> None:
        heap.words[STATE] = IDLE

    opening.recount = recount  # type: ignore[attr-defined]


def ring_moved_first() -> None:
    """A ring moves on before the head of the entry is written."""
    push, pack = Rings.push, rings._pack

    def hasty(self: Rings, *arguments: Any) -> int:
        later: list[Any] = []
        rings._pack = lambda *fields: later.append(fields)
        bell = push(self, *arguments)
        for fields in later:
            pack(*fields)
        return bell

    Rings.push = hasty  # type: ignore[method-assign, assignment]


def bell_taken_first() -> None:
    """A bell is taken, to be signalled, in a change before that which brings the record."""
    take = ArmedBells.take

    def hasty(self: ArmedBells, change: Any, queue: int) -> int:
        own: dict[int, int] = {}
        bell = take(self, own, queue)
        self._heap.commit(own)
        return bell

    ArmedBells.take = hasty  # type: ignore[method-assign]


def flush_in_two_steps() -> None:
    """A flush empties the channels before it is said that there was one."""

    def flush(self: SharedMemoryEngine) -> None:
        session = self.session
        with session.channels as heap:
            words = heap.words
            session.channels.format()
            pending = words[layout.PUSHED] - words[layout.GONE]
            heap.commit(
                {
                    layout.GONE: words[layout.PUSHED],
                    layout.FLUSHED: words[layout.FLUSHED] + pending,
                    layout.FLUSHES: words[layout.FLUSHES] + 1,
                }
            )
        with session.groups:
            session.follow_flush()

    SharedMemoryEngine.flush = flush  # type: ignore[method-assign]


def left_before_it_is_counted() -> None:
    """What a process has counted is added to the sums once it has left."""
    leave = Processes.leave

    def late(self: Processes, slot: int) -> None:
        row = self._row(slot) + layout.P_COUNTS
        noted = self._words[row : row + layout.P_COUNTERS].tolist()
        self._words[row : row + layout.P_COUNTERS] = memoryview(bytes(layout.P_COUNTERS * 8)).cast(
            "Q"
        )
        leave(self, slot)
        for number, count in enumerate(noted):
            self._words[layout.LEFT + number] += count

    Processes.leave = late  # type: ignore[method-assign]


def endless_chain() -> None:
    """A chain of the hash table is followed for as long as it goes on."""

    def chain(self: HashTable, bucket: int) -> Iterator[int]:
        handle = self._words[bucket]
        while handle:
            yield handle
            handle = self._words[self._words[self._heap.end - handle] + self._link]

    HashTable.chain = chain  # type: ignore[method-assign]
    damage.LIMIT = 0.3
    # One damage of some hundred is a circle that the next calls come to.
    damage.Spoiler.kinds = ("circle",)


def nameless_error() -> None:
    """A corrupt store is not named."""
    LockedSegment._corrupt = lambda self, error: StoreCorrupt(str(error))  # type: ignore[method-assign]


def foreign_error() -> None:
    """What contradictory contents make Python raise comes out as it is."""
    locked_segment._CONTRADICTIONS = (StoreCorrupt,)  # type: ignore[assignment]


def forgotten_memory() -> None:
    """The memory of a store that is removed is not."""
    Store._remove_memory = lambda self: None  # type: ignore[method-assign]


def ready_too_soon() -> None:
    """The lock file says that a store is ready before there is memory."""
    write = LockFile.write

    def hasty(self: LockFile, header: LockFileHeader) -> None:
        write(self, header._replace(ready=True))

    LockFile.write = hasty  # type: ignore[method-assign]
    # And no caller looks whether it is complete.
    store_memory.MAGIC = bytes(8)  # type: ignore[attr-defined]


PLANTS = [
    Plant("journal skipped", no_journal, "push"),
    Plant("journal applied before the commit word", applied_too_soon, "push"),
    Plant("commit word before the pairs", committed_too_soon, "push"),
    Plant("commit word cleared before the change", cleared_too_soon, "push"),
    Plant("live word packed", packed_words, "push"),
    Plant("recovery skipped", no_recovery, "push"),
    # Only the memory as a second kill leaves it shows this one.
    Plant(
        "recovery clears the commit word first",
        recovery_that_commits_first,
        "pop a batch",
        ("kill",),
    ),
    Plant("a free forgotten", forgotten_handle, "pop a batch"),
    Plant("a move frees the old extent first", old_extent_freed_first, "move"),
    Plant("a pop forgets to count", gone_forgotten, "pop"),
    Plant("a pop in two changes", pop_in_two_changes, "pop a batch"),
    Plant("a ring moves before its entry is there", ring_moved_first, "push through a ring"),
    Plant("a ring's move is not counted", ring_uncounted, "pop from a ring", ("prefixes",)),
    Plant(
        "a bell taken before the record is there", bell_taken_first, "push to a queue waited for"
    ),
    Plant("a flush in two steps", flush_in_two_steps, "flush"),
    Plant(
        "an announcement in two changes",
        altered(
            Returns,
            "_announce",
            (
                "change[RETURNED] = following",
                "self._commit(dict(change)); change[RETURNED] = following",
            ),
        ),
        "announce what is given back",
    ),
    Plant("what has left is counted late", left_before_it_is_counted, "leave"),
    Plant("an endless chain", endless_chain, "", ("damage",)),
    Plant("a nameless error", nameless_error, "", ("damage",)),
    Plant("a foreign error", foreign_error, "", ("damage",)),
    Plant("memory that is not removed", forgotten_memory, "destroy", ("births",)),
    Plant("a store that is ready too soon", ready_too_soon, "create", ("births",)),
    *PAUSE_PLANTS,
]


def _examine(examiner: Callable[[str, int], Examiner], plant: Plant, engine: str, n: int) -> None:
    (scenario,) = [each for each in SCENARIOS if each.name == plant.scenario]
    runner = examiner(engine, n)
    runner.most_judged = max(n, runner.most_judged)
    plant.plant()
    for each in runner.world.locked_segments:
        # Held since before the planting.
        heap = each.heap
        heap.commit, heap.add, heap.free = heap.journal.commit, heap.log.add, heap.log.free
        each._recount = opening.recount  # type: ignore[attr-defined]
    try:
        runner.run(scenario)
    finally:
        runner.world.load(runner.world.base)
        runner.world.close()


def _spoil(plant: Plant, engine: str, sample: int) -> None:
    plant.plant()
    damage.run(engine, 4 * sample or 2_000, 0, lambda text: None, enough=1)


def _bear(plant: Plant, engine: str, sample: int) -> None:
    (birth,) = [each for each in births.BIRTHS if each.name == plant.scenario]
    plant.plant()
    midwife = births.Midwife("posix", sample)
    try:
        midwife.run(birth)
    finally:
        for path in midwife.memory():
            os.unlink(path)


_FINDERS: dict[str, Callable[[Plant, str, int], None]] = {
    "kill": partial(_examine, kill.Torturer),
    "prefixes": partial(_examine, prefixes.Cutter),
    "damage": _spoil,
    "births": _bear,
}


def caught(plant: Plant, finder: str, engine: str = "mmap", sample: int = 0) -> str:
    """What a finder says of a plant, or ``""`` if it finds nothing. Works in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        text = ""
        try:
            _FINDERS[finder](plant, engine, sample)
        except Finding as finding:
            text = str(finding)
        except Exception:
            # Of the plant itself: it breaks more than it should.
            traceback.print_exc()
        finally:
            os.write(writer, text.encode()[:4000])
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode("utf-8", "replace")
    os.waitpid(child, 0)
    return text


def main(arguments: list[str]) -> int:
    """Plant each, and say what caught it."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture plants", description=__doc__)
    parser.add_argument("--engine", default="mmap")
    parser.add_argument("--only", default="", help="part of the name of a plant")
    parser.add_argument("--finder", default="", help="only who is called so")
    parser.add_argument("--sample", type=int, default=0, help="so many ends for each")
    parser.add_argument("--last", action="store_true", help="only the last finder of each")
    parser.add_argument("--part", default="0/1", help="of N parts that number, as 0/2 and 1/2")
    parsed = parser.parse_args(arguments)
    part, parts = map(int, parsed.part.split("/"))
    missed = 0
    for plant in PLANTS[part::parts]:
        finders = plant.finders[-1:] if parsed.last else plant.finders
        for finder in finders if parsed.only in plant.name else ():
            if parsed.finder not in finder:
                continue
            text = caught(plant, finder, parsed.engine, parsed.sample)
            missed += not text
            verdict = f"caught by {finder}: {text[:100]}" if text else f"MISSED by {finder}"
            sys.stdout.write(f"{plant.name}: {verdict}\n")
    return 1 if missed else 0
