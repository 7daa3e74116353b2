"""What asgi_ipc offers Django projects. `asgi_ipc` itself never imports this package.

Begin with `apps`, the application for ``INSTALLED_APPS``: it registers `checks` of the settings and
sends the signal of `signals`; `management` has the command. `layers` and `consumers` work without
the application, too: `get_layer` returns the project's layer with its type, and there is a mixin
for consumers.
"""

from __future__ import annotations

from .layers import get_layer

__all__ = ["get_layer"]
