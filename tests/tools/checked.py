"""A store with something of everything in it, and its full check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_ipc.cli.check import check
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from tests.tools.stores import (
    open_store,
    record,
)


def fill(engine: SharedMemoryEngine) -> SharedMemoryEngine:
    """Something of everything."""
    engine.push([record(engine, b"a", b"%d" % number) for number in range(5)])
    engine.push([record(engine, b"large", bytes(50_000)), record(engine, b"gone")])
    engine.pop(b"gone")
    engine.pop(b"waited for", 1, engine.bell())
    for number in range(5):
        engine.put(b"t", b"m%d" % number, 1 << 62)
    return engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SharedMemoryEngine]:
    engine = fill(open_store(tmp_path))
    yield engine
    engine.destroy()


def checked(engine: SharedMemoryEngine, directory: Path) -> list[str]:
    """What the check finds in the store."""
    return check("store", engine.name, {"directory": directory})
