"""A channel layer in shared memory, for Django Channels, plain asyncio and synchronous Python.

    from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer

The layers are loaded when they are first asked for: a synchronous program never pays for
asyncio, and neither needs Django or Channels to be installed.

Public modules are this one, `asgi_ipc.exceptions`, `asgi_ipc.django` with `asgi_ipc.django.layers`
and `asgi_ipc.django.consumers`, `asgi_ipc.engines` with `asgi_ipc.engines.base`,
`asgi_ipc.engines.bell` and `asgi_ipc.engines.shm.segment`, `asgi_ipc.relay.wire`,
`asgi_ipc.metrics.prometheus` and `asgi_ipc.metrics.opentelemetry`, `asgi_ipc.testing`, and
`asgi_ipc.conformance`. All others are private, whatever their names: they may change in any
release.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .exceptions import (
    ChannelFull,
    EngineUnavailable,
    FlushIncomplete,
    ForeignChannel,
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
    "ForeignChannel",
    "IPCChannelLayer",
    "MessageTooLarge",
    "OptionError",
    "StoreCorrupt",
    "StoreFull",
    "StoreUnavailable",
    "SyncIPCChannelLayer",
    "__version__",
]
