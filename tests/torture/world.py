"""A small store with something of everything in it, that can be put back as it was."""

from __future__ import annotations

import os
import shutil
import tempfile
from binascii import crc32
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asgi_ipc.engines import find
from asgi_ipc.engines.base import Popped, Record
from asgi_ipc.engines.shm.check import check
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.heap.layout import SMALLEST
from asgi_ipc.engines.shm.queues.linked_list import head
from asgi_ipc.engines.shm.store import Store

ENGINES = ("mmap", "posix", "sysv")
#: A record that takes up three extents of a small store.
LARGE = bytes(range(256)) * 160
SECOND = 1_000_000_000
NEVER = 1 << 63
_HEAD = layout.STATE * layout.WORD


class Finding(AssertionError):
    """What should not have happened, and where."""


@dataclass
class View:
    """What the users of a store can tell, and nothing else."""

    #: Live records of each queue that has any, in `short`.
    queues: dict[bytes, list[bytes]] = field(default_factory=dict)
    #: Living bells of each queue that has any, by their numbers.
    bells: dict[bytes, list[int]] = field(default_factory=dict)
    tables: dict[bytes, dict[bytes, int]] = field(default_factory=dict)
    processes: set[bytes] = field(default_factory=set)
    flushes: int = 0
    #: What all processes have counted of one thing, those that have gone included.
    counted: int = 0

    def copy(self) -> View:
        """One that can be changed by itself."""
        return replace(
            self,
            queues={name: list(records) for name, records in self.queues.items()},
            bells={name: list(bells) for name, bells in self.bells.items()},
            tables={name: dict(members) for name, members in self.tables.items()},
            processes=set(self.processes),
        )

    def tidy(self) -> View:
        """Without names that hold nothing."""
        for part in (self.queues, self.bells, self.tables):
            for name in [name for name, held in part.items() if not held]:
                del part[name]
        return self


