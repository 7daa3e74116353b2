"""What both layers have in public alike: the constructor, and the options as attributes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ClassVar, Concatenate, NoReturn, ParamSpec, TypeVar

from ..encoding.names import CHANNEL, GROUP, NAME_LIMIT, RULE, channel_name, group_name
from ..encoding.serializers import MSGPACK, Serializer
from ..engines.base import Engine
from ..exceptions import ChannelFull, MessageTooLarge
from ..policy.capacity import Capacities, CapacityExceptions
from .core import LayerCore
from .options import (
    CHANNEL_MEMORY,
    DEFAULT_PREFIX,
    GROUP_MEMORY,
    PROCESS_MEMORY,
    checked,
    refuse_unknown,
)

_Layer = TypeVar("_Layer")
_Options = ParamSpec("_Options")


def _known_options_only(
    constructor: Callable[Concatenate[_Layer, _Options], None],
) -> Callable[Concatenate[_Layer, _Options], None]:
    """Answer an unknown option with a remedy, and leave the signature as type checkers know it.

    A parameter for the rest of the options, in the signature, would hide misspellings from them.
    """

    @wraps(constructor)
    def construct(layer: _Layer, /, *prefix: _Options.args, **options: _Options.kwargs) -> None:
        refuse_unknown({**dict(zip(("prefix",), prefix, strict=False)), **options})
        constructor(layer, *prefix, **options)

    return construct


class LayerSurface:
    """The constructor and the attributes of a channel layer; see `asgi_ipc.IPCChannelLayer`."""

    extensions: ClassVar[list[str]] = ["groups", "flush", "statistics"]
    #: Names must be shorter than this, in characters.
    MAX_NAME_LENGTH = NAME_LIMIT
    #: These match a valid name; the error's text takes "Channel" or "Group".
    channel_name_regex = CHANNEL
    group_name_regex = GROUP
    invalid_name_error: ClassVar[str] = f"{{}} name is not valid; use {RULE}"

    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    @_known_options_only
    def __init__(
        self,
        prefix: str = DEFAULT_PREFIX,
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
        channel_capacity: CapacityExceptions | None = None,
        suspend_silent_channels: bool = True,
        serializer: str | type | Serializer = MSGPACK,
        relay: str | None = None,
        relay_options: Mapping[str, Any] | None = None,
        relay_channels: Sequence[str] | None = None,
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
            serializer=serializer,
            relay=relay,
            relay_options=relay_options,
            relay_channels=relay_channels,
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

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled, as multiprocessing does where a process is not forked."""
        raise TypeError(
            f"this {type(self).__name__} can't be pickled or copied: its connection to the store "
            "belongs to this process; pass its options to the other process, and make a layer there"
        )

    @property
    def prefix(self) -> str:
        """The store's name."""
        return self._core.options.prefix

    @property
    def expiry(self) -> float:
        """Seconds until an unread message ends. May be set, for the messages sent after it."""
        return self._core.options.expiry

    @expiry.setter
    def expiry(self, value: float) -> None:
        self._core.change("expiry", value)

    @property
    def group_expiry(self) -> float:
        """Seconds until a membership ends; 0 for no end. May be set, for what is added after it."""
        return self._core.options.group_expiry

    @group_expiry.setter
    def group_expiry(self, value: float) -> None:
        self._core.change("group_expiry", value)

    @property
    def capacity(self) -> int:
        """Unread messages an ordinary channel may hold, unless ``channel_capacity`` says otherwise.

        If none was given, `asgi_ipc.policy.capacity.DEFAULT_CAPACITY`; the messages of
        process-specific channels are not counted then. May be set, to None too.
        """
        return self._core.options.capacities.default

    @capacity.setter
    def capacity(self, value: int | None) -> None:
        self._core.change("capacity", value)

    @property
    def process_memory(self) -> int:
        """Bytes of messages that this process may hold fetched and unread."""
        return self._core.options.process_memory

    @property
    def channel_capacity(self) -> dict[str | re.Pattern[str], int]:
        """Exceptions from ``capacity``, by pattern; a copy. May be set."""
        return dict(self._core.options.capacities.exceptions)

    @channel_capacity.setter
    def channel_capacity(
        self,
        value: Mapping[str | re.Pattern[str], int] | list[tuple[re.Pattern[str], int]] | None,
    ) -> None:
        self._core.change("channel_capacity", value)

    @property
    def suspend_silent_channels(self) -> bool:
        """Whether silent channels are suspended from their groups. May be set, for channels that
        are added to groups after it."""
        return self._core.options.suspend_silent_channels

    @suspend_silent_channels.setter
    def suspend_silent_channels(self, value: bool) -> None:
        self._core.change("suspend_silent_channels", value)

    @property
    def serializer(self) -> str | type | Serializer:
        """What turns messages into bytes, as it was given."""
        return self._core.options.serializer

    @property
    def client_prefix(self) -> str:
        """This process, as it stands in its channel names. Differs in a forked child."""
        return self._core.client_prefix

    # Called by code that was written for other channel layers

    def get_capacity(self, channel: str) -> int:
        """Return the capacity of a channel; 2**63 - 1 if its messages are not counted."""
        return self._core.capacity_of(channel)

    def compile_capacities(
        self, channel_capacity: Mapping[str | re.Pattern[str], int]
    ) -> list[tuple[re.Pattern[str], int]]:
        """Return what ``channel_capacity`` says as pairs of compiled pattern and capacity.

        Raises `OptionError`.
        """
        return Capacities(None, channel_capacity).patterns

    def match_type_and_length(self, name: object) -> bool:
        """Return whether something is a str and short enough for a name."""
        return issubclass(type(name), str) and len(str(name)) < NAME_LIMIT

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Return True; raise `TypeError` for a bad name.

        With ``receive``, a name with ``!`` must end there.
        """
        parsed = channel_name(name)
        if receive and parsed.local:
            raise TypeError(f"channel name {name!r} must end at the '!' to be received from")
        return True

    def require_valid_group_name(self, name: str) -> bool:
        """Return True; raise `TypeError` for a bad name."""
        group_name(name)
        return True

    def valid_channel_names(self, names: list[str], receive: bool = False) -> bool:
        """Return True; raise `TypeError` for a bad name, and for what is not a list of some."""
        if not isinstance(names, list) or not names:
            raise TypeError(f"names is {names!r}; it must be a list of one channel name or more")
        return all(self.require_valid_channel_name(name, receive) for name in names)

    def valid_channel_name(self, channel_name: str, receive: bool = False) -> bool:
        """Deprecated: use `require_valid_channel_name`."""
        _deprecated("valid_channel_name", "require_valid_channel_name")
        return self.require_valid_channel_name(channel_name, receive)

    def valid_group_name(self, group_name: str) -> bool:
        """Deprecated: use `require_valid_group_name`."""
        _deprecated("valid_group_name", "require_valid_group_name")
        return self.require_valid_group_name(group_name)

    def non_local_name(self, name: str) -> str:
        """Return the part of a channel's name up to and including the ``!``, or all of it."""
        return channel_name(name).queue.decode("ascii")

    def __repr__(self) -> str:
        options = self._core.options
        return f"<{type(self).__name__} prefix={options.prefix!r} engine={options.engine!r}>"


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated, use {new} instead", DeprecationWarning, stacklevel=3)


__all__ = ["LayerSurface"]
