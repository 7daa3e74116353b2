"""What asgi_ipc offers Django projects. `asgi_ipc` itself never imports this package.

Begin with `layers`: `get_layer` returns the project's layer with its type; `consumers` has a mixin
for consumers. Both need Channels.
"""

from __future__ import annotations

from .layers import get_layer

__all__ = ["get_layer"]
