"""What relays say to each other: frames as bytes, and the topics on which they are published.

====== ==================================================================
bytes  content, big-endian
====== ==================================================================
2      magic, ``aI``; ``aS`` if name and payload are sealed (`sealing`)
1      version of the format
1      newest version that the writer reads
1      kind (`Kind`)
5      node: the first bytes of every identity of the writer's store
8      term: when the writer became the relay of its machine
8      sequence: 1, 2, ... for each topic of the machine, from term to term
8      remaining lifetime, nanoseconds
1      length of the name
n      the name: a group, a channel, a host, or a flush
rest   the payload: of messages, the encoded message; of hellos and beats, a `Beat`
====== ==================================================================

A message to a group that is not for some channels of other machines begins with their names
(`pack_excluded`).

Pure functions. Frames come from a server that other programs may use: `unpack` and the functions
for payloads take any bytes, and raise `NoFrame` for those that no relay has written.
"""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Collection, Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from ..engines.base import NODE_BYTES
from ..policy.expiry import LONGEST
from .sealing import OVERHEAD, SealBroken

if TYPE_CHECKING:
    from .sealing import Sealer

#: The format that this version writes if all machines read it, and the oldest that it reads.
NEWEST, OLDEST = 1, 1
#: Groups are spread over this many topics. All machines of a site must agree: do not change.
SHARDS = 1024
#: Longest name in a frame, in bytes.
LONGEST_NAME = 255
#: Most channels of other machines that one message to a group may exclude.
MOST_EXCLUDED = 10_000
#: Most topics of which one beat tells the sequence.
MOST_SEQUENCES = 2 * SHARDS
#: Longest lifetime, in nanoseconds.
LONGEST_LIFE = LONGEST * 1_000_000_000

#: Terms and sequences are smaller: a clock of nanoseconds and a counter come nowhere near, and what
#: is counted of them still fits 64 bits.
LIMIT = 1 << 62
#: Bytes of the nonces with which machines ask each other whether they are there.
NONCE = 8
#: Bytes of a flush's number.
FLUSH_BYTES = 16

_MAGIC, _SEALED = b"aI", b"aS"
_HEAD = struct.Struct(f">2sBBB{NODE_BYTES}sQQQB")
_U64 = struct.Struct(">Q")
#: MessagePack's nil.
_EXCLUDES = b"\xc0"
#: The topic that every machine hears.
ALL = b"a"
_SHARD, _MACHINE = b"g", b"m"


class Kind(IntEnum):
    """What a frame is. Numbers of earlier versions keep their meaning."""

    #: A message to the members of a group, and one to a process-specific channel.
    GROUP, CHANNEL = 1, 2
    #: A channel of the machine that hears it is to enter or leave a group there.
    JOIN, LEAVE = 3, 4
    #: A machine begins, goes on, or ends.
    HELLO, BEAT, BYE = 5, 6, 7
    #: All machines are to flush their stores; and a machine has.
    FLUSH, FLUSHED = 8, 9
    #: A message on a shared queue of the server; and on a topic, that such a queue has some.
    WORK = 10


#: Kinds that carry something of a user's.
MESSAGES = frozenset({Kind.GROUP, Kind.CHANNEL, Kind.JOIN, Kind.LEAVE})


