"""What is left in the store of a soak when all are dead but the steady ones."""

from __future__ import annotations

from asgi_ipc.engines.shm.check import check
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.heap.layout import BACKLOG, Q_OWNER, Q_WORDS, RINGS, WORD
from asgi_ipc.engines.shm.queues.counters import pending
from tests.tools.stores import (
    sweep,
)

from .ledgers import GROUPS
from .soak_workers import FORGOTTEN
from .standstill import turns

#: Seconds until the slots and memberships of the dead are gone.
SOON = 5.0
#: Seconds until everything is. What was sent to a member that was being forgotten stays until
#: it expires.
LATEST = FORGOTTEN + 4.0
#: Queues of the steady ones: the member's, and those of the pair.
QUEUES = 1 + 3
#: Messages that they may just be being sent.
PENDING = 5


def await_clean(engine: SharedMemoryEngine, alive: set[bytes], processes: int) -> list[str]:
    """See that within seconds nothing is left of the dead; what is left then, or is unsound.

    ``alive`` are the identities of those who may be members.
    """
    traces, unread = ["not looked at"], ["not looked at"]
    for passed in turns(LATEST, 0.1):
        if traces:
            traces = _traces(engine, alive, processes)
            if traces and passed > SOON:
                break
        unread = _unread(engine)
        if not traces and not unread:
            break
    faults = [f"after {passed:.0f} s: {left}" for left in (*traces, *unread)]
    for locked_segment in (engine._channels, engine._groups):
        with locked_segment as heap:
            faults += check(heap)
    return faults


def _traces(engine: SharedMemoryEngine, alive: set[bytes], processes: int) -> list[str]:
    """Memberships and process slots of the dead."""
    left = [
        f"membership of the dead: {member!r}"
        for number in range(GROUPS)
        for member in engine.members(b"group%d" % number).names
        if not any(identity in member for identity in alive)
    ]
    slots = engine.statistics()["processes"]
    if slots > processes:
        left.append(f"{slots} slots for {processes} processes")
    return left


def _unread(engine: SharedMemoryEngine) -> list[str]:
    """Queues and messages that the steady ones do not account for."""
    # As when room is needed.
    sweep(engine, engine.clock(), everything=True)
    counts = engine.statistics()
    if counts["queues"] <= QUEUES and counts["pending"] <= PENDING:
        return []
    return [f"{counts['queues']} queues with {counts['pending']} messages: {_queues(engine)}"]


def _queues(engine: SharedMemoryEngine) -> list[tuple[bytes, int, int]]:
    """Name, messages and owner of each queue."""
    index = engine._queues._index
    found = []
    with engine._channels as heap:
        for first in range(heap.geometry.buckets):
            for handle in index.chain(heap.geometry.hash_table + first):
                at = heap.address(handle)
                name, owner = heap.payload(at, Q_WORDS), heap.words[at + Q_OWNER]
                found.append((name, pending(heap.words, at), owner))
    return found


def in_use(engine: SharedMemoryEngine) -> int:
    """Bytes in use, without rings: the queues of the steady ones may just have some."""
    used = 0
    for locked_segment in (engine._channels, engine._groups):
        with locked_segment as heap:
            rings = heap.words[RINGS] + heap.words[BACKLOG]
            used += heap.usage()[0] - rings * heap.geometry.extent_words * WORD
    return used
