"""What both layers have in public alike: the constructor, and the options as attributes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ..encoding.names import NAME_LIMIT
from ..engines.base import Engine
from ..exceptions import ChannelFull, MessageTooLarge
from .core import LayerCore
from .options import CHANNEL_MEMORY, GROUP_MEMORY, PROCESS_MEMORY, checked


class LayerSurface:
    """The constructor and the attributes of a channel layer; see `asgi_ipc.IPCChannelLayer`."""

    extensions: ClassVar[list[str]] = ["groups", "flush", "statistics"]
    #: Names must be shorter than this, in characters.
    MAX_NAME_LENGTH = NAME_LIMIT

    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(
        self,
        prefix: str = "asgi",
        *,
        engine: str | Callable[..., Engine] | Engine = "posix",
        engine_options: Mapping[str, Any] | None = None,
        channel_memory: int = CHANNEL_MEMORY,
        group_memory: int = GROUP_MEMORY,
        process_memory: int = PROCESS_MEMORY,
        expiry: float = 60,
        group_expiry: float = 86400,
        # None: `policy.capacity.DEFAULT_CAPACITY`, and no count on process-specific channels.
        capacity: int | None = None,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        suspend_silent_channels: bool = True,
        relay: str | None = None,
        relay_options: Mapping[str, Any] | None = None,
        relay_channels: Sequence[str] | None = None,
        **unknown: Any,
    ) -> None:
        options = checked(
            prefix=prefix,
            engine=engine,
            engine_options=engine_options,
            channel_memory=channel_memory,
            group_memory=group_memory,
            process_memory=process_memory,
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            suspend_silent_channels=suspend_silent_channels,
            relay=relay,
            relay_options=relay_options,
            relay_channels=relay_channels,
            unknown=unknown,
        )
        if options.relay is None:
            self._attach(LayerCore(options))
        else:
            # Imported late, as most sites have one machine.
            from .relaying import RelayedCore

            self._attach(RelayedCore(options))

    def _attach(self, core: LayerCore) -> None:
        """Use a core; a layer extends this with attributes of its own."""
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
        """Unread messages an ordinary channel may hold, unless ``channel_capacity`` says otherwise.

        If none was given, `asgi_ipc.policy.capacity.DEFAULT_CAPACITY`; the messages of
        process-specific channels are not counted then.
        """
        return self._core.options.capacities.default

    @property
    def process_memory(self) -> int:
        """Bytes of messages that this process may hold fetched and unread."""
        return self._core.options.process_memory

    @property
    def channel_capacity(self) -> dict[str | re.Pattern[str], int]:
        """Exceptions from ``capacity``, by pattern; a copy."""
        return dict(self._core.options.capacities.exceptions)

    @property
    def suspend_silent_channels(self) -> bool:
        """Whether silent channels are suspended from their groups."""
        return self._core.options.suspend_silent_channels

    @property
    def client_prefix(self) -> str:
        """This process, as it stands in its channel names. Differs in a forked child."""
        return self._core.client_prefix

    def __repr__(self) -> str:
        options = self._core.options
        return f"<{type(self).__name__} prefix={options.prefix!r} engine={options.engine!r}>"


__all__ = ["LayerSurface"]