class NoFrame(ValueError):
    """Bytes that no relay of a readable version has written."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        #: A reason for which frames are counted as dropped.
        self.reason = reason


class RelayFrame(NamedTuple):
    """One frame, as relays see it."""

    kind: Kind
    node: bytes
    term: int
    sequence: int
    #: Nanoseconds.
    lifetime: int
    name: bytes
    payload: bytes
    #: Newest version that its writer reads.
    reads: int = NEWEST
    #: Of a sealed frame: rises from frame to frame of a term, on all topics together.
    number: int = 0


class Beat(NamedTuple):
    """What hellos and beats carry.

    A machine that asks sends a nonce, and another that hears it answers with the same nonce in its
    next beat. Only a sealed site asks: the answer proves that what its machine says from then on
    was said after the question (`peers`).
    """

    #: The nonce of a machine that asks; empty if it does not.
    ask: bytes = b""
    #: The nonces that were heard.
    answers: tuple[bytes, ...] = ()
    #: For each topic the last sequence published.
    sequences: Mapping[bytes, int] = {}
    #: Whether these are all: on other topics nothing was published.
    is_all: bool = False


def pack(
    frame: RelayFrame, version: int = NEWEST, sealer: Sealer | None = None, bound_to: bytes = b""
) -> bytes:
    """Return a frame as bytes, in a version that its readers read.

    A ``sealer`` binds it to its head and to ``bound_to`` (`binding`): elsewhere it does not open.
    """
    head = _HEAD.pack(
        _MAGIC if sealer is None else _SEALED,
        version,
        frame.reads,
        frame.kind,
        frame.node,
        frame.term,
        frame.sequence,
        frame.lifetime,
        len(frame.name),
    )
    rest = frame.name + frame.payload
    return head + (rest if sealer is None else sealer.seal(rest, bound_to + head))


def unpack(
    data: bytes,
    oldest: int = OLDEST,
    newest: int = NEWEST,
    sealer: Sealer | None = None,
    bound_to: bytes = b"",
) -> RelayFrame:
    """Return the frame that `pack` made. Raises `NoFrame` for any other bytes.

    With a ``sealer`` these include frames that are not sealed, or are bound to something else.
    """
    head = data[: _HEAD.size]
    if len(head) < _HEAD.size or not head.startswith((_MAGIC, _SEALED)):
        raise NoFrame("no frame")
    magic, version, reads, kind, node, term, sequence, lifetime, length = _HEAD.unpack(head)
    if not oldest <= version <= newest:
        raise NoFrame("version")
    if (magic == _SEALED) != (sealer is not None):
        raise NoFrame("sealed" if sealer is None else "not sealed")
    rest, number = data[_HEAD.size :], 0
    if sealer is not None:
        number = sealer.number(rest)
        try:
            rest = sealer.open(rest, bound_to + head)
        except SealBroken as error:
            raise NoFrame(f"seal {error.reason}") from None
    if not (0 < term < LIMIT and 0 < sequence < LIMIT):
        raise NoFrame("no frame")
    if len(rest) < length or reads < version:
        raise NoFrame("no frame")
    try:
        known = Kind(kind)
    except ValueError:
        # A newer machine says more; it says what matters in a version that all read.
        raise NoFrame("version") from None
    lifetime = min(lifetime, LONGEST_LIFE)
    name, payload = rest[:length], rest[length:]
    return RelayFrame(known, node, term, sequence, lifetime, name, payload, reads, number)


def binding(prefix: str, topic: bytes) -> bytes:
    """Return what sealed frames on a topic of a prefix are bound to, beside their heads."""
    return prefix.encode() + b"\0" + topic


def queue_binding(prefix: str, queue: bytes) -> bytes:
    """Return what sealed frames on a shared queue are bound to, beside their heads."""
    return binding(prefix, b"queue\0" + queue)


def version_for(announced: Iterable[int], oldest: int = OLDEST, newest: int = NEWEST) -> int:
    """Return the version to write: the newest that all machines read, as they announce it."""
    return max(oldest, min([newest, *announced]))


# Topics


def shard_of(group: bytes) -> int:
    """Return the number of a group's shard, the same on all machines."""
    return crc32(group) % SHARDS


def shard_topic(shard: int) -> bytes:
    """Return the topic of a shard's group messages."""
    return _SHARD + shard.to_bytes(2, "big")


def machine_topic(node: bytes) -> bytes:
    """Return the topic of what is for one machine alone."""
    return _MACHINE + node


def is_topic(topic: bytes) -> bool:
    """Return whether relays publish on a topic of that name."""
    if topic.startswith(_SHARD):
        return len(topic) == 3 and int.from_bytes(topic[1:], "big") < SHARDS
    return topic == ALL or (topic.startswith(_MACHINE) and len(topic) == 1 + NODE_BYTES)


# Payloads


def pack_sequences(sequences: Mapping[bytes, int]) -> bytes:
    """Return sequences as bytes: for each topic the last one published."""
    return b"".join(
        bytes((len(topic),)) + topic + _U64.pack(number) for topic, number in sequences.items()
    )


def unpack_sequences(payload: bytes) -> dict[bytes, int]:
    """Return what `pack_sequences` packed. Raises `NoFrame`."""
    found: dict[bytes, int] = {}
    at = 0
    while at < len(payload):
        end = at + 1 + payload[at]
        topic = payload[at + 1 : end]
        if end + _U64.size > len(payload) or not is_topic(topic) or len(found) >= MOST_SEQUENCES:
            raise NoFrame("no frame")
        found[topic] = _U64.unpack_from(payload, end)[0]
        if found[topic] >= LIMIT:
            raise NoFrame("no frame")
        at = end + _U64.size
    return found


def pack_beat(beat: Beat) -> bytes:
    """Return the payload of a hello or a beat."""
    head = bytes((beat.is_all, len(beat.ask))) + beat.ask + len(beat.answers).to_bytes(2, "big")
    return head + b"".join(beat.answers) + pack_sequences(beat.sequences)


