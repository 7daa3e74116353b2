"""What tests have left in the system: memory and locks of stores below a directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from asgi_ipc.cli.orphans import find_orphans, folder_of, look_at_memory, remove_orphan
from asgi_ipc.engines.shm.files import SHM
from asgi_ipc.engines.shm.locks.semaphore_locks import folder_of_flags
from asgi_ipc.engines.shm.store_memory import HEAD


def remove_stores_below(directory: Path) -> None:
    """Remove a directory, and the memory and locks to which only the stores there led."""
    known = _folders(directory)
    shutil.rmtree(directory, ignore_errors=True)
    for orphan in find_orphans(known):
        if orphan.folder in known:
            remove_orphan(orphan)


def left_below(directory: Path) -> list[str]:
    """Return what belongs to stores in that directory and lies elsewhere, with their folders."""
    known = _folders(directory)
    everything = (*_memories(known), *_locks(known))
    return sorted(f"{name} of {folder}" for name, folder in everything if folder in known)


def _folders(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob("*") if path.is_dir()]


def _memories(known: list[str]) -> Iterator[tuple[str, str | None]]:
    return look_at_memory(
        lambda engine, locator, memory: (locator, folder_of(memory.head(HEAD), known))
    )


def _locks(known: list[str]) -> Iterator[tuple[str, str | None]]:
    for path in Path(SHM).glob("asgi_ipc.*.marks"):
        yield path.name, folder_of_flags(path.name.split(".")[1], known)
