"""Check the options of a layer's constructor.

A bad option raises `OptionError`, which names the option, its value and the rule, before any store
is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..engines.base import MAX_PAYLOAD
from ..exceptions import OptionError
from ..policy.capacity import Capacities
from ..policy.expiry import lifetime

if TYPE_CHECKING:
    from ..relay.machine import RelayOptions

#: Sizes of a store's memory unless the user gives others, in bytes; and the bound of what a
#: process holds unread.
CHANNEL_MEMORY = 100 * 1024 * 1024
GROUP_MEMORY = 20 * 1024 * 1024
PROCESS_MEMORY = 64 * 1024 * 1024
#: Smallest and largest nominal size of a store's memory, in bytes.
SMALLEST_MEMORY = 256 * 1024
LARGEST_MEMORY = 1024**4
#: Smallest bound of what a process holds unread, in bytes: twice the largest record.
SMALLEST_UNREAD = 2 * MAX_PAYLOAD
#: Whether a process in which receivers wait may relay for its machine; commands may not.
may_relay = True
#: Longest prefix, in characters.
PREFIX_LIMIT = 64

_PREFIX = re.compile(r"[A-Za-z0-9\-_][A-Za-z0-9\-_.]*")
#: Options of other layers and times, and what to do about them.
_ONCE_CALLED = {
    "message_memory": "it is called channel_memory since version 2",
    "hosts": "processes on one machine share memory; relay names a server that joins machines",
    "symmetric_encryption_keys": "messages leave the machine only with relay; see relay_options",
}


class Options(NamedTuple):
    """A layer's options, checked."""

    prefix: str
    engine: Any
    engine_options: dict[str, Any]
    channel_memory: int
    group_memory: int
    process_memory: int
    expiry: float
    group_expiry: float
    #: In nanoseconds, as the clocks of engines count.
    message_lifetime: int
    membership_lifetime: int
    capacities: Capacities
    suspend_silent_channels: bool
    #: What joins this store to those of other machines, or None.
    relay: RelayOptions | None


def checked(
    *,
    prefix: str,
    engine: Any,
    engine_options: Mapping[str, Any] | None,
    channel_memory: int,
    group_memory: int,
    process_memory: int,
    expiry: float,
    group_expiry: float,
    capacity: int | None,
    channel_capacity: Mapping[str | re.Pattern[str], int] | None,
    suspend_silent_channels: bool,
    relay: str | None,
    relay_options: Mapping[str, Any] | None,
    relay_channels: Sequence[str] | None,
    unknown: Iterable[str] = (),
) -> Options:
    """All options, checked. Raises `OptionError`."""
    for name in unknown:
        raise OptionError(_unknown(name))
    check_prefix(prefix)
    return Options(
        prefix=prefix,
        engine=engine,
        engine_options=_engine_options(engine_options),
        channel_memory=_memory("channel_memory", channel_memory),
        group_memory=_memory("group_memory", group_memory),
        process_memory=_memory("process_memory", process_memory, SMALLEST_UNREAD, "16 MiB"),
        expiry=expiry,
        group_expiry=group_expiry,
        message_lifetime=lifetime("expiry", expiry),
        membership_lifetime=lifetime("group_expiry", group_expiry),
        capacities=Capacities(capacity, channel_capacity),
        suspend_silent_channels=_switch("suspend_silent_channels", suspend_silent_channels),
        relay=_relay(relay, prefix, relay_options, channel_memory, relay_channels),
    )


NAMES = (
    "prefix",
    "engine",
    "engine_options",
    "channel_memory",
    "group_memory",
    "process_memory",
    "expiry",
    "group_expiry",
    "capacity",
    "channel_capacity",
    "suspend_silent_channels",
    "relay",
    "relay_options",
    "relay_channels",
)


def check_prefix(prefix: object) -> None:
    """Refuse what can't be the name of a store. Raises `OptionError`."""
    if not isinstance(prefix, str) or len(prefix) > PREFIX_LIMIT or not _PREFIX.fullmatch(prefix):
        raise OptionError(
            f"prefix is {prefix!r}; it names the store, so it must be 1 to {PREFIX_LIMIT} ASCII"
            " letters, digits, '-', '_' or '.', the first not a '.'"
        )


def seconds_or_none(option: str, value: object) -> float | None:
    """A time to wait, in seconds; None for ever. Raises `ValueError` naming the option."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise ValueError(f"{option} is {value!r}; it must be a number of seconds, or None")
    return max(0.0, float(value))


def _relay(
    relay: str | None,
    prefix: str,
    relay_options: Mapping[str, Any] | None,
    channel_memory: int,
    relay_channels: Sequence[str] | None,
) -> RelayOptions | None:
    if relay is None:
        given = {"relay_options": relay_options, "relay_channels": relay_channels}
        for option, value in given.items():
            if value is not None:
                raise OptionError(
                    f"{option} is given and relay is not; name the server in relay, such as"
                    f" 'redis://HOST:6379', or remove {option}"
                )
        return None
    # Imported late, as most sites have one machine.
    from ..relay.options import checked as checked_relay

    return checked_relay(relay, prefix, relay_options, channel_memory, relay_channels)


def _engine_options(value: Mapping[str, Any] | None) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise OptionError(
            f"engine_options is {value!r}; it must be a dict with the names of the engine's"
            " options, such as {'directory': '/srv/ipc'}"
        )
    return dict(value)


def _memory(
    option: str, value: object, smallest: int = SMALLEST_MEMORY, that_is: str = "256 KiB"
) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not smallest <= value <= LARGEST_MEMORY
    ):
        raise OptionError(
            f"{option} is {value!r}; it must be an int, a number of bytes from {smallest}"
            f" ({that_is}) to {LARGEST_MEMORY} (1 TiB), such as 100 * 1024 * 1024"
        )
    return value


def _switch(option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{option} is {value!r}; it must be True or False")
    return value


def _unknown(name: str) -> str:
    # Imported late, for an error message only.
    from difflib import get_close_matches

    if name in _ONCE_CALLED:
        hint = f"; {_ONCE_CALLED[name]}."
    else:
        close = get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"there is no option {name!r}{hint} The options are {', '.join(NAMES)}."


__all__ = [
    "LARGEST_MEMORY",
    "NAMES",
    "PREFIX_LIMIT",
    "SMALLEST_MEMORY",
    "SMALLEST_UNREAD",
    "Options",
    "check_prefix",
    "checked",
    "may_relay",
    "seconds_or_none",
]
