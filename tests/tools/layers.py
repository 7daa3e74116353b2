"""What the tests of layers on stores of shared memory have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from tests.tools.stores import (
    KIB,
)

__all__ = ["demux_of", "drain", "engine_of", "options"]


ENGINES = ["posix", "sysv", "mmap"]


@pytest.fixture(params=ENGINES)
def options(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What all layers of a test are made with; the store is removed after it."""
    made = {
        "prefix": "store",
        "engine": request.param,
        "engine_options": {"directory": str(tmp_path)},
        "channel_memory": 2048 * KIB,
        "group_memory": 256 * KIB,
        "capacity": 100_000,
        "expiry": 3600,
    }
    yield made
    SyncIPCChannelLayer(**made).destroy()
    assert list(tmp_path.iterdir()) == []


def demux_of(layer: IPCChannelLayer | SyncIPCChannelLayer) -> Any:
    """This process's share of the layer's store, a `Demultiplexer`, with all that is inside it."""
    return layer._core.demux


def engine_of(layer: IPCChannelLayer | SyncIPCChannelLayer) -> SharedMemoryEngine:
    """The layer's store, which is one in shared memory."""
    return cast(SharedMemoryEngine, demux_of(layer).engine)


def drain(layer: SyncIPCChannelLayer, channel: str) -> list[int]:
    found: list[int] = []
    while True:
        _, message = layer.receive([channel])
        if message is None:
            return found
        found.append(message["n"])
