"""Check the options of a layer's constructor.

Bad options raise one `OptionError`, which names each, its value and the rule, before any store is
opened. `problems` returns the same without raising, for `asgi_ipc.django.checks`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..encoding.serializers import Codec, Serializer, choose
from ..engines.base import MAX_PAYLOAD
from ..exceptions import OptionError
from ..policy.capacity import Capacities, CapacityExceptions
from ..policy.expiry import lifetime

if TYPE_CHECKING:
    from ..relay.options import RelayOptions

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
#: Between two tries of a sender that waits for room, in seconds: the first pause, and the longest.
_SHORTEST, _LONGEST = 0.001, 0.05
#: Whether a process in which receivers wait may relay for its machine; commands may not.
may_relay = True
#: The prefix of a layer for which none is given.
DEFAULT_PREFIX = "asgi"
#: Longest prefix, in characters.
PREFIX_LIMIT = 64

_PREFIX = re.compile(r"[A-Za-z0-9\-_][A-Za-z0-9\-_.]*")
_NO_SERVER = (
    "remove it: there is no server, as processes on one machine share memory; relay names a server"
    " that joins machines"
)
_NO_CONNECTION = (
    "remove it: there is no connection to lose; layer.on_store_lost(callback) tells of a store that"
    " was flushed or replaced"
)
_NO_QUEUE_OF_A_SERVER = (
    "remove it: there is no server; capacity and process_memory bound what is unread, and without"
    " a capacity bursts to consumers arrive whole"
)
#: Options of other layers and times, and what to do about them.
_ONCE_CALLED = {
    "message_memory": "it is called channel_memory since version 2",
    "hosts": _NO_SERVER,
    "host": _NO_SERVER,
    "config": _NO_SERVER,
    "connection_kwargs": _NO_SERVER,
    "redis_kwargs": _NO_SERVER,
    "channel_layer_class": _NO_SERVER,
    "on_disconnect": _NO_CONNECTION,
    "on_reconnect": _NO_CONNECTION,
    "local_capacity": _NO_QUEUE_OF_A_SERVER,
    "remote_capacity": _NO_QUEUE_OF_A_SERVER,
    "local_expiry": "use expiry",
    "symmetric_encryption_keys": (
        "remove it: messages leave the machine only with relay, and keys in relay_options encrypt"
        " them; to encrypt them in the store too, write a serializer"
    ),
    "random_prefix_length": "remove it: equal messages are kept apart anyway",
    "serializer_format": (
        "remove it if it is 'msgpack', which is the default; otherwise use serializer: 'extended',"
        " a path or an object"
    ),
    "statistics_expiry": "remove it: counts are kept as long as the store",
    "routing": "remove it: Channels reads ROUTING no more",
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
    #: As given, and what it stands for.
    serializer: str | type | Serializer
    codec: Codec
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
    channel_capacity: CapacityExceptions | None,
    suspend_silent_channels: bool,
    serializer: str | type | Serializer,
    relay: str | None,
    relay_options: Mapping[str, Any] | None,
    relay_channels: Sequence[str] | None,
) -> Options:
    """Return all options, checked. Raises one `OptionError` for all that are wrong."""
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
        membership_lifetime=lifetime("group_expiry", group_expiry, never=True),
        capacities=Capacities(capacity, channel_capacity),
        suspend_silent_channels=suspend_silent_channels,
        serializer=serializer,
        codec=choose(serializer),
        relay=_relay(relay, prefix, relay_options, channel_memory, relay_channels),
    )


def changed(options: Options, name: str, value: Any) -> Options:
    """Return options of which one is changed. Raises `OptionError` as the constructor does.

    A layer may change ``expiry``, ``group_expiry``, ``capacity``, ``channel_capacity`` and
    ``suspend_silent_channels``. Capacities are changed in place, as buffers ask them too.
    """
    if name == "expiry":
        return options._replace(expiry=value, message_lifetime=lifetime(name, value))
    if name == "group_expiry":
        ends = lifetime(name, value, never=True)
        return options._replace(group_expiry=value, membership_lifetime=ends)
    if name == "suspend_silent_channels":
        return options._replace(suspend_silent_channels=_switch(name, value))
    capacities = options.capacities
    default, exceptions = capacities.given, capacities.exceptions
    if name == "capacity":
        capacities.become(Capacities(value, exceptions))
    elif isinstance(value, list):
        # What `compile_capacities` returns.
        capacities.become(Capacities(default, dict(value)))
    else:
        capacities.become(Capacities(default, value))
    return options


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
    "serializer",
    "relay",
    "relay_options",
    "relay_channels",
)


class Problem(NamedTuple):
    """What is wrong with one option, and the remedy."""

    option: str
    text: str
    #: False for an option that there is not.
    known: bool = True


def problems(options: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with options that a user gives, a `Problem` for each fault.

    They are in the order of the options, those of the relay last. Opens no store.
    """
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
    of_relay = [options.get(name) for name in ("relay", "relay_options", "relay_channels")]
    if any(value is not None for value in of_relay):
        # Imported late, as most sites have one machine.
        from ..relay.options import problems as relay_problems

        relay, relay_options, relay_channels = of_relay
        # A prefix that is wrong was told above.
        wrong_prefix = any(each.option == "prefix" for each in found)
        prefix = DEFAULT_PREFIX if wrong_prefix else options.get("prefix", DEFAULT_PREFIX)
        wrong = relay_problems(relay, prefix, relay_options, relay_channels)
        found += [Problem(option, text) for option, text in wrong]
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
            f" letters, digits, '-', '_' or '.', the first not a '.'{_similar(prefix)}"
        )


