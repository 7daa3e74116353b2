"""Engines: stores of queues and tables of bytes, and the choice of one.

Begin with `base`, the contract that every engine keeps, then `memory`, the readable engine of one
process. `choice` finds an engine by name, and its names are this package's too. `bell` wakes
receivers. `guards` and `deferred` handle code that Python runs in the middle of a call.
`process_hints` tells people of a process, and `own_counts` are what it noted of itself. `shm` has
the engines over shared memory.

An engine knows nothing of channels, groups or messages, and imports nothing of asgi_ipc outside
this folder but `asgi_ipc.exceptions`. Every folder above may import from here; only the command
line looks inside `shm`. Public are `base`, `bell`, `process_hints`, `shm.segment` and the names
exported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .choice import BUILT_IN, ENTRY_POINT_GROUP, Factory, available, find, names, open_engine


def __getattr__(name: str) -> Any:
    # Loaded late, as every engine imports this package and only a layer makes a choice.
    if name in __all__:
        from . import choice

        return getattr(choice, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "Factory", "available", "find", "names", "open_engine"]
