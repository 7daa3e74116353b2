"""What a relay says of itself, in the store: for people, and for the relay that comes next (R7).

The report is the table `REPORT`, rewritten about once a second. Members are short, so it is in
pieces: each begins with the number of the report, the number of the piece, and how many there are.
New pieces are put before the old ones are removed, so a reader always finds a whole report. Where
visitors have filled the memory for groups, the report is a record of the queue `REPORT` instead, in
the memory for messages; a reader takes the newer of the two. A report that is older than `STALE` is
that of a relay that has ended, was killed, or is stopped.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgpack

from ..engines.base import MAX_NAME, Engine, Record
from ..exceptions import StoreFull
from ..policy.expiry import LONGEST
from .texts import printable
from .way_out import RELAY, REPORT

#: Format of the report.
_VERSION = 1
#: Nanoseconds.
STALE = 5 * 1_000_000_000
#: Bytes of a report. What does not fit is left out: first the sequences of topics.
LARGEST = 24 * 1024
#: Machines, characters of each text, and counts, that are kept if there is no room for more.
_PEERS, _TEXT, _COUNTS = 50, 200, 100
#: Records that the queue may hold: the last report, and the next one.
_SPARE = 2
_FOREVER = LONGEST * 1_000_000_000
_HEAD = struct.Struct(">IBB")
_PIECE = MAX_NAME - _HEAD.size


class Report(NamedTuple):
    """A report as it was read."""

    #: Nanoseconds since it was written.
    age: int
    #: Whether a process holds the role of the relay.
    is_held: bool
    #: Whatever the relay wrote; see `Relay.report`.
    content: dict[str, Any]

    @property
    def state(self) -> str:
        """Return what the relay says that it does (`Relay.state`), or ``none``, or ``stopped``."""
        if not self.is_held:
            return "none"
        if self.age > STALE:
            return "stopped"
        state = str(self.content.get("state", "unknown"))
        # That of the former relay: the next one has not written yet.
        return "connecting" if state == "ended" else state


def write(engine: Engine, content: dict[str, Any]) -> None:
    """Replace the report.

    Raises `StoreFull` if neither memory has room for it, and then leaves none; raises `ValueError`
    for one that can't be shortened to `LARGEST` bytes.
    """
    packed = _packed({**content, "v": _VERSION, "at": engine.clock()})
    try:
        _replace(engine, packed)
    except StoreFull:
        # There may be room where the former one lies. If that stayed, the relay would seem to be
        # stopped.
        for member in engine.members(REPORT).names:
            engine.remove(REPORT, member)
        engine.pop(REPORT, _SPARE)
        _replace(engine, packed)


def _replace(engine: Engine, packed: bytes) -> None:
    """Replace the report by these bytes. Raises `StoreFull`; then the former one is still there."""
    old = engine.members(REPORT).names
    number = (max(map(_number, old), default=0) + 1) & 0xFFFFFFFF
    parts = [packed[at : at + _PIECE] for at in range(0, len(packed), _PIECE)]
    pieces = [_HEAD.pack(number, index, len(parts)) + part for index, part in enumerate(parts)]
    deadline = engine.clock() + _FOREVER
    try:
        for piece in pieces:
            engine.put(REPORT, piece, deadline)
    except StoreFull:
        for piece in pieces:
            engine.remove(REPORT, piece)
        if engine.push([Record(REPORT, packed, deadline, _SPARE)]):
            raise
        while engine.statistics(REPORT)["pending"] > 1 and engine.pop(REPORT):
            pass
        for member in old:
            engine.remove(REPORT, member)
        return
    for member in old:
        engine.remove(REPORT, member)
    while engine.peek(REPORT) and engine.pop(REPORT):
        pass


def read(engine: Engine) -> Report | None:
    """Return the last report; None if there is none that this version reads."""
    found = engine.members(REPORT).names
    records = engine.look(REPORT, _SPARE) if engine.peek(REPORT) else ()
    payloads = [record.payload for record in records]
    return parsed(found, payloads, engine.clock(), engine.is_held(RELAY))


def parsed(
    members: Iterable[bytes], payloads: Iterable[bytes], now: int, is_held: bool
) -> Report | None:
    """Return the newest report among members of the table and records of the queue."""
    contents = filter(None, map(_unpacked, [_joined(members), *payloads]))
    content = max(contents, key=lambda each: int(each["at"]), default=None)
    return None if content is None else Report(max(0, now - content["at"]), is_held, content)


def _packed(content: dict[str, Any]) -> bytes:
    """Return the report without what does not fit. Raises `ValueError` if all is too long."""
    for less in _shorter(content):
        packed: bytes = msgpack.packb({**content, **less}, use_bin_type=True)
        if len(packed) <= LARGEST:
            return packed
    raise ValueError(f"a report has {len(packed):,} bytes, of at most {LARGEST:,}")


def _shorter(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what to replace in a report: nothing, and then more and more."""
    yield {}
    # Those heard of late matter most.
    peers = sorted(content.get("peers", []), key=lambda peer: -int(peer["heard_at"]))
    peers = peers[: LARGEST // 64]
    yield {"peers": [{**peer, "sequences": _not_zero(peer.get("sequences", {}))} for peer in peers]}
    known = [{**peer, "sequences": {}, "before": {}} for peer in peers]
    yield {"peers": known}
    yield {"peers": known[:_PEERS]}
    yield {"peers": known[:_PEERS], "published": {}}
    texts = {
        name: printable(text, _TEXT) for name, text in content.items() if isinstance(text, str)
    }
    some = sorted(content.get("counts", {}).items())[:_COUNTS]
    yield {"peers": [], "published": {}, **texts, "counts": dict(some), "past": []}


def _not_zero(sequences: dict[bytes, int]) -> dict[bytes, int]:
    return {topic: number for topic, number in sequences.items() if number}


def _number(member: bytes) -> int:
    return int(_HEAD.unpack_from(member)[0]) if len(member) > _HEAD.size else 0


def _joined(members: Iterable[bytes]) -> bytes:
    """Return the newest report of which all pieces are there."""
    found: dict[tuple[int, int], dict[int, bytes]] = defaultdict(dict)
    for member in members:
        if len(member) > _HEAD.size:
            number, index, count = _HEAD.unpack_from(member)
            found[number, count][index] = member[_HEAD.size :]
    for (_, count), pieces in sorted(found.items(), reverse=True):
        if set(pieces) == set(range(count)):
            return b"".join(pieces[index] for index in range(count))
    return b""


def _unpacked(payload: bytes) -> dict[str, Any] | None:
    try:
        content = msgpack.unpackb(payload, raw=False, strict_map_key=False)
    except Exception:  # Whatever it is, it is no report.
        return None
    if not isinstance(content, dict) or content.get("v") != _VERSION:
        return None
    return content if isinstance(content.get("at"), int) else None


__all__ = ["STALE", "Report", "parsed", "read", "write"]
