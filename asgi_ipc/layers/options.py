"""Check the options of a layer's constructor.

Bad options raise one `OptionError`, which names each, its value and the rule, before any store is
opened. `problems` returns the same without raising, for `asgi_ipc.django.checks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ..engines.base import MAX_PAYLOAD
from ..exceptions import OptionError
from ..policy.capacity import Capacities, CapacityExceptions
from ..policy.expiry import lifetime

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
#: Longest prefix, in characters.
PREFIX_LIMIT = 64

_PREFIX = re.compile(r"[A-Za-z0-9\-_][A-Za-z0-9\-_.]*")
#: Options of other layers and times, and what to do about them.
_ONCE_CALLED = {
    "message_memory": "it is called channel_memory since version 2",
    "hosts": "there is no server, as processes on one machine share memory; remove it",
    "symmetric_encryption_keys": "messages do not leave the machine, and are not encrypted;"
    " remove it",
    "serializer_format": "messages are always msgpack; remove it",
    "random_prefix_length": "encoded messages need no random prefix; remove it",
    "connection_kwargs": "there is no connection to a server; remove it",
    "on_disconnect": "there is no connection to lose; use layer.on_store_lost(callback) to hear of"
    " a flushed or replaced store",
    "on_reconnect": "there is no connection to lose; use layer.on_store_lost(callback) to hear of"
    " a flushed or replaced store",
    "host": "there is no server, as processes on one machine share memory; remove it",
    "local_capacity": "it is called capacity; leave it out, so that bursts to consumers arrive"
    " whole",
    "remote_capacity": "it is called capacity; leave it out, so that bursts to consumers arrive"
    " whole",
    "local_expiry": "it is called expiry here",
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
    channel_capacity: CapacityExceptions | None,
    suspend_silent_channels: bool,
) -> Options:
    """All options, checked. Raises one `OptionError` for all that are wrong."""
    given = {name: value for name, value in locals().items() if name in NAMES}
    wrong = problems(given)
    if wrong:
        raise OptionError("\n".join(each.text for each in wrong))
    return Options(
        prefix=prefix,
        engine=engine,
        engine_options=_engine_options(engine_options),
        channel_memory=channel_memory,
        group_memory=group_memory,
        process_memory=process_memory,
        expiry=expiry,
        group_expiry=group_expiry,
        message_lifetime=lifetime("expiry", expiry),
        membership_lifetime=lifetime("group_expiry", group_expiry),
        capacities=Capacities(capacity, channel_capacity),
        suspend_silent_channels=suspend_silent_channels,
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
)


class Problem(NamedTuple):
    """What is wrong with one option, and the remedy."""

    option: str
    text: str
    #: False for an option that there is not.
    known: bool = True


def problems(options: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with options that a user gives, in their order; opens no store."""
    found = []
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            found.append(Problem(name, _unknown(name), known=False))
            continue
        try:
            check(value)
        except OptionError as error:
            found.append(Problem(name, str(error)))
    return found


def refuse_unknown(options: Mapping[str, Any]) -> None:
    """Raise one `OptionError` for all that is wrong with options if there are unknown ones."""
    if not options.keys() <= _CHECKS.keys():
        in_order = {name: options[name] for name in NAMES if name in options}
        wrong = problems({**in_order, **options})
        raise OptionError("\n".join(each.text for each in wrong))


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


def _channel_capacity(value: Any) -> None:
    """Check all patterns. Raises one `OptionError` for all that are wrong."""
    if not isinstance(value, Mapping):
        Capacities(None, value)
        return
    wrong = []
    for pattern, capacity in value.items():
        try:
            Capacities(None, {pattern: capacity})
        except OptionError as error:
            wrong.append(str(error))
    if wrong:
        raise OptionError("\n".join(wrong))


#: How each option is checked by itself. `EngineChoice` checks ``engine`` as it opens the store.
_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "prefix": check_prefix,
    "engine": lambda value: None,
    "engine_options": _engine_options,
    "channel_memory": partial(_memory, "channel_memory"),
    "group_memory": partial(_memory, "group_memory"),
    "process_memory": lambda value: _memory("process_memory", value, SMALLEST_UNREAD, "16 MiB"),
    "expiry": partial(lifetime, "expiry"),
    "group_expiry": partial(lifetime, "group_expiry"),
    "capacity": Capacities,
    "channel_capacity": _channel_capacity,
    "suspend_silent_channels": partial(_switch, "suspend_silent_channels"),
}


def _unknown(name: str) -> str:
    # Imported late, for an error message only.
    from difflib import get_close_matches

    said = f"there is no option {name!r}"
    if name in _ONCE_CALLED:
        return f"{said}; {_ONCE_CALLED[name]}"
    close = get_close_matches(name, NAMES, n=1)
    if close:
        return f"{said}; did you mean {close[0]!r}?"
    return f"{said}; the options are {', '.join(NAMES)}"


__all__ = [
    "LARGEST_MEMORY",
    "NAMES",
    "PREFIX_LIMIT",
    "SMALLEST_MEMORY",
    "SMALLEST_UNREAD",
    "Options",
    "Problem",
    "check_prefix",
    "checked",
    "problems",
    "refuse_unknown",
    "seconds_or_none",
]
