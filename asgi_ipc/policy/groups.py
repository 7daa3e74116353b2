"""Groups: how a member is written in a table, and which records a broadcast is (S13-S15)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from ..encoding.envelope import MAX_LOCALS, address
from ..encoding.names import ChannelName, channel_name
from ..exceptions import RecordCorrupt

#: In front of a member whose two 32-digit halves are stored as raw bytes. No channel name
#: starts with it. Persisted: do not change.
_COMPACT = b"\x01"
_HALF = 16
_HEX = frozenset(b"0123456789abcdef")


def member(name: ChannelName) -> bytes:
    """Return a channel as a member of a table.

    ``<prefix>.<32 hex>!<32 hex>``, which is nearly every member, is stored with both
    halves as raw bytes: about 40 bytes instead of 74.
    """
    local = name.local
    if name.owner and len(local) == 2 * _HALF and _HEX.issuperset(local):
        prefix = name.queue[: -(2 * _HALF + 2)]  # Without the dot, the digits and the "!".
        client = name.queue[-(2 * _HALF + 1) : -1]
        return _COMPACT + bytes.fromhex((client + local).decode()) + prefix
    return name.full.encode()


def channel(member: bytes) -> ChannelName:
    """Return the channel that `member` encoded. Raises `RecordCorrupt` for any other bytes."""
    try:
        if member.startswith(_COMPACT):
            client, local = member[1 : 1 + _HALF], member[1 + _HALF : 1 + 2 * _HALF]
            if len(member) <= 1 + 2 * _HALF:  # The prefix has at least one character.
                raise ValueError("it is too short")
            prefix = member[1 + 2 * _HALF :].decode("ascii")
            return channel_name(f"{prefix}.{client.hex()}!{local.hex()}")
        return channel_name(member.decode("ascii"))
    except (TypeError, ValueError) as error:
        raise RecordCorrupt(f"a group has the member {member!r}: {error}") from error


def suspended(table: bytes) -> bytes:
    """Return the table of the memberships that are suspended from a group.

    No group has a name with a ``!``. Persisted: do not change.
    """
    return b"!" + table


class Target(NamedTuple):
    """One record of a broadcast, all but the message."""

    queue: bytes
    #: Precedes the encoded message; empty on an ordinary queue.
    header: bytes
    #: Most messages the queue may hold.
    capacity: int
    #: Identity of the only reader, or ``b""``.
    owner: bytes
    #: Full names of the channels that the record reaches.
    channels: tuple[str, ...]
    #: The parts of those names behind the ``!``.
    local_names: tuple[bytes, ...]


def plan(members: Iterable[bytes], capacity: Callable[[str], int]) -> list[Target]:
    """Plan the records of a broadcast that reaches all members once (S14).

    All local channels of one process share a record, as that process alone reads their queue; it
    has several records if the channels differ in capacity, or are more than `MAX_LOCALS`. A queue
    that any process may read gets a record for each channel, as the process that takes a record
    takes it for one receiver. Raises `RecordCorrupt` for a bad member.
    """
    targets: list[Target] = []
    shared: dict[tuple[bytes, int], list[ChannelName]] = {}
    for each in members:
        name = channel(each)
        limit = capacity(name.full)
        if name.owner:
            shared.setdefault((name.queue, limit), []).append(name)
        else:
            targets.append(Target(name.queue, name.header, limit, b"", (name.full,), (name.local,)))
    for (queue, limit), names in shared.items():
        for part in _parts(names):
            channels, local_names = zip(*((name.full, name.local) for name in part), strict=True)
            header = address(local_names)
            targets.append(Target(queue, header, limit, part[0].owner, channels, local_names))
    return targets


def without(targets: Iterable[Target], excluded: Set[str]) -> list[Target]:
    """Return the records of a broadcast that reaches all channels but those."""
    left: list[Target] = []
    for target in targets:
        if not excluded.isdisjoint(target.channels):
            pairs = zip(target.channels, target.local_names, strict=True)
            kept = [(channel, local) for channel, local in pairs if channel not in excluded]
            if not kept:
                continue
            channels, local_names = zip(*kept, strict=True)
            header = address(local_names)  # Only a record for several channels is left in part.
            target = target._replace(header=header, channels=channels, local_names=local_names)
        left.append(target)
    return left


def _parts(names: list[ChannelName]) -> Iterable[list[ChannelName]]:
    # A name and its newline take at most 100 bytes, so these take 5 MB: with the largest
    # message they stay below what an engine takes (`asgi_ipc.engines.base.MAX_PAYLOAD`).
    return (names[at : at + MAX_LOCALS] for at in range(0, len(names), MAX_LOCALS))


__all__ = ["Target", "channel", "member", "plan", "suspended", "without"]
