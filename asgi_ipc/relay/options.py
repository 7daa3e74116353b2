"""The options of a relay: ``relay``, ``relay_options`` and ``relay_channels``, checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from typing import Any, NamedTuple

from ..engines.base import Engine
from ..exceptions import OptionError
from .agreement import Used
from .frames import NEWEST, OLDEST
from .sealing import Sealer
from .way_out import SHARE_OF_STORE
from .wire import Wire
from .wire_choice import find_wire, open_wire
from .wire_settings import Fault, WireOptionError, shown

#: Smallest bound of the way out, in bytes; it must hold a message of any size.
SMALLEST_BACKLOG = 2 * 1024 * 1024


class RelayOptions(NamedTuple):
    """The checked options of a relay, as `checked` returns them."""

    prefix: str
    #: The server's URL without credentials, for people.
    shown: str
    #: Makes a wire that is not connected.
    wire: Callable[[], Wire]
    #: Bytes that may wait on the way out.
    backlog: int
    #: Whether an ordinary channel is shared with other machines; None: none is.
    shares: Callable[[str], bool] | None = None
    #: Seals and opens frames; None: frames are neither encrypted nor authenticated.
    sealer: Sealer | None = None
    #: The oldest and the newest format that it reads.
    formats: tuple[int, int] = (OLDEST, NEWEST)
    #: What of its options all processes of the site must have alike.
    used: Used = Used("")


def checked(
    relay: str,
    prefix: str,
    relay_options: Mapping[str, Any] | None,
    channel_memory: int,
    relay_channels: Sequence[str] | None = None,
) -> RelayOptions:
    """Return the options of a relay, checked without using the network. Raises `OptionError`.

    ``channel_memory`` is 0 if it is unknown.
    """
    wrong = problems(relay, prefix, relay_options, relay_channels)
    if wrong:
        raise WireOptionError(wrong)
    for_wire = dict(relay_options or {})
    backlog = for_wire.pop("backlog", None)
    if backlog is None:
        backlog = max(SMALLEST_BACKLOG, channel_memory // SHARE_OF_STORE)
    elif channel_memory and backlog > max(SMALLEST_BACKLOG, channel_memory):
        text = (
            f"relay_options['backlog'] is {backlog}, more than channel_memory, {channel_memory}, in"
            " which it lies; lower it, or raise channel_memory"
        )
        raise WireOptionError([Fault("relay_options", text)])
    keys = for_wire.pop("keys", None)
    sealer = None if keys is None else Sealer(keys)
    return RelayOptions(
        prefix,
        shown(relay),
        _Opener(relay, prefix, for_wire),
        backlog,
        None if relay_channels is None else _shares(relay_channels),
        sealer,
        used=Used(
            shown(relay),
            () if sealer is None else sealer.ids,
            tuple(sorted(set(relay_channels or ()))),
            (relay_options or {}).get("backlog"),
        ),
    )


class _Opener:
    """Makes wires. Shows no credentials, as pages of errors show the values of variables."""

    def __init__(self, url: str, prefix: str, options: Mapping[str, Any]) -> None:
        self._arguments = url, prefix, options

    def __call__(self) -> Wire:
        return open_wire(*self._arguments)

    def __repr__(self) -> str:
        return f"<opens {shown(self._arguments[0])}>"


def problems(
    relay: object, prefix: str, relay_options: object, relay_channels: object
) -> list[Fault]:
    """Return all that is wrong with the three options; uses no network."""
    found: list[Fault] = []
    if relay is None:
        given = {"relay_options": relay_options, "relay_channels": relay_channels}
        found += [
            Fault(
                option,
                f"{option} is given and relay is not; name the server in relay, such as"
                f" 'redis://HOST:6379', or remove {option}",
            )
            for option, value in given.items()
            if value is not None
        ]
    elif not isinstance(relay, str) or not relay:
        found.append(
            Fault(
                "relay",
                f"relay is {relay!r}; it must be the URL of a server that joins the machines, such"
                " as 'redis://HOST:6379', or None",
            )
        )
    for_wire, of_options = _own_options(relay_options)
    wire: Any = None
    url = relay if isinstance(relay, str) else ""
    if url:
        try:
            wire = find_wire(url)
            # A wire that is made uses no network, and says what is wrong.
            wire = wire(url, prefix, **for_wire)
        except WireOptionError as error:
            found += error.faults
        except OptionError as error:
            found.append(Fault("relay", str(error)))
    found += of_options
    if relay_channels is not None:
        found += _wrong_patterns(relay_channels)
        capabilities = getattr(wire, "capabilities", None)
        if capabilities is not None and not capabilities.queues:
            why = getattr(wire, "no_queues", "")
            found.append(
                Fault("relay_channels", f"relay_channels can't be used with {shown(url)}: {why}")
            )
    return found


def _own_options(given: object) -> tuple[dict[str, Any], list[Fault]]:
    """Return the options that are for the wire, and what is wrong with all others."""
    if given is None:
        return {}, []
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        kind = type(given).__name__
        text = (
            "relay_options must be a dict with the names of options, such as {'timeout': 5.0};"
            f" it is a {kind}"
        )
        return {}, [Fault("relay_options", text)]
    for_wire = dict(given)
    backlog, keys = for_wire.pop("backlog", None), for_wire.pop("keys", None)
    found = []
    if backlog is not None and (
        isinstance(backlog, bool) or not isinstance(backlog, int) or backlog < SMALLEST_BACKLOG
    ):
        text = (
            f"relay_options['backlog'] is {backlog!r}; it must be an int, the number of bytes that"
            f" may wait for the server: {SMALLEST_BACKLOG} (2 MiB) or more"
        )
        found.append(Fault("relay_options", text))
    if keys is not None:
        try:
            Sealer(keys)
        except OptionError as error:
            found.append(Fault("relay_options", str(error)))
    return for_wire, found


def _wrong_patterns(patterns: object) -> list[Fault]:
    if isinstance(patterns, (str, bytes)) or not isinstance(patterns, Sequence):
        text = (
            f"relay_channels is {patterns!r}; it must be a list of patterns for names of channels,"
            " such as ['thumbnails', 'mail.*']"
        )
        return [Fault("relay_channels", text)]
    return [
        Fault(
            "relay_channels",
            f"relay_channels has {pattern!r}; a pattern is a str, a glob for names of ordinary"
            " channels, which have no '!'",
        )
        for pattern in patterns
        if not isinstance(pattern, str) or not pattern or "!" in pattern
    ]


def _shares(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells whether a channel is shared."""
    compiled = [re.compile(translate(pattern)) for pattern in patterns]

    def shares(channel: str) -> bool:
        return "!" not in channel and any(each.match(channel) for each in compiled)

    return shares


def check_engine(engine: Engine, name: object) -> None:
    """Refuse an engine whose store can't be joined to others. Raises `OptionError`."""
    has = engine.capabilities
    lacking = [
        what
        for what, there in (
            ("roles", has.roles),
            ("inspects", has.inspects),
            ("wakes", has.wakes),
            ("blocking=False", not has.blocking),
        )
        if not there
    ]
    if lacking:
        raise OptionError(
            f"relay can't be used with the engine {name!r}, which lacks {', '.join(lacking)}: use"
            " one of 'posix', 'sysv', 'mmap' and 'memory', or remove relay"
        )


__all__ = ["SMALLEST_BACKLOG", "RelayOptions", "check_engine", "checked", "problems"]
