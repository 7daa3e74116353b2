"""The application ``asgi_ipc.django``, for ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register

__all__ = ["AsgiIpcConfig"]


class AsgiIpcConfig(AppConfig):
    """Checks the layers in ``CHANNEL_LAYERS``, and sends `asgi_ipc.django.signals.store_lost`."""

    name = "asgi_ipc.django"
    #: Django would take "django" from the name.
    label = "asgi_ipc"
    verbose_name = "asgi_ipc"

    def ready(self) -> None:
        """Register the checks, and the sender of the signal."""
        from . import signals
        from .checks import check_channel_layers

        register(check_channel_layers, "asgi_ipc")
        signals.watch()
