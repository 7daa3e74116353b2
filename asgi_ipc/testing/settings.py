"""`isolate_channel_layers`: the layers of Django's settings, each on a store of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test.utils import TestContextDecorator, override_settings
from django.utils.module_loading import import_string

from ..layers.aio import IPCChannelLayer
from .stores import TemporaryStore, new_prefix, noted

#: Options that join a site's machines over its server.
_OF_RELAY = {"relay", "relay_options", "relay_channels"}
#: Values of CHANNEL_LAYERS that are in force because of `isolate_channel_layers`, innermost last.
_isolated: list[Mapping[str, Any]] = []


class isolate_channel_layers(TestContextDecorator):  # noqa: N801 - named as Django names its own
    """Give each layer of asgi_ipc in ``CHANNEL_LAYERS`` a store of its own.

    Use it as a decorator of a `unittest.TestCase` class, whose tests then each have new stores; as
    a decorator of a test function or coroutine; or as a context manager. The stores are removed
    afterwards. A layer keeps its engine and options, except that it is joined to no other machine,
    or has those of ``TEST_CONFIG`` if its settings have that; and its prefix changes. Layers that
    shared a store share the new one.

    Other backends stay as they are. Raises `ImproperlyConfigured` if there is none of asgi_ipc
    among them, and for a layer whose ``engine`` is an object. If the settings in force are already
    isolated, it changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open: list[contextlib.ExitStack] = []

    def enable(self) -> Mapping[str, Any]:
        """Change the settings. Returns the value of CHANNEL_LAYERS."""
        with contextlib.ExitStack() as stack:
            configs: Mapping[str, Any] = getattr(settings, "CHANNEL_LAYERS", {})
            if not is_isolated():
                configs = _isolated_configs(configs)
                stack.enter_context(noted(stores_of(configs)))
                stack.callback(_close_layers, configs)
                stack.enter_context(_isolated_by(configs))
            self._open.append(stack.pop_all())
        return configs

    def disable(self) -> None:
        """Restore the settings, and remove the stores."""
        self._open.pop().close()


@contextlib.contextmanager
def _isolated_by(configs: Mapping[str, Any]) -> Iterator[None]:
    override = keep_isolated(configs)
    try:
        yield
    finally:
        _isolated.pop()
        override.disable()


def keep_isolated(configs: Mapping[str, Any]) -> override_settings:
    """Set CHANNEL_LAYERS to a value that is isolated, until the override is disabled."""
    getattr(settings, "CHANNEL_LAYERS", None)  # Loads the settings, which are overridden.
    override = override_settings(CHANNEL_LAYERS=configs)
    override.enable()
    _isolated.append(configs)
    return override


def is_isolated() -> bool:
    """Tell whether the settings in force are those of `isolate_channel_layers`."""
    return bool(_isolated) and getattr(settings, "CHANNEL_LAYERS", None) is _isolated[-1]


def is_used() -> bool:
    """Tell whether this process uses Django, and its settings have channel layers."""
    configured = "DJANGO_SETTINGS_MODULE" in os.environ or settings.configured
    return configured and bool(getattr(settings, "CHANNEL_LAYERS", None))


def is_ours(config: Mapping[str, Any]) -> bool:
    """Tell whether an entry of CHANNEL_LAYERS names a layer of asgi_ipc."""
    backend = config.get("BACKEND")
    found = import_string(backend) if isinstance(backend, str) else None
    return isinstance(found, type) and issubclass(found, IPCChannelLayer)


def _isolated_configs(configs: Mapping[str, Any]) -> dict[str, Any]:
    """CHANNEL_LAYERS with another prefix for each store of ours."""
    prefixes: dict[str, str] = {}
    changed = dict(configs)
    for alias, config in configs.items():
        if not is_ours(config):
            continue
        options = dict(config["TEST_CONFIG"] if "TEST_CONFIG" in config else _alone(config))
        engine = options.get("engine", "posix")
        if not isinstance(engine, type) and hasattr(engine, "push"):
            raise ImproperlyConfigured(
                f"CHANNEL_LAYERS[{alias!r}] passes the engine as an object, {engine!r}, so a test"
                " can't have a store of its own; pass the engine's name or class, or give this"
                " entry a TEST_CONFIG that does"
            )
        store = TemporaryStore.of({"prefix": "asgi", **options})
        key = repr((store.prefix, store.engine, sorted(store.engine_options.items())))
        options["prefix"] = prefixes.setdefault(key, new_prefix(store.prefix))
        changed[alias] = {**config, "CONFIG": options}
    if not prefixes:
        backends = sorted({str(config.get("BACKEND")) for config in configs.values()})
        raise ImproperlyConfigured(
            f"CHANNEL_LAYERS has no layer of asgi_ipc, whose tests could have a store of their own"
            f" (its backends: {', '.join(backends) or 'none'}); set BACKEND to"
            " 'asgi_ipc.IPCChannelLayer', or take asgi_ipc.testing out of these tests"
        )
    return changed


def _alone(config: Mapping[str, Any]) -> dict[str, Any]:
    """CONFIG without the server that joins machines: a test neither needs nor disturbs it."""
    options = config.get("CONFIG", {})
    return {name: value for name, value in options.items() if name not in _OF_RELAY}


def stores_of(configs: Mapping[str, Any]) -> list[TemporaryStore]:
    """The stores of the isolated layers, each once."""
    found = [TemporaryStore.of(config["CONFIG"]) for config in configs.values() if is_ours(config)]
    return list({store.prefix: store for store in found}.values())


def open_layers(configs: Mapping[str, Any]) -> list[IPCChannelLayer]:
    """The layers of ours that Channels has made of the settings in force."""
    layers = sys.modules.get("channels.layers")
    if layers is None or layers.channel_layers.configs is not configs:
        return []
    found = layers.channel_layers.backends.items()
    return [layer for alias, layer in found if is_ours(configs.get(alias, {}))]


def _close_layers(configs: Mapping[str, Any]) -> None:
    """Remove the stores of layers that a subclass has opened with options of its own."""
    for layer in open_layers(configs):
        layer.sync.destroy()


__all__ = [
    "is_isolated",
    "is_ours",
    "is_used",
    "isolate_channel_layers",
    "keep_isolated",
    "open_layers",
    "stores_of",
]
