"""Which store a command is about, as a user or the settings of a site name it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..layers.options import check_prefix


class StoreChoice(NamedTuple):
    """A store: its prefix, and as much of the rest as is known."""

    prefix: str
    #: As a layer's option ``engine``; None: the engine that the store's lock file names.
    engine: Any = None
    engine_options: Mapping[str, Any] = {}
    #: Other options of the layer with which a command sends or receives, such as ``expiry``.
    layer_options: Mapping[str, Any] = {}

    def checked(self) -> StoreChoice:
        """Return it. Raises `OptionError` for what can't be a prefix."""
        check_prefix(self.prefix)
        return self


__all__ = ["StoreChoice"]
