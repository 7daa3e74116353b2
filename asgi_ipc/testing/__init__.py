"""For the tests of sites and programs: layers on stores of their own, removed after each test.

Begin with `settings`, which isolates the layers of Django's settings. Below it is `stores`: names
and removal of stores, and what a killed test run leaves. `live_server` shares a store with a server
in a process of its own, and `fixtures` is for pytest. Nothing else in `asgi_ipc` imports this
package, and nothing of it is loaded unless a test run asks for it.

With pytest, name this package as a plug-in, in the ``conftest.py`` of the root folder::

    pytest_plugins = ["asgi_ipc.testing"]

Each test then has the layers of ``CHANNEL_LAYERS`` on stores of its own, and may ask for the
fixture ``channel_layer``. With unittest use the decorator `isolate_channel_layers`, and
`LiveServerLayersMixin` for Channels' live server. `temporary_layer` needs neither Django nor
pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fixtures import (
        channel_layer,
        channel_layer_options,
        isolated_channel_layers,
        pytest_sessionfinish,
    )
    from .live_server import LiveServerLayersMixin
    from .settings import isolate_channel_layers
    from .stores import temporary_layer

#: Where each name is. Loaded when asked for: unittest needs no pytest, and asyncio no Django.
_LATE = {
    "LiveServerLayersMixin": ".live_server",
    "channel_layer": ".fixtures",
    "channel_layer_options": ".fixtures",
    "isolate_channel_layers": ".settings",
    "isolated_channel_layers": ".fixtures",
    "pytest_sessionfinish": ".fixtures",
    "temporary_layer": ".stores",
}
#: What pytest looks for in a plug-in.
_FOR_PYTEST = {name for name, module in _LATE.items() if module == ".fixtures"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        found = getattr(import_module(_LATE[name], __name__), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FOR_PYTEST})


__all__ = [
    "LiveServerLayersMixin",
    "channel_layer",
    "channel_layer_options",
    "isolate_channel_layers",
    "isolated_channel_layers",
    "pytest_sessionfinish",
    "temporary_layer",
]
