"""The record on a process-specific queue: an encoded message and the local channels it is for.

====== =================================================================
bytes  content
====== =================================================================
4      length of the names, little-endian
n      the names, each the part behind the ``!``, separated by newlines
rest   the encoded message (`asgi_ipc.encoding.codec`)
====== =================================================================

A record on any other queue is the encoded message alone. The format is persisted in stores that
outlive their processes: do not change it without a new version of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ..exceptions import RecordCorrupt

#: Width of the length in front.
_LENGTH = 4
#: Most local channels one record may be for.
MAX_LOCALS = 50_000
#: A local name is part of a channel name, which has fewer than 100 characters; with its newline.
_LONGEST = 100
#: The characters of names, and the newline that separates names.
_VALID = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.\n"
#: Parsed names are cached: of up to `_SHORT` bytes (some 50 channels) for many groups, of up to
#: `_LONG` bytes (some 8,000 channels) for the last `_FEW` groups only.
_SHORT, _LONG = 2048, 256 * 1024
_FEW = 4
#: The first bytes of an envelope, by which the cache of long ones tells groups apart.
_GLANCE = 64


def address(local_names: Sequence[bytes]) -> bytes:
    """Return the part of an envelope in front of the message, for one or more local names."""
    names = b"\n".join(local_names)
    return len(names).to_bytes(_LENGTH, "little") + names


def unpack(payload: bytes) -> tuple[Sequence[bytes], bytes]:
    """Return the local names and the encoded message of an envelope.

    Raises `RecordCorrupt` for bytes that `address` would not have made: too many names, or names
    of other characters or lengths.
    """
    start = _LENGTH + int.from_bytes(payload[:_LENGTH], "little")
    if len(payload) <= start:
        # A message takes a byte at least, so this is too short even for an empty name.
        raise RecordCorrupt(
            f"a record of {len(payload)} bytes says that its message starts at byte {start}"
        )
    if start < _SHORT:
        return _names(payload[_LENGTH:start]), payload[start:]
    glance = payload[:_GLANCE]
    header, names = _long.get(glance, _NOTHING)
    if not names or not payload.startswith(header):
        names = _names.__wrapped__(payload[_LENGTH:start])
        if start < _LONG:
            if len(_long) >= _FEW:
                _long.clear()
            _long[glance] = payload[:start], names
    return names, payload[start:]


#: The cache of long ones: the part in front of the message, and the names in it.
_long: dict[bytes, tuple[bytes, Sequence[bytes]]] = {}
_NOTHING: tuple[bytes, Sequence[bytes]] = (b"", ())


@lru_cache(256)
def _names(names: bytes) -> Sequence[bytes]:
    # Check count and characters on the whole, before making an object of each name.
    if (
        len(names) > MAX_LOCALS * _LONGEST
        or names.count(b"\n") >= MAX_LOCALS
        or names.translate(None, _VALID)
    ):
        raise RecordCorrupt(f"a record names channels that can't exist: {names[:60]!r}")
    found = names.split(b"\n")
    if len(names) >= _LONGEST and max(map(len, found)) >= _LONGEST:
        raise RecordCorrupt(f"a record names a channel with too long a name: {names[:60]!r}")
    return found


__all__ = ["MAX_LOCALS", "address", "unpack"]
