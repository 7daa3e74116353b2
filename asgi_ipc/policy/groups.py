"""Groups: how a member is written in a table, and who gets a broadcast (S13-S15)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """A channel as a member of a table.

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
    """The channel that `member` made this of. Raises `RecordCorrupt` if it never did."""
    try:
        if member.startswith(_COMPACT):
            client, local = member[1 : 1 + _HALF], member[1 + _HALF : 1 + 2 * _HALF]
            if len(member) <= 1 + 2 * _HALF:  # There is a prefix.
                raise ValueError("it is too short")
            prefix = member[1 + 2 * _HALF :].decode("ascii")
            return channel_name(f"{prefix}.{client.hex()}!{local.hex()}")
        return channel_name(member.decode("ascii"))
    except (TypeError, ValueError) as error:
        raise RecordCorrupt(f"a group has the member {member!r}: {error}") from error


class Target(NamedTuple):
    """One record of a broadcast, all but the message."""

    queue: bytes
    #: Goes in front of the encoded message; empty on an ordinary queue.
    header: bytes
    #: Most messages the queue may hold.
    capacity: int
    #: Identity of the only reader, or ``b""``.
    owner: bytes
    #: Full names of the channels that it reaches.
    channels: tuple[str, ...]
    #: What stands behind the ``!`` in them.
    local_names: tuple[bytes, ...]


def plan(members: Iterable[bytes], capacity: Callable[[str], int]) -> list[Target]:
    """The records that reach all members once (S14).

    All local channels of one process share a record, since one process takes them all off
    the queue; it has two if they differ in capacity, or are very many. A queue that is
    nobody's in particular gets a record for each channel: whoever takes one must not walk
    away with the messages of the others. Raises `RecordCorrupt` for a bad member.
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


def _parts(names: list[ChannelName]) -> Iterable[list[ChannelName]]:
    # A name and its newline take at most 100 bytes, so these take 5 MB: with the largest
    # message they stay below what an engine takes (`asgi_ipc.engines.base.MAX_PAYLOAD`).
    return (names[at : at + MAX_LOCALS] for at in range(0, len(names), MAX_LOCALS))


__all__ = ["Target", "channel", "member", "plan"]
