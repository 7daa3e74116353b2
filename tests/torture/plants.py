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

from asgi_ipc.engines.shm import locked_segment, opening, ownership
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.hash_table import Index
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
from asgi_ipc.engines.shm.lock_file import LockFile, Record
from asgi_ipc.engines.shm.locked_segment import LockedSegment
from asgi_ipc.engines.shm.queues import rings
from asgi_ipc.engines.shm.queues.counters import Counts
from asgi_ipc.engines.shm.queues.rings import Rings
from asgi_ipc.engines.shm.queues.waiters import Waiters
from asgi_ipc.exceptions import StoreCorrupt

from . import births, damage, kill, prefixes
from .examine import Examiner
from .pause_plants import PAUSE_PLANTS
from .planting import Plant
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
    """Whoever comes next takes an unfinished change for a finished one."""

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
        live = self._live + (address - self._first) // self._extent
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
    """Whoever comes after a kill takes the counts of the store for right."""

    def recount(heap: Heap) -> None:
        heap.words[STATE] = IDLE

    locked_segment.recount = recount  # type: ignore[attr-defined]


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
    take = Waiters.take

    def hasty(self: Waiters, change: Any, queue: int) -> int:
        own: dict[int, int] = {}
        bell = take(self, own, queue)
        self._heap.commit(own)
        return bell

    Waiters.take = hasty  # type: ignore[method-assign]


def flush_in_two_steps() -> None:
    """A flush empties the channels before it is said that there was one."""

    def flush(self: SharedMemoryEngine) -> None:
        with self._channels as heap:
            words = heap.words
            self._channels.format()
            pending = words[layout.PUSHED] - words[layout.GONE]
            heap.commit(
                {
                    layout.GONE: words[layout.PUSHED],
                    layout.FLUSHED: words[layout.FLUSHED] + pending,
                    layout.FLUSHES: words[layout.FLUSHES] + 1,
                }
            )
        with self._groups:
            self._follow_flush()

    SharedMemoryEngine.flush = flush  # type: ignore[method-assign]


def endless_chain() -> None:
    """A chain of the hash table is followed for as long as it goes on."""

    def chain(self: Index, bucket: int) -> Iterator[int]:
        handle = self._words[bucket]
        while handle:
            yield handle
            handle = self._words[self._words[self._heap.end - handle] + self._link]

    Index.chain = chain  # type: ignore[method-assign]
    damage.LIMIT = 0.3


def nameless_error() -> None:
    """A corrupt store is not named."""
    LockedSegment._corrupt = lambda self, error: StoreCorrupt(str(error))  # type: ignore[method-assign]


def foreign_error() -> None:
    """What contradictory contents make Python raise comes out as it is."""
    locked_segment._CONTRADICTIONS = (StoreCorrupt,)  # type: ignore[assignment]


def forgotten_memory() -> None:
    """The memory of a store that is removed is not."""
    opening.Store._remove_memory = lambda self: None  # type: ignore[method-assign]


def ready_too_soon() -> None:
    """The lock file says that a store is ready before there is memory."""
    write = LockFile.write

    def hasty(self: LockFile, record: Record) -> None:
        write(self, record._replace(ready=True))

    LockFile.write = hasty  # type: ignore[method-assign]
    # And nobody looks whether it is complete.
    ownership.MAGIC = bytes(8)  # type: ignore[attr-defined]


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
        each.heap.commit = each.heap.journal.commit
    try:
        runner.run(scenario)
    finally:
        runner.world.load(runner.world.base)
        runner.world.close()


def _spoil(plant: Plant, engine: str, sample: int) -> None:
    plant.plant()
    damage.run(engine, 4 * sample or 2_000, 0, lambda text: None)


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
    """Plant each, and say who caught it."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture plants", description=__doc__)
    parser.add_argument("--engine", default="mmap")
    parser.add_argument("--only", default="", help="part of the name of a plant")
    parser.add_argument("--finder", default="", help="only who is called so")
    parser.add_argument("--sample", type=int, default=0, help="so many ends for each")
    parsed = parser.parse_args(arguments)
    missed = 0
    for plant in PLANTS:
        for finder in plant.finders if parsed.only in plant.name else ():
            if parsed.finder not in finder:
                continue
            text = caught(plant, finder, parsed.engine, parsed.sample)
            missed += not text
            verdict = f"caught by {finder}: {text[:100]}" if text else f"MISSED by {finder}"
            sys.stdout.write(f"{plant.name}: {verdict}\n")
    return 1 if missed else 0
