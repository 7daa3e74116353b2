"""Who is measured: one module and one factory for each kind of layer."""

from __future__ import annotations

from . import in_memory, lite, ours, redis_core, redis_pubsub
from .base import Peer


def all_peers() -> list[Peer]:
    """All layers, ours first."""
    return [
        *(ours.peer(engine) for engine in ("posix", "sysv", "mmap", "memory")),
        # Whether a store that was written by hand earns its keep.
        ours.peer("benchmarks.lmdb_store.engine:LMDBEngine", "asgi_ipc on LMDB"),
        in_memory.peer(),
        redis_core.peer(),
        redis_pubsub.peer(),
        lite.peer(),
    ]


__all__ = ["Peer", "all_peers"]
