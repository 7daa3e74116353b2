"""What processes and the relay of their machine leave for each other in the store.

No channel or group has a name that begins with ``!!``, so none of these names is a user's:

==================== ========================================================================
``!!relay.out``      queue: messages to other machines, and changes of groups there, in order (R3)
``!!relay.notices``  queue: notices to the relay: a group in a new shard, a flush, a count
``!!relay.answer.N`` queue: the relay's answer to flush number N
``!!relay.vacant``   queue: a relay has ended in order, so another process may begin (R7)
``!!relay.report``   table, or a queue if that memory is full: the relay's report (`report`)
``!!relay.shards``   table: one member, a bitmap of the shards that the relay hears (R6)
``!!relay.waiting``  table: the receivers that wait on shared channels (R12)
``!!relay.full``     table: the shared channels that are full on the server (R12)
``!!relay.settings`` table: the options that each process has for the relay (`agreement`)
==================== ========================================================================
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ..encoding.names import INTERNAL_TABLES, RELAY_ROLE, WAY_OUT
from ..engines.base import IDENTITY_BYTES, Engine, Record
from .frames import SHARDS, Kind

OUT = WAY_OUT
NOTICES = b"!!relay.notices"
ANSWER = b"!!relay.answer."
VACANT = b"!!relay.vacant"
REPORT, HEARD, WAITING, FULL, SETTINGS = INTERNAL_TABLES

#: The role of the process that relays, and that of a dedicated relay, before which others step
#: back (`asgi_ipc.engines.base`, E32). Do not change.
RELAY, DEDICATED = RELAY_ROLE, 1
#: Notices, by the first byte: a group in a shard that is not heard; a flush of all machines; so
#: many records were dropped from the way out; a receiver waits on a shared channel.
NEW_GROUP, FLUSH_ALL, DROPPED, WAITS = b"g", b"f", b"d", b"w"
#: As `DROPPED`, but for want of room in the store.
NO_ROOM = b"r"
#: Records that the way out may hold, and notices.
MOST_RECORDS, MOST_NOTICES = 100_000, 1_000
#: Nanoseconds that a notice lives.
NOTICE_LIFE = 60 * 1_000_000_000
#: Records on `VACANT`, and nanoseconds for which they live: by then a process that may relay has
#: looked by itself.
MOST_VACANT, _VACANT_LIFE = 8, 1_000_000_000
#: The part of ``channel_memory`` that the way out may take, unless the option says otherwise.
SHARE_OF_STORE = 8
#: A process looks at the size of the way out each time it has pushed this part of its bound.
_LOOKS = 64
#: Records that are dropped at once.
_BATCH = 64
#: Bytes that tell the receivers of one process apart.
_TOKEN = 8
_U64 = struct.Struct(">Q")
#: Bit of a record's kind: it must be sealed.
_SEALED = 0x80


class Outgoing(NamedTuple):
    """A record on the way out, read."""

    kind: Kind
    #: Of a group or channel.
    name: bytes
    payload: bytes


def header(kind: Kind, name: bytes, must_be_sealed: bool = False) -> bytes:
    """Return what precedes the payload of a record on the way out.

    A process with keys says of each record that it must be sealed.
    """
    return bytes((kind | _SEALED * must_be_sealed, len(name))) + name


def read(record: bytes) -> Outgoing:
    """Return what a record on the way out says. Raises `ValueError` for one that is none."""
    if len(record) < 2 or len(record) < 2 + record[1]:
        raise ValueError("no record of the way out")
    end = 2 + record[1]
    return Outgoing(Kind(record[0] & ~_SEALED), record[2:end], record[end:])


def is_work(record: bytes) -> bool:
    """Return whether a record on the way out is a message to a shared channel."""
    return bool(record) and record[0] & ~_SEALED == Kind.WORK


def must_be_sealed(record: bytes) -> bool:
    """Return whether a record on the way out may not leave the machine unless it is sealed."""
    return bool(record) and bool(record[0] & _SEALED)


def notice(engine: Engine, what: bytes, content: bytes) -> bool:
    """Leave a notice for the relay, and return whether there was room.

    If there are too many, it is not needed. The store counts a notice that is refused or expires as
    a message that was dropped, so none is left that no relay needs.
    """
    deadline = engine.clock() + NOTICE_LIFE
    return not engine.push([Record(NOTICES, what + content, deadline, MOST_NOTICES)])


def vacate(engine: Engine) -> None:
    """Wake a process that may relay, as this one does so no more.

    If none waits for that, nothing is left in the store, where it would expire and be counted.
    """
    if engine.capabilities.inspects and not any(
        queue.waiting for queue in engine.queues() if queue.name == VACANT
    ):
        return
    deadline = engine.clock() + _VACANT_LIFE
    engine.push([Record(VACANT, b"v", deadline, MOST_VACANT)])


def pack_count(count: int) -> bytes:
    """Return a number as the content of a notice."""
    return _U64.pack(count)


def unpack_count(content: bytes) -> int:
    """Return the number; 0 for other bytes."""
    return int(_U64.unpack(content)[0]) if len(content) == _U64.size else 0


class Backlog:
    """Keeps the queue `OUT` within ``bound`` bytes, as far as this process fills it (R8).

    No method waits; each may raise what the engine raises.
    """

    def __init__(self, engine: Engine, bound: int) -> None:
        self._engine, self._bound = engine, bound
        self._until_look = self._step = max(1, bound // _LOOKS)

    def pushed(self, size: int) -> int:
        """Note that a record of ``size`` bytes was pushed; return how many were dropped for it."""
        self._until_look -= size
        if self._until_look > 0:
            return 0
        self._until_look = self._step
        return self.trim()

    def make_room(self) -> int:
        """Drop some of the oldest records, as the store takes no more; return how many."""
        return len(self._engine.pop(OUT, _BATCH))

    def trim(self) -> int:
        """Drop the oldest records until the way out is within its bound; return how many."""
        dropped = 0
        while self._engine.statistics(OUT).get("bytes", 0) > self._bound:
            gone = len(self._engine.pop(OUT, _BATCH))
            if not gone:
                break
            dropped += gone
        return dropped


# Shared channels


def pack_work(capacity: int, body: bytes) -> bytes:
    """Return the payload of a message to a shared channel, which may hold so many."""
    return _U64.pack(capacity) + body


def unpack_work(payload: bytes) -> tuple[int, bytes]:
    """Return capacity and encoded message. Raises `ValueError` for other bytes."""
    if len(payload) <= _U64.size:
        raise ValueError("no message to a shared channel")
    return _U64.unpack_from(payload)[0], payload[_U64.size :]


def receiver(channel: bytes, identity: bytes) -> bytes:
    """Return a new member of `WAITING`, for a receiver in the process of that identity."""
    return channel + b"\n" + identity + os.urandom(_TOKEN)


def receiver_channel(member: bytes) -> bytes:
    """Return the channel on which a member of `WAITING` waits."""
    return member.partition(b"\n")[0]


def receiver_process(member: bytes) -> bytes:
    """Return the identity of a receiver's process; ``b""`` if the member does not tell it."""
    rest = member.partition(b"\n")[2]
    return rest[:IDENTITY_BYTES] if len(rest) == IDENTITY_BYTES + _TOKEN else b""


