"""Join a store to list what is in it, and tell which of its processes live."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from ..engines.base import Engine
from ..engines.shm.engine import SharedMemoryEngine
from ..engines.shm.heap import layout
from ..engines.shm.locks.base import FIRST_SLOT
from ..exceptions import EngineUnavailable
from ..layers.inspection import processes
from .choice import StoreChoice
from .joining import joined


@contextlib.contextmanager
def inspected(choice: StoreChoice) -> Iterator[Engine]:
    """Join a store whose engine tells what is in it; see `joining.joined`.

    Raises `EngineUnavailable` for an engine that does not.
    """
    with joined(choice) as engine:
        if not engine.capabilities.inspects:
            raise EngineUnavailable(
                f"engine {type(engine).__qualname__} does not tell what is in its stores "
                "(capability 'inspects'); 'stats' shows its counts"
            )
        yield engine


_COUNTED = "memberships of processes that have ended are counted until the next process opens it"
#: Said of memberships in a store that no process uses.
UNUSED = f"no process uses the store: {_COUNTED}"
STALE = f"no process uses a stale store: {_COUNTED}"


class Known(NamedTuple):
    """What is known of the processes of a store, by identity."""

    #: Process ids, as hints for people; also of processes that have ended, while a store tells.
    pids: dict[str, str]
    #: Those that live, this one too.
    living: frozenset[str]

    def named(self, identity: str | None) -> str:
        """Return a process for people: its id if it is known, and whether it is gone."""
        if not identity:
            return ""
        return self.pids.get(identity, identity) + ("" if self.lives(identity) else " (gone)")

    def lives(self, identity: str | None) -> bool | None:
        """Whether a process lives; None for none."""
        return identity in self.living if identity else None


def known(engine: Engine) -> Known:
    """Return what is known of the processes of a store; asked after what names them was read.

    In shared memory it is read as it is, without a lock: `Engine.processes` looks through all
    queues for what processes wait for.
    """
    if isinstance(engine, SharedMemoryEngine):
        session = engine.session
        lock_file = session.joined().lock_file
        slots, heap = session.processes, session.channels.heap
        first = heap.geometry.processes + layout.P_PID
        pids, living = {}, {engine.identity.hex()}
        for slot in slots.used():
            identity = slots.identity(slot).hex()
            pids[identity] = str(heap.words[first + slot * layout.PROCESS_WORDS])
            if slot != slots.own and lock_file.is_held(FIRST_SLOT + slot):
                living.add(identity)
        return Known(pids, frozenset(living))
    found = list(processes(engine))
    return Known(
        {each.identity: str(each.pid) for each in found if each.pid},
        frozenset({engine.identity.hex(), *(each.identity for each in found)}),
    )


def shown_command(command: str, parent: str) -> str:
    """Return what people see of a process's command line, and its parent's; see `process_hints`."""
    return f"child of {parent}" if parent else command or "(unknown)"


def is_unused(engine: Engine) -> bool:
    """Whether no other process uses a store, as far as its engine tells."""
    return engine.capabilities.inspects and known(engine).living <= {engine.identity.hex()}


__all__ = ["STALE", "UNUSED", "Known", "inspected", "is_unused", "known", "shown_command"]
