"""What both layers show alike: the constructor, and the options as attributes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..encoding.names import NAME_LIMIT
from ..engines.base import Engine
from ..exceptions import ChannelFull, MessageTooLarge
from .core import LayerCore
from .options import checked


class LayerSurface:
    """The constructor and the attributes of a channel layer; see `asgi_ipc.IPCChannelLayer`."""

    extensions: ClassVar[list[str]] = ["groups", "flush", "statistics"]
    #: Names are shorter than this.
    MAX_NAME_LENGTH = NAME_LIMIT

    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(
        self,
        prefix: str = "asgi",
        *,
        engine: str | Callable[..., Engine] | Engine = "posix",
        engine_options: Mapping[str, Any] | None = None,
        channel_memory: int = 100 * 1024 * 1024,
        group_memory: int = 20 * 1024 * 1024,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        **unknown: Any,
    ) -> None:
        options = checked(
            prefix=prefix,
            engine=engine,
            engine_options=engine_options,
            channel_memory=channel_memory,
            group_memory=group_memory,
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            unknown=unknown,
        )
        self._attach(LayerCore(options))

    def _attach(self, core: LayerCore) -> None:
        """Become a view of a core; a layer adds what it needs beside."""
        self._core = core

    @property
    def prefix(self) -> str:
        """The store's name."""
        return self._core.options.prefix

    @property
    def expiry(self) -> float:
        """Seconds until an unread message ends."""
        return self._core.options.expiry

    @property
    def group_expiry(self) -> float:
        """Seconds until a membership ends."""
        return self._core.options.group_expiry

    @property
    def capacity(self) -> int:
        """Unread messages a channel may hold, unless ``channel_capacity`` says otherwise."""
        return self._core.options.capacities.default

    @property
    def channel_capacity(self) -> dict[str | re.Pattern[str], int]:
        """Exceptions from ``capacity``, by pattern; a copy."""
        return dict(self._core.options.capacities.exceptions)

    @property
    def client_prefix(self) -> str:
        """This process, as it stands in its channel names. Differs in a forked child."""
        return self._core.client_prefix

    def __repr__(self) -> str:
        options = self._core.options
        return f"<{type(self).__name__} prefix={options.prefix!r} engine={options.engine!r}>"


__all__ = ["LayerSurface"]
