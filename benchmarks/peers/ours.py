"""asgi_ipc, on each of its engines."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..place import Place
from .base import CAPACITY, Layer, Peer, Resources, SendNow

_MEMORY = {"channel_memory": 256 * 1024 * 1024, "group_memory": 32 * 1024 * 1024}


def _open(engine: str, place: Place, **options: Any) -> Layer:
    from asgi_ipc import IPCChannelLayer

    layer: Layer = IPCChannelLayer(
        place.prefix, **{"engine": engine, "capacity": CAPACITY, **_MEMORY, **options}
    )
    return layer


async def _close(layer: Any) -> None:
    await layer.close()


def _clean(engine: str, place: Place) -> None:
    import warnings

    from asgi_ipc import SyncIPCChannelLayer

    with warnings.catch_warnings():
        # A case may have made its store with other sizes.
        warnings.simplefilter("ignore", RuntimeWarning)
        SyncIPCChannelLayer(place.prefix, engine=engine).destroy()


def _send_now(layer: Any) -> SendNow:
    send: SendNow = layer.sync.send
    return send


def _used(place: Place, layer: Any) -> int:
    return int(layer.sync.global_statistics()["bytes_used"])


def _unavailable(engine: str, resources: Resources) -> str | None:
    from asgi_ipc.engines import available

    return available()[engine]


def peer(engine: str) -> Peer:
    """asgi_ipc on that engine."""
    return Peer(
        name=f"asgi_ipc {engine}",
        open=partial(_open, engine),
        close=_close,
        unavailable=partial(_unavailable, engine),
        imports=f"from asgi_ipc import IPCChannelLayer; import asgi_ipc.engines.{engine}",
        clean=partial(_clean, engine),
        send_now=_send_now,
        used=_used,
        has_sizes=True,
        crosses_processes=engine != "memory",
    )
