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


def destroy_store(engine: str, place: Place, **engine_options: str) -> None:
    """Remove the store of a place."""
    import logging
    import warnings

    from asgi_ipc import SyncIPCChannelLayer

    # A case may have made its store with other sizes.
    log = logging.getLogger("asgi_ipc")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            SyncIPCChannelLayer(
                place.prefix, engine=engine, engine_options=engine_options
            ).destroy()
    finally:
        log.setLevel(level)


def _send_now(layer: Any) -> SendNow:
    send: SendNow = layer.sync.send
    return send


def _used(place: Place, layer: Any) -> int:
    return int(layer.sync.global_statistics()["bytes_used"])


def _unavailable(engine: str, resources: Resources) -> str | None:
    from asgi_ipc import EngineUnavailable
    from asgi_ipc.engines import find

    try:
        # A factory need not say; then it is tried.
        asked = getattr(find(engine), "unavailable", lambda: None)()
    except EngineUnavailable as error:
        return str(error).partition("\n")[0]
    return None if asked is None else str(asked)


def peer(engine: str, name: str = "") -> Peer:
    """asgi_ipc on that engine: one of its own, a registered one, or ``package.module:Class``."""
    return Peer(
        name=name or f"asgi_ipc {engine}",
        open=partial(_open, engine),
        close=_close,
        unavailable=partial(_unavailable, engine),
        imports=f"from asgi_ipc import IPCChannelLayer; {_import_of(engine)}",
        clean=partial(destroy_store, engine),
        send_now=_send_now,
        used=_used,
        has_sizes=True,
        crosses_processes=_crosses_processes(engine),
    )


def _import_of(engine: str) -> str:
    """What imports an engine, wherever it is registered."""
    return f"from asgi_ipc.engines import find; find({engine!r})"


def _crosses_processes(engine: str) -> bool:
    from asgi_ipc import EngineUnavailable
    from asgi_ipc.engines import find

    try:
        found = find(engine)
    except EngineUnavailable:
        return True  # It is left out, with the reason.
    capabilities = getattr(found, "capabilities", None)
    return capabilities is None or capabilities.crosses_processes
