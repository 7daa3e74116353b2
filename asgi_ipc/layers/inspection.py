"""A store as people and programs want to see it: channels, groups, processes and messages.

Turns what an engine yields of queues, tables and records (`asgi_ipc.engines.base`, E27 to E31) into
names and values of the layers. Times are seconds, sizes bytes, identities hexadecimal digits. Bytes
that no layer has written are escaped, or told as a ``problem``, and never raise.

For engines whose ``capabilities.inspects`` is true; calls wait for the store's lock as the engine's
methods do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..encoding.codec import EXTENDED
from ..encoding.envelope import unpack
from ..encoding.names import INTERNAL_TABLES, channel_name, group_name, is_internal, queue_owner
from ..encoding.serializers import choose
from ..engines.base import LOOK_RECORDS, Engine, Popped
from ..exceptions import RecordCorrupt, UnreadableMessage
from ..policy import groups
from . import counts

#: Of the table of memberships that are suspended from a group (`asgi_ipc.policy.groups.suspended`).
_SUSPENDED = groups.suspended(b"")


class ChannelInfo(NamedTuple):
    """One channel; of process-specific channels, all those of one process and prefix together."""

    #: Up to and including the ``!`` if it is process-specific.
    name: str
    #: Messages that no process has fetched yet.
    pending: int
    #: Memory that they take, and that of the queue's ring buffer, which outlives them.
    bytes: int
    #: Seconds since the oldest of them was sent; 0 if there is none.
    oldest_age: float
    #: Most messages ever pending.
    high_water: int
    #: Messages ever sent, fetched, dropped after their expiry, and refused.
    pushed: int
    popped: int
    expired: int
    refused: int
    #: Whether a receiver waits for a message.
    waiting: bool
    #: Identity of the only process that reads it, or None.
    process: str | None


class GroupInfo(NamedTuple):
    """One group."""

    name: str
    #: Channels that a broadcast reaches.
    members: int
    #: Channels that are suspended from it, and return with their next receive.
    suspended: int


class MemberInfo(NamedTuple):
    """One channel in a group."""

    name: str
    suspended: bool
    #: Identity of the process that receives on it, or None.
    process: str | None
    #: Why this is no channel, or None.
    problem: str | None


class ProcessInfo(NamedTuple):
    """One process that has the store open. ``pid``, ``started`` and ``command`` are hints."""

    identity: str
    #: 0 if unknown.
    pid: int
    #: Empty if unknown.
    command: str
    #: Seconds since the epoch; 0.0 if unknown.
    started: float
    #: Seconds since it opened the store.
    joined_age: float
    #: Channels on which its receivers wait.
    waits_for: tuple[str, ...]
    #: Its own counts (`asgi_ipc.engines.base.COUNTERS` and ``GAUGES``).
    counts: dict[str, int]


class MessageInfo(NamedTuple):
    """One message that waits in the store."""

    #: The channels that it is for.
    channels: tuple[str, ...]
    #: None if it can't be decoded.
    message: dict[str, Any] | None
    #: Size of the record.
    bytes: int
    #: Seconds until it is dropped.
    expires_in: float
    #: Why it can't be decoded, or None.
    problem: str | None


def statistics(engine: Engine) -> dict[str, float]:
    """Return the statistics of the whole store, as all its processes see them.

    The keys and units are those of a layer's ``global_statistics()``, as far as the engine counts
    them (it need not be one that ``inspects``), without what one process alone knows; and
    ``restored_count``, if the engine counts it: how often a message was put back after it had been
    received, which ``received_count`` then no longer counts.
    """
    told = engine.statistics()
    names = {**counts.OF_BOTH, **counts.OF_STORE, "restored_count": "restored"}
    result: dict[str, float] = {ours: told[name] for ours, name in names.items() if name in told}
    result["messages_max_age"] = told["oldest_age"] / 1e9
    result["memberships_count"] -= min(internal_members(engine), told["members"])
    return result


def internal_members(engine: Engine) -> int:
    """Return how many members the store counts that a relay left there, and no user."""
    tables = INTERNAL_TABLES if engine.capabilities.roles else ()
    return sum(len(engine.members(table).names) for table in tables)


def has_relay(engine: Engine) -> bool:
    """Return whether a store is joined to those of other machines, as far as can be seen in it."""
    tables = INTERNAL_TABLES if engine.capabilities.roles else ()
    return any(engine.members(table).names for table in tables)


def channels(engine: Engine) -> Iterator[ChannelInfo]:
    """Iterate over all channels."""
    for queue in engine.queues():
        if is_internal(queue.name):
            continue
        yield ChannelInfo(
            name=text(queue.name),
            pending=queue.pending,
            bytes=queue.bytes,
            oldest_age=queue.oldest_age / 1e9,
            high_water=queue.high_water,
            pushed=queue.pushed,
            popped=queue.popped,
            expired=queue.expired,
            refused=queue.refused,
            waiting=queue.waiting,
            process=(queue.owner or queue_owner(text(queue.name))).hex() or None,
        )


def all_groups(engine: Engine) -> Iterator[GroupInfo]:
    """Iterate over all groups, also those whose members are all suspended."""
    suspended: dict[bytes, int] = {}
    listed: dict[bytes, int] = {}
    for table in engine.tables():
        if is_internal(table.name):
            continue
        if table.name.startswith(_SUSPENDED):
            suspended[table.name[len(_SUSPENDED) :]] = table.members
        else:
            listed[table.name] = table.members
    for name in listed.keys() | suspended.keys():
        yield GroupInfo(text(name), listed.get(name, 0), suspended.get(name, 0))


def members(engine: Engine, group: str) -> list[MemberInfo]:
    """Return the channels in a group, the suspended ones too. Raises `TypeError` for a bad name."""
    table = group_name(group)
    found = []
    for suspended, name in ((False, table), (True, groups.suspended(table))):
        found += [_member(each, suspended) for each in engine.members(name).names]
    return found


def _member(member: bytes, suspended: bool) -> MemberInfo:
    try:
        name = groups.channel(member)
    except RecordCorrupt as error:
        return MemberInfo(text(member), suspended, None, str(error))
    return MemberInfo(name.full, suspended, name.owner.hex() or None, None)


def processes(engine: Engine) -> Iterator[ProcessInfo]:
    """Iterate over the processes that have the store open, but this one."""
    for each in engine.processes():
        if each.identity == engine.identity:
            continue
        yield ProcessInfo(
            identity=each.identity.hex(),
            pid=each.pid,
            command=each.command,
            started=each.started,
            joined_age=each.joined_age / 1e9,
            waits_for=tuple(text(name) for name in each.waits_for if not is_internal(name)),
            counts=dict(each.counts),
        )


def waiting_messages(engine: Engine, channel: str, limit: int = LOOK_RECORDS) -> list[MessageInfo]:
    """Return the oldest messages that wait on a channel, without taking them.

    At most ``limit``, and at most those among the first `LOOK_RECORDS` records of its queue. A name
    that ends in ``!`` stands for all channels that begin with it. Raises `TypeError` for a bad
    name.
    """
    name = channel_name(channel)
    now = engine.clock()
    wanted = name.full if name.local else ""
    records = engine.look(name.queue, LOOK_RECORDS if wanted else limit)
    found = [_message(name.queue, record, now) for record in records]
    return [each for each in found if not wanted or wanted in each.channels][:limit]


def _message(queue: bytes, record: Popped, now: int) -> MessageInfo:
    names: tuple[str, ...] = (text(queue),)
    content, problem = None, None
    try:
        body = record.payload
        if queue.endswith(b"!"):
            local_names, body = unpack(record.payload)
            names = tuple(text(queue + each) for each in local_names)
        # What reads the messages of both serializers that come with the package.
        content = choose(EXTENDED).decode(body)
    except (RecordCorrupt, RecursionError, UnreadableMessage) as error:
        problem = str(error)
    left = max(0, record.deadline - now) / 1e9
    return MessageInfo(names, content, len(record.payload), left, problem)


def text(name: bytes) -> str:
    """Return a name in a store as text; bytes that are no ASCII are escaped."""
    return name.decode("ascii", "backslashreplace")


__all__ = [
    "ChannelInfo",
    "GroupInfo",
    "MemberInfo",
    "MessageInfo",
    "ProcessInfo",
    "all_groups",
    "channels",
    "has_relay",
    "members",
    "processes",
    "statistics",
    "text",
    "waiting_messages",
]
