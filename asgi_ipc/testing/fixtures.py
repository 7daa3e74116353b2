"""The fixtures for pytest: `isolated_channel_layers`, for every test, and `channel_layer`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ..layers.aio import IPCChannelLayer
from .stores import remove_leftovers, temporary_layer


@pytest.fixture(autouse=True)
def isolated_channel_layers() -> Iterator[None]:
    """Give each layer of ours in Django's CHANNEL_LAYERS a store of its own, for one test.

    Does nothing in a project without Django or without CHANNEL_LAYERS. Raises as
    `asgi_ipc.testing.isolate_channel_layers`.
    """
    if not _has_layers():
        yield
        return
    from .settings import isolate_channel_layers

    with isolate_channel_layers():
        yield


@pytest.fixture(scope="session")
def channel_layer_options() -> dict[str, Any]:
    """Options of `channel_layer` where Django has none; override it to choose, say, the engine."""
    return {}


@pytest.fixture
def channel_layer(
    isolated_channel_layers: None, channel_layer_options: dict[str, Any]
) -> Iterator[IPCChannelLayer]:
    """The layer for one test: Django's ``default`` if that is ours, else one of its own."""
    if _has_layers():
        from django.conf import settings

        from .settings import is_ours

        if is_ours(settings.CHANNEL_LAYERS.get("default", {})):
            from channels.layers import get_channel_layer

            yield get_channel_layer()
            return
    with temporary_layer(**channel_layer_options) as layer:
        yield layer


def _has_layers() -> bool:
    # A project without Django does not pay for importing it.
    if "DJANGO_SETTINGS_MODULE" not in os.environ and "django.conf" not in sys.modules:
        return False
    from .settings import is_used

    return is_used()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the stores of workers that were killed, once all workers have ended."""
    if not hasattr(session.config, "workerinput"):
        remove_leftovers()


__all__ = [
    "channel_layer",
    "channel_layer_options",
    "isolated_channel_layers",
    "pytest_sessionfinish",
]
