"""Engines: what stores the messages of a channel layer.

Begin with `base`, the contract, and `memory`, its readable reference within one process. `shm`
has the engines in shared memory. `choice` finds an engine by its name, and is where a new one is
added; `bell`, `deferred` and `guards` are for all of them. Layers, delivery and commands import
from here; nothing here imports them.
"""

from __future__ import annotations

from .choice import (
    BUILT_IN,
    ENTRY_POINT_GROUP,
    Factory,
    available,
    find,
    is_instance,
    names,
    open_engine,
)

__all__ = [
    "BUILT_IN",
    "ENTRY_POINT_GROUP",
    "Factory",
    "available",
    "find",
    "is_instance",
    "names",
    "open_engine",
]
