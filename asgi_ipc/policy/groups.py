"""Groups: how a member is written in a table, and which records a broadcast is (S13-S15)."""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..encoding.envelope import MAX_LOCALS, address
from ..encoding.names import ChannelName, channel_name
from ..exceptions import RecordCorrupt

#: In front of a member whose two 32-digit halves are stored as raw bytes. No channel name
#: starts with it. Persisted: do not change.
_COMPACT = b"\x01"
_HALF = 16
#: Where the halves and the prefix of such a member begin.
_CLIENT, _LOCAL, _PREFIX = 1, 1 + _HALF, 1 + 2 * _HALF
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
            client, local = member[_CLIENT:_LOCAL], member[_LOCAL:_PREFIX]
            if len(member) <= _PREFIX:  # The prefix has at least one character.
                raise ValueError("it is too short")
            prefix = member[_PREFIX:].decode("ascii")
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
    #: The parts of the channels' names behind the ``!``.
    local_names: tuple[bytes, ...]

    @property
    def channels(self) -> list[str]:
        """Full names of the channels that the record reaches."""
        return [(self.queue + local).decode("ascii") for local in self.local_names]


def plan(
    members: Iterable[bytes], capacity: Callable[[str], int], *, by_queue: bool
) -> list[Target]:
    """Plan the records of a broadcast that reaches all members once (S14).

    All local channels of one process share a record, as that process alone reads their queue; it
    has several records if the channels differ in capacity, or are more than `MAX_LOCALS`. A queue
    that any process may read gets a record for each channel, as the process that takes a record
    takes it for one receiver. ``by_queue`` says that ``capacity`` is the same for all channels of a
    queue. Raises `RecordCorrupt` for a bad member.
    """
    targets: list[Target] = []
    shared: dict[tuple[bytes, int], tuple[bytes, list[bytes]]] = {}
    # By what compact members of one queue have in common. One of them is parsed: of a large group
    # that changes often, each broadcast would otherwise parse the names of all members.
    alike: dict[bytes, list[bytes]] = {}
    for each in members:
        is_compact = by_queue and each.startswith(_COMPACT)
        common = each[:_LOCAL] + each[_PREFIX:] if is_compact else b""
        names = alike.get(common)
        if names is not None:
            names.append(hexlify(each[_LOCAL:_PREFIX]))
            continue
        name = channel(each)
        limit = capacity(name.full)
        if not name.owner:
            targets.append(Target(name.queue, name.header, limit, b"", (name.local,)))
            continue
        names = shared.setdefault((name.queue, limit), (name.owner, []))[1]
        names.append(name.local)
        if is_compact:
            alike[common] = names
    for (queue, limit), (owner, names) in shared.items():
        for part in _parts(names):
            targets.append(Target(queue, address(part), limit, owner, tuple(part)))
    return targets


def without(targets: Iterable[Target], excluded: Iterable[str]) -> list[Target]:
    """Return the records of a broadcast that reaches all channels but those."""
    gone: dict[bytes, set[bytes]] = {}
    for name in map(channel_name, excluded):
        gone.setdefault(name.queue, set()).add(name.local)
    left: list[Target] = []
    for target in targets:
        excluded_here = gone.get(target.queue)
        if excluded_here and not excluded_here.isdisjoint(target.local_names):
            kept = tuple(local for local in target.local_names if local not in excluded_here)
            if not kept:
                continue
            # Only a record for several channels is left in part.
            target = target._replace(header=address(kept), local_names=kept)
        left.append(target)
    return left


def _parts(names: list[bytes]) -> Iterable[list[bytes]]:
    # A name and its newline take at most 100 bytes, so these take 5 MB: with the largest
    # message they stay below what an engine takes (`asgi_ipc.engines.base.MAX_PAYLOAD`).
    return (names[at : at + MAX_LOCALS] for at in range(0, len(names), MAX_LOCALS))


__all__ = ["Target", "channel", "member", "plan", "suspended", "without"]
