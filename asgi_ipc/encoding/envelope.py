"""What lies on a process-specific queue: a message, and the local channels it is for.

====== =================================================================
bytes  content
====== =================================================================
4      length of the names, little-endian
n      the names, each the part behind the ``!``, separated by newlines
rest   the encoded message (`asgi_ipc.encoding.codec`)
====== =================================================================

On other queues the encoded message lies as it is. The format is persisted in stores that
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
#: What names are made of, and what stands between them.
_VALID = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.\n"
#: Names of so many bytes, for some fifty channels, are remembered taken apart for many groups;
#: up to so many, for some eight thousand, only for the last few.
_SHORT, _LONG = 2048, 256 * 1024
_FEW = 4
#: By so many bytes of the beginning one group's names are told from another's at a glance.
_GLANCE = 64


def address(local_names: Sequence[bytes]) -> bytes:
    """The part in front of the message, for one local name or more."""
    names = b"\n".join(local_names)
    return len(names).to_bytes(_LENGTH, "little") + names


def unpack(payload: bytes) -> tuple[Sequence[bytes], bytes]:
    """The local names and the encoded message. Raises `RecordCorrupt` if it is no envelope.

    Takes what `address` makes and no more: so many names, of such characters and length.
    """
    start = _LENGTH + int.from_bytes(payload[:_LENGTH], "little")
    if len(payload) <= start:
        # A message takes a byte at least, so this is too short even for an empty name.
        raise RecordCorrupt(
            f"a record of length {len(payload)} says that its message starts at byte {start}"
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


#: The last few that are long: what stands in front of the message, and the names in it.
_long: dict[bytes, tuple[bytes, Sequence[bytes]]] = {}
_NOTHING: tuple[bytes, Sequence[bytes]] = (b"", ())


@lru_cache(256)
def _names(names: bytes) -> Sequence[bytes]:
    # Counted and compared whole before anything is made of each name.
    if (
        len(names) > MAX_LOCALS * _LONGEST
        or names.count(b"\n") >= MAX_LOCALS
        or names.translate(None, _VALID)
    ):
        raise RecordCorrupt(f"a record is for channels that no channel can be: {names[:60]!r}")
    found = names.split(b"\n")
    if len(names) >= _LONGEST and max(map(len, found)) >= _LONGEST:
        raise RecordCorrupt(f"a record is for a channel whose name is too long: {names[:60]!r}")
    return found


__all__ = ["MAX_LOCALS", "address", "unpack"]
