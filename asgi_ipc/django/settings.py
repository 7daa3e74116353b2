"""The layers of this package in the setting ``CHANNEL_LAYERS``, as they are written there."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from django.conf import settings
from django.utils.module_loading import import_string

from ..layers.aio import IPCChannelLayer
from ..layers.options import NAMES
from ..layers.surface import LayerSurface
from ..layers.sync import SyncIPCChannelLayer

__all__ = ["Layer", "layers"]

_INIT = inspect.getattr_static(IPCChannelLayer, "__init__")
#: What the constructor takes where the settings say nothing.
_DEFAULTS: Mapping[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(IPCChannelLayer).parameters.items()
    if name in NAMES
}


class Layer(NamedTuple):
    """An entry of ``CHANNEL_LAYERS`` whose BACKEND is one of ours."""

    alias: str
    entry: Mapping[str, Any]
    #: None if BACKEND names something in this package that is not there.
    backend: type[LayerSurface] | None
    #: ``CONFIG`` or ``TEST_CONFIG``.
    key: str
    config: Any

    @property
    def where(self) -> str:
        """How it is called in texts."""
        key = "" if self.key == "CONFIG" else f"[{self.key!r}]"
        return f"CHANNEL_LAYERS[{self.alias!r}]{key}"

    @property
    def is_synchronous(self) -> bool:
        """Whether it is a layer that Channels can't use."""
        return self.backend is not None and issubclass(self.backend, SyncIPCChannelLayer)

    @property
    def is_plain(self) -> bool:
        """Whether its options are those of `asgi_ipc.IPCChannelLayer`.

        A subclass with a constructor of its own may take others.
        """
        if self.backend is None or self.is_synchronous:
            return False
        return inspect.getattr_static(self.backend, "__init__") is _INIT

    @property
    def options(self) -> dict[str, Any]:
        """The options of the layer, defaults included; no others than there are."""
        given = self.config if isinstance(self.config, Mapping) else {}
        return {**_DEFAULTS, **{name: given[name] for name in NAMES if name in given}}


def layers(with_tests: bool = False) -> Iterator[Layer]:
    """Yield our entries in the order of the setting; ``with_tests``: also their TEST_CONFIG."""
    configured = getattr(settings, "CHANNEL_LAYERS", {})
    for alias, entry in configured.items() if isinstance(configured, Mapping) else ():
        if not isinstance(entry, Mapping):
            continue  # Channels says so.
        ours, backend = _backend(entry.get("BACKEND"))
        if not ours:
            continue
        yield Layer(alias, entry, backend, "CONFIG", entry.get("CONFIG", {}))
        if with_tests and "TEST_CONFIG" in entry:
            yield Layer(alias, entry, backend, "TEST_CONFIG", entry["TEST_CONFIG"])


def _backend(path: object) -> tuple[bool, type[LayerSurface] | None]:
    """Import a BACKEND; return whether it is one of ours, or was meant to be, and its class."""
    if not isinstance(path, str):
        return False, None
    meant = path.partition(".")[0] == IPCChannelLayer.__module__.partition(".")[0]
    try:
        found = import_string(path)
    except ImportError:
        return meant, None
    except Exception:
        return False, None  # Whatever is wrong with another's module.
    if isinstance(found, type) and issubclass(found, LayerSurface):
        return True, found
    return meant, None
