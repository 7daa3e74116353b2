"""Check the options ``relay``, ``relay_options`` and ``relay_channels``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from functools import partial
from typing import Any

from ..engines.base import Engine
from ..exceptions import OptionError
from .choice import open_wire
from .machine import RelayOptions
from .sealing import Sealer
from .settings import shown
from .way_out import SHARE_OF_STORE

#: Smallest bound of the way out, in bytes; it must hold a message of any size.
SMALLEST_BACKLOG = 2 * 1024 * 1024


def checked(
    relay: object,
    prefix: str,
    relay_options: object,
    channel_memory: int,
    relay_channels: object = None,
) -> RelayOptions:
    """Return the options of a relay, checked without using the network. Raises `OptionError`."""
    if not isinstance(relay, str) or not relay:
        raise OptionError(
            f"relay is {relay!r}; it must be the URL of a server that joins the machines, such as"
            " 'redis://HOST:6379', or None"
        )
    if relay_options is None:
        relay_options = {}
    if not isinstance(relay_options, Mapping) or not all(
        isinstance(key, str) for key in relay_options
    ):
        raise OptionError(
            "relay_options must be a dict with the names of the options of"
            f" {shown(relay)}, such as {{'timeout': 5.0}}; it is a {type(relay_options).__name__}"
        )
    for_wire: dict[str, Any] = dict(relay_options)
    backlog = for_wire.pop("backlog", None)
    if backlog is None:
        backlog = max(SMALLEST_BACKLOG, channel_memory // SHARE_OF_STORE)
    elif isinstance(backlog, bool) or not isinstance(backlog, int) or backlog < SMALLEST_BACKLOG:
        raise OptionError(
            f"relay_options['backlog'] is {backlog!r}; it must be an int, the number of bytes that"
            f" may wait for the server: {SMALLEST_BACKLOG} (2 MiB) or more"
        )
    keys = for_wire.pop("keys", None)
    sealer = None if keys is None else Sealer(keys)
    make = partial(open_wire, relay, prefix, for_wire)
    wire = make()  # It uses no network, and says what is wrong.
    shares = None if relay_channels is None else _shares(relay_channels)
    if shares is not None and not wire.capabilities.queues:
        raise OptionError(
            f"relay_channels can't be used with {shown(relay)}: {getattr(wire, 'no_queues', '')}"
        )
    return RelayOptions(prefix, shown(relay), make, backlog, shares, sealer)


def _shares(patterns: object) -> Callable[[str], bool]:
    """Return what tells whether a channel is shared."""
    if isinstance(patterns, (str, bytes)) or not isinstance(patterns, Sequence):
        raise OptionError(
            f"relay_channels is {patterns!r}; it must be a list of patterns for names of channels,"
            " such as ['thumbnails', 'mail.*']"
        )
    compiled = []
    for pattern in patterns:
        if isinstance(pattern, str) and pattern and "!" not in pattern:
            compiled.append(re.compile(translate(pattern)))
        else:
            raise OptionError(
                f"relay_channels has {pattern!r}; a pattern is a str, a glob for names of ordinary"
                " channels, which have no '!'"
            )

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


__all__ = ["SMALLEST_BACKLOG", "check_engine", "checked"]