# The shards that are heard


def pack_shards(shards: Iterable[int]) -> bytes:
    """Return the member of `HEARD` that stands for some shards."""
    bits = bytearray(SHARDS // 8)
    for shard in shards:
        bits[shard >> 3] |= 1 << (shard & 7)
    return bytes(bits)


def is_heard(members: Iterable[bytes], shard: int) -> bool:
    """Return whether the members of `HEARD` have a shard."""
    at, bit = shard >> 3, 1 << (shard & 7)
    return any(len(bits) == SHARDS // 8 and bits[at] & bit for bits in members)


__all__ = [
    "ANSWER",
    "DEDICATED",
    "DROPPED",
    "FLUSH_ALL",
    "FULL",
    "HEARD",
    "MOST_RECORDS",
    "MOST_VACANT",
    "NEW_GROUP",
    "NOTICES",
    "NO_ROOM",
    "OUT",
    "RELAY",
    "REPORT",
    "SETTINGS",
    "SHARE_OF_STORE",
    "VACANT",
    "WAITING",
    "WAITS",
    "Backlog",
    "Outgoing",
    "header",
    "is_heard",
    "is_work",
    "must_be_sealed",
    "notice",
    "pack_count",
    "pack_shards",
    "pack_work",
    "read",
    "receiver",
    "receiver_channel",
    "receiver_process",
    "unpack_count",
    "unpack_work",
    "vacate",
]
