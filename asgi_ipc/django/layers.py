"""The project's channel layer, as type checkers know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asgi_ipc import IPCChannelLayer

__all__ = ["get_layer"]


def get_layer(alias: str = "default") -> IPCChannelLayer:
    """Return the layer that ``CHANNEL_LAYERS`` in Django's settings configures under this alias.

    It is the layer that `channels.layers.get_channel_layer` returns, whose type no checker knows;
    here methods, results and ``.sync`` are checked.

    Raises `channels.exceptions.InvalidChannelLayerError` if there is no such alias or its
    ``BACKEND`` is of another package, and what the layer's constructor raises.
    """
    # Here, so that the application of this package loads neither.
    from channels.exceptions import InvalidChannelLayerError
    from channels.layers import get_channel_layer

    from asgi_ipc import IPCChannelLayer

    layer = get_channel_layer(alias)
    if isinstance(layer, IPCChannelLayer):
        return layer
    if layer is None:
        raise InvalidChannelLayerError(
            f"CHANNEL_LAYERS has no {alias!r}; add it to the settings, with the BACKEND"
            " 'asgi_ipc.IPCChannelLayer'"
        )
    found = type(layer)
    raise InvalidChannelLayerError(
        f"CHANNEL_LAYERS[{alias!r}] is a {found.__module__}.{found.__qualname__}, and get_layer"
        " returns only layers of asgi_ipc: set its BACKEND to 'asgi_ipc.IPCChannelLayer', or call"
        " channels.layers.get_channel_layer"
    )
