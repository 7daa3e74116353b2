"""Check the names of channels and groups (S4), and parse those of channels.

A channel ``queue!local`` is process-specific: the part up to and including the ``!``
names the queue, the rest the channel on that queue. In names that `new_channel` makes,
the queue is ``<prefix>.<32 lowercase hex digits>!``, where the digits are the identity
(`asgi_ipc.engines.base.Engine.identity`) of the process that alone reads it, its *owner*,
and the number of the layer that made it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from ..engines.base import IDENTITY_BYTES
from .envelope import address

#: A name must be shorter than this, in characters. Channels' rule.
NAME_LIMIT = 100
#: Names whose parsed form is cached. A busy process uses more names than these only over time.
_REMEMBERED = 4096

# Not `\d` or `\w`, which match digits and letters of every script, and not `$`, which
# matches before a trailing newline.
_PART = r"[A-Za-z0-9\-_.]"
CHANNEL = re.compile(
    rf"^(?P<queue>{_PART}+(?:\?{_PART}*|(?P<bang>!))?)(?P<local>(?(bang){_PART}*))\Z"
)
GROUP = re.compile(rf"^{_PART}+\Z")
_OWNED = re.compile(rf"{_PART}+\.([0-9a-f]{{32}})!")

#: What a name may be, for an error's text.
RULE = f"ASCII letters, digits, '-', '_' and '.', fewer than {NAME_LIMIT} characters"
_CHANNEL_RULE = f"{RULE}, and at most one '!' (or, in ASGI 1.x names, one '?') after the first"


class ChannelName(NamedTuple):
    """A valid channel name, parsed."""

    #: All of it.
    full: str
    #: The non-local part, up to and including the ``!``; all of a name without one.
    queue: bytes
    #: The part behind the ``!``.
    local: bytes
    #: Whether it has a ``!``.
    specific: bool
    #: Identity of the only process that may receive from it, or ``b""``.
    owner: bytes
    #: Precedes a message to this channel alone (`.envelope`); ``b""`` if no ``!``.
    header: bytes


def channel_name(name: object) -> ChannelName:
    """Parse a channel name. Raises `TypeError` naming it and the rule (S4)."""
    try:
        return _channel_name(name)
    except TypeError:
        _check_is_str("channel", name)  # Of an object without a hash it was not asked yet.
        raise


def group_name(name: object) -> bytes:
    """Return a group's name as bytes. Raises `TypeError` naming it and the rule (S4)."""
    try:
        return _group_name(name)
    except TypeError:
        _check_is_str("group", name)
        raise


# What a relay has in a store (`asgi_ipc.relay.way_out`), for modules that work without it too.

#: The role of the process that relays (`asgi_ipc.engines.base`, E32). Do not change.
RELAY_ROLE = 0
#: The queue of what is to be sent to other machines.
WAY_OUT = b"!!relay.out"
#: The table, or queue, of the relay's report.
RELAY_REPORT = b"!!relay.report"
#: The tables that a relay leaves in the store, and whose members are no memberships.
INTERNAL_TABLES = (
    RELAY_REPORT,
    b"!!relay.shards",
    b"!!relay.waiting",
    b"!!relay.full",
    b"!!relay.settings",
)


def is_internal(name: bytes) -> bool:
    """Return whether a queue or table is none of a user's: no channel or group is called so."""
    return name.startswith(b"!!")


def queue_owner(queue: str) -> bytes:
    """Return the identity inside ``<prefix>.<32 hex>!``, or ``b""`` for any other queue."""
    match = _OWNED.fullmatch(queue)
    return bytes.fromhex(match[1])[:IDENTITY_BYTES] if match else b""


@lru_cache(_REMEMBERED)
def _channel_name(name: Any) -> ChannelName:
    _check_is_str("channel", name)
    match = CHANNEL.match(name) if len(name) < NAME_LIMIT else None
    if match is None:
        raise TypeError(f"channel name {_shown(name)} is not valid; use {_CHANNEL_RULE}")
    queue, local = match["queue"], match["local"]
    specific = match["bang"] is not None
    owner = queue_owner(queue) if specific else b""
    header = address([local.encode()]) if specific else b""
    return ChannelName(str(name), queue.encode(), local.encode(), specific, owner, header)


@lru_cache(_REMEMBERED)
def _group_name(name: Any) -> bytes:
    _check_is_str("group", name)
    if len(name) >= NAME_LIMIT or not GROUP.match(name):
        raise TypeError(f"group name {_shown(name)} is not valid; use {RULE}")
    return str(name).encode()


def _check_is_str(what: str, name: object) -> None:
    """Raise `TypeError` for what is not a str, even if it claims to be one as lazy objects do."""
    if not issubclass(type(name), str):
        raise TypeError(
            f"{what} name {name!r} is not a str but of type {type(name).__qualname__}; pass a str"
        )


def _shown(name: str) -> str:
    """Return a name for an error message, shortened if it is very long."""
    return (
        repr(name)
        if len(name) <= 2 * NAME_LIMIT
        else f"{name[:NAME_LIMIT]!r}... ({len(name)} characters)"
    )


__all__ = [
    "CHANNEL",
    "GROUP",
    "INTERNAL_TABLES",
    "NAME_LIMIT",
    "RELAY_REPORT",
    "RELAY_ROLE",
    "RULE",
    "WAY_OUT",
    "ChannelName",
    "channel_name",
    "group_name",
    "is_internal",
    "queue_owner",
]
