"""What the tests of layers on stores of shared memory have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.layers.core import LayerCore
from tests.tools.stores import (
    KIB,
)

__all__ = [
    "demux_of",
    "drain",
    "engine_of",
    "note_late_sends",
    "options",
    "set_drop_clock",
    "stop_looking",
]


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


def set_drop_clock(
    layer: IPCChannelLayer | SyncIPCChannelLayer, clock: Callable[[], float]
) -> None:
    """Let the log of dropped messages read this clock, which it does whenever one is dropped."""
    demux_of(layer).drops._clock = clock


def note_late_sends(patch: pytest.MonkeyPatch, note: Callable[[dict[str, Any]], object]) -> None:
    """Note what a call that interrupted another has left for that one to send."""
    push_late = LayerCore._push_late

    def noted(core: LayerCore, records: dict[str, Any]) -> None:
        push_late(core, records)
        note(records)

    patch.setattr(LayerCore, "_push_late", noted)


def stop_looking(listener: Any) -> None:
    """Let a loop's listener have no regular look any more, so that only a wake-up serves it."""
    if listener._timer is not None:
        listener._timer.cancel()


def drain(layer: SyncIPCChannelLayer, channel: str) -> list[int]:
    """The numbers of the messages on a channel."""
    found: list[int] = []
    while True:
        _, message = layer.receive([channel])
        if message is None:
            return found
        found.append(message["n"])
