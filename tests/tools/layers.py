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

__all__ = ["drain", "engine_of", "options"]


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


def engine_of(layer: IPCChannelLayer | SyncIPCChannelLayer) -> SharedMemoryEngine:
    return cast(SharedMemoryEngine, layer._core.demux.engine)


def drain(layer: SyncIPCChannelLayer, channel: str) -> list[int]:
    found: list[int] = []
    while True:
        _, message = layer.receive([channel])
        if message is None:
            return found
        found.append(message["n"])