class World:
    """An engine on a small store, its clock, and a process that has died in it."""

    def __init__(self, engine: str, directory: str | None = None, size: int = SMALLEST) -> None:
        self.kind: type[SharedMemoryEngine] = find(engine)  # type: ignore[assignment]
        self.directory = Path(directory or tempfile.mkdtemp(prefix="torture-", dir=fast()))
        self.now = 10**15
        self.engine = self.open(size)
        self.identity = self.engine.identity
        self.slot = self.engine.session.slot
        self.bells = [self.engine.bell() for _ in range(4)]
        # Nothing but what is asked for: the regular look has its own scenarios.
        self.engine.upkeep.due = NEVER
        self.dead = b""
        self.populate()
        self.base = self.save()

    def open(self, size: int = SMALLEST) -> SharedMemoryEngine:
        """Open the store with this world's clock."""
        return self.kind(
            "store",
            directory=self.directory,
            channel_memory=size,
            group_memory=SMALLEST,
            clock=lambda: self.now,
        )

    def close(self) -> None:
        """Remove it all."""
        self.engine.destroy()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- contents

    def record(
        self, queue: bytes, payload: bytes, lifetime: int = 10**13, owner: bytes = b"", **more: Any
    ) -> Record:
        """One to push."""
        return Record(queue, payload, self.now + lifetime, more.get("capacity", 10**6), owner)

    def push(self, queue: bytes, *payloads: bytes, **more: Any) -> None:
        """Push, and be sure of it."""
        refused = self.engine.push([self.record(queue, each, **more) for each in payloads])
        if refused:
            raise Finding(f"refused while setting up: {refused}")

    def give_no_rings(self) -> None:
        """Let all messages be records of the heap from now on."""
        rings = self.engine.session.queues._rings.extents
        rings._most = rings._most_unread = 0

    def populate(self) -> None:
        """Something of everything."""
        engine = self.engine
        child = os.fork()
        if not child:
            os.write(to_parent := os.open(self.directory / "dead", os.O_CREAT | os.O_WRONLY), b"")
            os.write(to_parent, engine.identity)
            self.push(b"orphan", b"o1", b"o2", owner=engine.identity)
            engine.put(b"t", b"of the dead", 1 << 62, engine.identity)
            engine.put(b"only the dead", b"m", 1 << 62, engine.identity)
            engine.pop(b"the dead wait", 1, engine.bell())
            engine.note({"overflowed": 1, "held": 1})
            os._exit(0)
        os.waitpid(child, 0)
        self.dead = (self.directory / "dead").read_bytes()
        (self.directory / "dead").unlink()
        self.push(b"a", *[b"a%d" % number * 20 for number in range(8)])
        self.push(b"large", LARGE, b"after it")
        self.push(b"old", b"x1", lifetime=100)
        self.push(b"old", b"live", lifetime=10**13)
        self.push(b"old", b"x2", b"x3", lifetime=100)
        self.push(b"all old", b"x4", b"x5", lifetime=100)
        self.push(b"own", b"mine", owner=self.identity)
        for bell in self.bells[:3]:
            engine.pop(b"waited for", 1, bell)
        engine.pop(b"the dead wait", 1, self.bells[3])
        self.push(b"emptied", b"once")
        engine.pop(b"emptied")
        for number in range(5):
            engine.put(b"t", b"m%d" % number, 1 << 62)
        engine.put(b"t", b"old", self.now + 100)
        engine.put(b"t", b"mine", 1 << 62, self.identity)
        engine.put(b"single", b"m", 1 << 62)
        engine.put(b"old", b"m1", self.now + 100)
        engine.put(b"old", b"m2", self.now + 100)
        engine.note({"overflowed": 10, "held": 10})
        self.now += 200

    # ---- bytes

    @property
    def locked_segments(self) -> tuple[Any, Any]:
        """The regions of the channels and of the groups."""
        return self.engine.session.channels, self.engine.session.groups

    def save(self) -> tuple[bytes, bytes]:
        """All bytes of both segments."""
        channels, groups = self.locked_segments
        return bytes(channels.segment.view), bytes(groups.segment.view)

    def load(self, state: tuple[bytes, bytes]) -> None:
        """Put them back."""
        for locked_segment, data in zip(self.locked_segments, state, strict=True):
            # All but what identifies the store, which may have been made afresh meanwhile.
            locked_segment.segment.view[_HEAD:] = data[_HEAD:]
        # So that the same is done each time, as a process does that has just come.
        engine = self.engine
        engine.session.queues._known.clear()
        engine.session.recovered = False

    @property
    def store(self) -> Store:
        """The store that is open."""
        assert self.engine.session.store is not None
        return self.engine.session.store

    def free_locks(self) -> None:
        """Release the locks, whatever process was killed with them, and do no more."""
        for locked_segment in self.locked_segments:
            locked_segment.mutex.lock()
            locked_segment.mutex.unlock()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Both segments entered, as by the next caller; what a killed process left is completed."""
        channels, groups = self.locked_segments
        with channels:
            pass
        with groups:
            self.engine.session.follow_flush()
            yield

    def state(self) -> tuple[int, int]:
        """STATE of both segments."""
        return tuple(locked_segment.words[layout.STATE] for locked_segment in self.locked_segments)

    # ---- looking

    def findings(self) -> list[str]:
        """What the full check finds."""
        found = []
        for locked_segment in self.locked_segments:
            with locked_segment as heap:
                found += check(heap)
        return found

    def view(self) -> View:
        """What users can tell. Changes nothing but to end what a killed process left."""
        view = View(flushes=self.engine.flushes)
        with self.inside():
            self._channels(view)
            self._groups(view)
        return view.tidy()

    def _listed(self, heap: Any, message: int, records: list[bytes]) -> None:
        """The live messages from one on."""
        while message:
            here = heap.words[heap.end - message]
            if heap.words[here + layout.M_DEADLINE] > self.now:
                records.append(short(heap.payload(here, layout.M_WORDS)))
            message = heap.words[here + layout.M_LINK] & layout.LINK_MASK

    def _channels(self, view: View) -> None:
        engine, heap = self.engine, self.engine.session.channels.heap
        words, processes, geometry = heap.words, engine.session.processes, heap.geometry
        view.flushes = words[layout.FLUSHES]
        view.processes = {processes.identity(slot) for slot in processes.used()}
        view.counted = processes.sums()["overflowed"]
        for at in self._records(heap, layout.QUEUE):
            name = heap.payload(at, layout.Q_WORDS)
            owner = words[at + layout.Q_OWNER]
            records = view.queues.setdefault(name, [])
            orphaned = owner and not processes.owner_alive(owner)
            if not orphaned:
                self._listed(heap, head(words, at, layout.FRONT_SHIFT), records)
                for entry, _ in engine.session.queues._rings.extents.entries(at):
                    live = not words[entry] & layout.ENTRY_DEAD
                    if live and words[entry + layout.ENTRY_DEADLINE] > self.now:
                        start = (entry + layout.ENTRY_WORDS) * layout.WORD
                        size = words[entry] & layout.ENTRY_SIZE
                        records.append(short(heap.bytes[start : start + size].tobytes()))
                self._listed(heap, head(words, at, layout.BEHIND_SHIFT), records)
            bells = [words[at + layout.Q_BELL]]
            node = words[at + layout.Q_WAIT_FIRST]
            while node:
                here = geometry.nodes + (node - 1) * layout.NODE_WORDS
                bells.append(words[here + layout.NODE_BELL])
                node = words[here + layout.NODE_NEXT]
            for bell in bells:
                if processes.bell_alive(bell) and bell & layout.SLOT_MASK == self.slot:
                    number = bell >> layout.BELL_NUMBER_SHIFT & layout.SLOT_MASK
                    view.bells.setdefault(name, []).append(number)

    def _groups(self, view: View) -> None:
        heap, processes = self.engine.session.groups.heap, self.engine.session.processes
        words = heap.words
        for at in self._records(heap, layout.TABLE):
            members = view.tables.setdefault(heap.payload(at, layout.T_WORDS), {})
            member = words[at + layout.T_FIRST]
            while member:
                here = words[heap.end - member]
                owner, deadline = words[here + layout.E_OWNER], words[here + layout.E_DEADLINE]
                if deadline > self.now and (not owner or processes.owner_alive(owner)):
                    members[heap.payload(here, layout.E_WORDS)] = deadline
                member = words[here + layout.E_NEXT]

    def _records(self, heap: Any, kind: int) -> Iterator[int]:
        """Addresses of the records of a kind in the hash table."""
        table = heap.geometry.hash_table
        # Tables and members have it in the same place.
        chain = layout.Q_CHAIN if kind == layout.QUEUE else layout.E_CHAIN
        for handle in heap.words[table : table + heap.geometry.buckets].tolist():
            while handle:
                at = heap.words[heap.end - handle]
                if heap.kind(at) == kind:
                    yield at
                handle = heap.words[at + chain]

    # ---- going on

    def exercise(self, view: View, full: bool = False) -> None:
        """The next ten operations do what the view lets one expect. ``full``: may be refused."""
        engine = self.engine
        for name, records in list(view.queues.items())[:3]:
            popped = [short(each.payload) for each in engine.pop(name, 2)]
            expect(popped, records[:2], f"popping {name!r}")
        more = [self.record(b"new", b"n1"), self.record(b"a", b"n2"), self.record(b"new", LARGE)]
        refused = engine.push(more)
        expect(not refused or full, True, f"pushing afterwards: {refused}")
        if not refused:
            expect([each.payload for each in engine.pop(b"new", 5)], [b"n1", LARGE], "the new ones")
            engine.restore(b"new", Popped(b"back", self.now + SECOND))
            expect(engine.pop(b"new")[0].payload, b"back", "what was restored")
        members = view.tables.get(b"t", {})
        expect(sorted(engine.members(b"t").names), sorted(members), "the members")
        try:
            engine.put(b"t", b"n", 1 << 62)
            expect(engine.remove(b"t", b"n"), True, "removing")
        except Exception as error:
            expect((type(error).__name__, full), ("StoreFull", True), "putting")
        engine.pop(b"bell", 1, self.bells[3])
        engine.disarm(b"bell", self.bells[3])
        for name in view.bells:
            engine.push([self.record(name, b"ring")])
        counts = engine.statistics()
        became = ("popped", "expired", "orphaned", "flushed", "pending")
        expect(sum(counts[key] for key in became), counts["pushed"], "what became of all")
        expect(self.findings(), [], "the check after ten more operations")


def expect(found: object, wanted: object, what: str) -> None:
    """Raise a `Finding` that tells both."""
    if found != wanted:
        raise Finding(f"{what}: {brief(found)} and not {brief(wanted)}")


def short(payload: bytes) -> bytes:
    """A payload, or what can be compared in its stead."""
    return payload if len(payload) <= 20 else b"%d bytes %08x" % (len(payload), crc32(payload))


def brief(value: object) -> str:
    """A text that fits on a screen."""
    text = repr(value)
    return text if len(text) < 2_000 else f"{text[:2_000]} ..."


def until(world: World, action: Callable[[], object], seen: Callable[[], object]) -> None:
    """Repeat an action, and go back to before the one that changed what ``seen`` gives."""
    for _ in range(10_000):
        state, first = world.save(), seen()
        action()
        if seen() != first:
            world.load(state)
            return
    raise Finding("the setting up never came to its point")


def fast() -> str | None:
    """A folder in memory, if there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
