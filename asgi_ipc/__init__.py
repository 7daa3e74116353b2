"""A channel layer in shared memory, for Django Channels, plain asyncio and synchronous Python.

    from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer

The layers are loaded when they are first asked for: a synchronous program never pays for
asyncio, and neither needs Django or Channels to be installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .exceptions import (
    ChannelFull,
    EngineUnavailable,
    FlushIncomplete,
    MessageTooLarge,
    OptionError,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from .layers.aio import IPCChannelLayer
    from .layers.sync import SyncIPCChannelLayer

__version__ = "2.0.0"

#: Where that is which is loaded late.
_LATE = {"IPCChannelLayer": ".layers.aio", "SyncIPCChannelLayer": ".layers.sync"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        found = getattr(import_module(_LATE[name], __name__), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})


__all__ = [
    "ChannelFull",
    "EngineUnavailable",
    "FlushIncomplete",
    "IPCChannelLayer",
    "MessageTooLarge",
    "OptionError",
    "StoreCorrupt",
    "StoreFull",
    "StoreUnavailable",
    "SyncIPCChannelLayer",
    "__version__",
]