def seconds_or_none(option: str, value: object) -> float | None:
    """Return a time to wait, in seconds; None: without end. Raises `ValueError` for no number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise ValueError(f"{option} is {value!r}; it must be a number of seconds, or None")
    return max(0.0, float(value))


def pauses(seconds: object) -> Iterator[float | None]:
    """Yield how long to wait before each new try, in seconds, and None for the last one.

    Raises `ValueError` for what is no number of seconds from 0.
    """
    limit = seconds_or_none("wait", seconds)
    if limit == 0 and seconds < 0:  # type: ignore[operator]
        raise ValueError(f"wait is {seconds!r}; it must be a number of seconds, 0 or more, or None")
    end = math.inf if limit is None else time.monotonic() + limit
    pause = _SHORTEST
    while True:
        left = end - time.monotonic()
        yield min(pause, left) if left > 0 else None
        pause = min(2 * pause, _LONGEST)


def _similar(prefix: object) -> str:
    """Suggest a prefix for one that is not valid, such as ``asgi:``."""
    found = re.sub(r"[^A-Za-z0-9\-_.]+", "-", prefix).strip("-.") if type(prefix) is str else ""
    return f"; use {found[:PREFIX_LIMIT]!r}, for example" if found else ""


def _relay(
    relay: str | None,
    prefix: str,
    relay_options: Mapping[str, Any] | None,
    channel_memory: int,
    relay_channels: Sequence[str] | None,
) -> RelayOptions | None:
    if relay is None:
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
    "group_expiry": partial(lifetime, "group_expiry", never=True),
    "capacity": Capacities,
    "channel_capacity": _channel_capacity,
    "suspend_silent_channels": partial(_switch, "suspend_silent_channels"),
    "serializer": choose,
    # With one another, by `asgi_ipc.relay.options.problems`.
    "relay": lambda value: None,
    "relay_options": lambda value: None,
    "relay_channels": lambda value: None,
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
    "DEFAULT_PREFIX",
    "LARGEST_MEMORY",
    "NAMES",
    "PREFIX_LIMIT",
    "SMALLEST_MEMORY",
    "SMALLEST_UNREAD",
    "Options",
    "Problem",
    "changed",
    "check_prefix",
    "checked",
    "may_relay",
    "pauses",
    "problems",
    "refuse_unknown",
    "seconds_or_none",
]
