"""`LiveServerLayersMixin`: Channels' live server and its test share a store of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .settings import isolate_channel_layers, keep_isolated, open_layers


class LiveServerLayersMixin:
    """Give a live server and the test the same store, which no other test uses.

    Name it before Channels' class::

        class PageTests(LiveServerLayersMixin, ChannelsLiveServerTestCase): ...

    The server process has the settings of this process in ``CHANNEL_LAYERS``, however it is
    started (fork, forkserver or spawn). The store lasts as long as the server, that is, for the
    class; it is emptied after each test.
    """

    @classmethod
    def setUpClass(cls) -> None:
        """Isolate the layers, then start the server."""
        isolation = isolate_channel_layers()
        configs = isolation.enable()
        original: Any = cls
        original.addClassCleanup(isolation.disable)
        # Restored afterwards, as subclasses inherit it.
        process = original.ProtocolServerProcess
        original.ProtocolServerProcess = staticmethod(partial(_process, process, configs))
        original.addClassCleanup(setattr, cls, "ProtocolServerProcess", process)
        super().setUpClass()  # type: ignore[misc]

    def setUp(self) -> None:
        """Empty the store after the test."""
        super().setUp()  # type: ignore[misc]
        self.addCleanup(_flush)  # type: ignore[attr-defined]


def _flush() -> None:
    from django.conf import settings

    for layer in open_layers(settings.CHANNEL_LAYERS):
        layer.sync.flush()


def _process(
    process: Callable[..., Any],
    configs: Mapping[str, Any],
    host: str,
    get_application: Callable[[], Any],
    *arguments: Any,
    **options: Any,
) -> Any:
    """Make the server process; it calls ``get_application`` once it runs."""
    return process(host, partial(_application, configs, get_application), *arguments, **options)


def _application(configs: Mapping[str, Any], get_application: Callable[[], Any]) -> Any:
    """Return the application, in the server process, on the layers of the test."""
    keep_isolated(configs)
    return get_application()


__all__ = ["LiveServerLayersMixin"]