def unpack_beat(payload: bytes) -> Beat:
    """Return what `pack_beat` packed; no bytes say nothing. Raises `NoFrame`."""
    if not payload:
        return Beat()
    flags, length = payload[:2] if len(payload) > 1 else (0, 1)
    at = 2 + length
    end = at + 2 + NONCE * int.from_bytes(payload[at : at + 2], "big")
    if flags > 1 or length not in (0, NONCE) or len(payload) < max(end, at + 2):
        raise NoFrame("no frame")
    answers = tuple(payload[each : each + NONCE] for each in range(at + 2, end, NONCE))
    return Beat(payload[2:at], answers, unpack_sequences(payload[end:]), bool(flags))


def pack_beats(beat: Beat, room: int) -> list[bytes]:
    """Return the payloads of as many beats as it takes to say it in ``room`` bytes each."""
    sizes = {topic: 1 + len(topic) + _U64.size for topic in beat.sequences}
    payloads, answers = [], list(beat.answers)
    topics = list(beat.sequences)
    while True:
        left = room - 4 - len(beat.ask)
        some = answers[: max(0, left // NONCE)]
        del answers[: len(some)]
        left -= NONCE * len(some)
        told = {}
        while topics and sizes[topics[0]] <= left:
            left -= sizes[topics[0]]
            topic = topics.pop(0)
            told[topic] = beat.sequences[topic]
        is_all = beat.is_all and len(told) == len(beat.sequences)
        payloads.append(pack_beat(Beat(beat.ask, tuple(some), told, is_all)))
        if not (answers or topics):
            return payloads
        if not (some or told):  # No room for any of it; the caller sees that there is too little.
            return [pack_beat(beat)]


def room_for(name: bytes, limit: int, sealer: Sealer | None) -> int:
    """Return how many bytes the payload of a frame may have that is ``limit`` bytes long."""
    return limit - _HEAD.size - len(name) - (0 if sealer is None else OVERHEAD)


def pack_excluded(channels: Collection[str]) -> bytes:
    """Return what precedes the message to a group that is not for some channels.

    It begins with a byte with which no message begins, so a relay that does not know of it drops
    the message instead of delivering it to them. Raises `ValueError` for more than
    `MOST_EXCLUDED`.
    """
    if len(channels) > MOST_EXCLUDED:
        raise ValueError(
            f"exclude names {len(channels):,} channels of other machines, and at most"
            f" {MOST_EXCLUDED:,} travel with a message; exclude fewer, or use smaller groups"
        )
    names = "\n".join(sorted(channels)).encode("ascii")
    return _EXCLUDES + len(names).to_bytes(4, "big") + names


def unpack_excluded(payload: bytes) -> tuple[frozenset[str], bytes]:
    """Return the names of excluded channels, if any, and the message. Raises `ValueError`."""
    if not payload.startswith(_EXCLUDES):
        return frozenset(), payload
    end = 5 + int.from_bytes(payload[1:5], "big")
    names = payload[5:end].decode("ascii").split("\n", MOST_EXCLUDED)
    if len(names) > MOST_EXCLUDED:
        raise ValueError("too many names")
    return frozenset(names), payload[end:]


def pack_join(group: bytes, lifetime: int) -> bytes:
    """Return the payload of a `Kind.JOIN`; a membership's lifetime is in nanoseconds."""
    return _U64.pack(lifetime) + group


def unpack_join(payload: bytes) -> tuple[bytes, int]:
    """Return the group, and the membership's lifetime. Raises `NoFrame`."""
    if len(payload) <= _U64.size:
        raise NoFrame("no frame")
    return payload[_U64.size :], min(_U64.unpack_from(payload)[0], LONGEST_LIFE)


__all__ = [
    "ALL",
    "FLUSH_BYTES",
    "LIMIT",
    "LONGEST_LIFE",
    "LONGEST_NAME",
    "MESSAGES",
    "MOST_EXCLUDED",
    "MOST_SEQUENCES",
    "NEWEST",
    "NONCE",
    "OLDEST",
    "SHARDS",
    "Beat",
    "Kind",
    "NoFrame",
    "RelayFrame",
    "binding",
    "is_topic",
    "machine_topic",
    "pack",
    "pack_beat",
    "pack_beats",
    "pack_excluded",
    "pack_join",
    "pack_sequences",
    "queue_binding",
    "room_for",
    "shard_of",
    "shard_topic",
    "unpack",
    "unpack_beat",
    "unpack_excluded",
    "unpack_join",
    "unpack_sequences",
    "version_for",
]
