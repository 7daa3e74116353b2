"""What tests have left in the system: memory and locks of stores below a directory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from asgi_ipc.cli.finding import importable_engine
from asgi_ipc.cli.orphans import memory_at
from asgi_ipc.engines import names
from asgi_ipc.engines.shm.files import SHM
from asgi_ipc.engines.shm.locks.semaphore_locks import folder_of_flags
from asgi_ipc.engines.shm.store_memory import HEAD, folder_in, is_folder_in


def left_below(directory: Path) -> list[str]:
    """Return what belongs to stores in that directory and lies elsewhere, with their folders."""
    known = [str(path) for path in directory.rglob("*") if path.is_dir()]
    everything = (*_memories(known), *_locks(known))
    return sorted(f"{name} of {folder}" for name, folder in everything if folder in known)


def _memories(known: list[str]) -> Iterator[tuple[str, str | None]]:
    for engine in names():
        factory = importable_engine(engine)
        if factory is None or factory.unavailable():
            continue
        for locator in factory.segment.left():
            with contextlib.suppress(OSError), memory_at(factory.segment, locator) as memory:
                head = memory.head(HEAD)
                long = (each for each in known if is_folder_in(head, each))
                yield locator, folder_in(head) or next(long, None)


def _locks(known: list[str]) -> Iterator[tuple[str, str | None]]:
    for path in Path(SHM).glob("asgi_ipc.*.marks"):
        yield path.name, folder_of_flags(path.name.split(".")[1], known)
