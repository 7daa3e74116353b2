"""What a process counts of itself, noted in the store for the others to see.

A message that bypasses the store, or that is dropped in a buffer, is counted where that happens,
which costs next to nothing and which no other process sees. So each process writes its counts into
the store (`asgi_ipc.engines.base.Engine.note`): about once a second while any of its receivers
waits or its counts have changed, when statistics are asked for, and when it releases the store.
What others see is therefore a second old, or older if a process does not get round to its periodic
checks. A killed process's last second is lost.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Mapping
from typing import Protocol

from ..engines.base import COUNTERS, Engine
from ..engines.deferred import exclusive
from ..engines.guards import OwnLock
from ..exceptions import Reentered, StoreCorrupt, StoreUnavailable

#: Seconds between two notes.
INTERVAL = 1.0
#: What the demultiplexers before had counted on an engine that the user passed in and that stays
#: open, and in which process: a note replaces all that its process has noted.
_before: weakref.WeakKeyDictionary[Engine, tuple[int, dict[str, int]]] = weakref.WeakKeyDictionary()


class Counting(Protocol):
    """What notes use of their `asgi_ipc.delivery.demultiplexer.Demultiplexer`."""

    engine: Engine
    lock: OwnLock

    def measure(self) -> None:
        """Measure what is held, where no event loop does so regularly; the lock is held."""

    def noteworthy(self) -> dict[str, int]:
        """Return what this process has counted and what it holds; the lock is held."""


class Notes:
    """The notes of one demultiplexer."""

    def __init__(self, demux: Counting) -> None:
        self._demux = demux
        self._is_wanted = demux.engine.capabilities.inspects
        self.reset()

    def reset(self) -> None:
        """Begin with nothing, as a forked child does."""
        #: When to write next, by `time.monotonic`.
        self.due = 0.0
        self._noted: Mapping[str, int] = {}

    def are_owed(self) -> bool:
        """Return whether something was counted since the last note."""
        if not self._is_wanted:
            return False
        counts = self._demux.noteworthy()
        return counts != (self._noted or dict.fromkeys(counts, 0))

    def write_if_due(self) -> None:
        """Write, if it is time for that. For callers without an event loop that does."""
        if self._is_wanted and time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Write what has been counted. Drops the engine's errors: the next call meets them."""
        if not self._is_wanted:
            return
        self.due = time.monotonic() + INTERVAL
        with contextlib.suppress(Reentered):
            with exclusive(self._demux.lock):
                self._demux.measure()
                counts = self._demux.noteworthy()
            # Also if they are as they were: the store may be another one.
            if self._noted or any(counts.values()):
                self._write(counts)

    def end(self, counts: dict[str, int], engine_stays: bool) -> None:
        """Write the last counts. If the engine stays open, the next demultiplexer adds to them."""
        if self._is_wanted:
            with contextlib.suppress(Reentered):
                self._write(counts)
            if engine_stays:
                counts = self._with_those_before(counts)
                with contextlib.suppress(TypeError):  # An engine to which no weak reference can be.
                    kept = {name: counts[name] for name in COUNTERS}
                    _before[self._demux.engine] = os.getpid(), kept

    def _write(self, counts: dict[str, int]) -> None:
        with contextlib.suppress(StoreCorrupt, StoreUnavailable):
            self._demux.engine.note(self._with_those_before(counts))
            self._noted = counts

    def _with_those_before(self, counts: dict[str, int]) -> dict[str, int]:
        before: Mapping[str, int] = {}
        with contextlib.suppress(TypeError):
            process, kept = _before.get(self._demux.engine, (0, {}))
            # A forked child has noted nothing.
            before = kept if process == os.getpid() else {}
        return {name: count + before.get(name, 0) for name, count in counts.items()}


__all__ = ["INTERVAL", "Notes"]
