"""What commands share that list what is in a store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..engines.base import Engine
from ..engines.shm.engine import SharedMemoryEngine
from ..engines.shm.heap import layout
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


def pids(engine: Engine) -> dict[str, str]:
    """Return the process ids that are known, by identity, as hints for people.

    In shared memory they are read as they are, without a lock: `Engine.processes` looks through all
    queues for what processes wait for.
    """
    if isinstance(engine, SharedMemoryEngine):
        slots, heap = engine.session.processes, engine.session.channels.heap
        first = heap.geometry.processes + layout.P_PID
        return {
            slots.identity(slot).hex(): str(heap.words[first + slot * layout.PROCESS_WORDS])
            for slot in slots.used()
        }
    return {each.identity: str(each.pid) for each in processes(engine) if each.pid}


__all__ = ["inspected", "pids"]
