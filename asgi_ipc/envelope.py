"""What lies on a process-specific queue: a message, and the local channels it is for.

====== =================================================================
bytes  content
====== =================================================================
4      length of the names, little-endian
n      the names, each the part behind the ``!``, separated by newlines
rest   the encoded message (`asgi_ipc.messages`)
====== =================================================================

On other queues the encoded message lies as it is. The format is persisted in stores that
outlive their processes: do not change it without a new version of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from .exceptions import RecordCorrupt

#: Width of the length in front.
_LENGTH = 4
#: Most local channels one record may be for.
MAX_LOCALS = 50_000
#: Longer names are not remembered taken apart; so many are for some fifty channels.
_REMEMBERED_BYTES = 2048


def address(local_names: Sequence[bytes]) -> bytes:
    """The part in front of the message, for one local name or more."""
    names = b"\n".join(local_names)
    return len(names).to_bytes(_LENGTH, "little") + names


def unpack(payload: bytes) -> tuple[Sequence[bytes], bytes]:
    """The local names and the encoded message. Raises `RecordCorrupt` if it is no envelope."""
    start = _LENGTH + int.from_bytes(payload[:_LENGTH], "little")
    if len(payload) <= start:
        # A message takes a byte at least, so this is too short even for an empty name.
        raise RecordCorrupt(
            f"a record of length {len(payload)} says that its message starts at byte {start}"
        )
    if start < _REMEMBERED_BYTES:
        return _names(payload[_LENGTH:start]), payload[start:]
    return _names.__wrapped__(payload[_LENGTH:start]), payload[start:]


@lru_cache(256)
def _names(names: bytes) -> Sequence[bytes]:
    if not names.isascii() or names.count(b"\n") >= MAX_LOCALS:
        raise RecordCorrupt(f"a record is for channels that no channel can be: {names[:60]!r}")
    return names.split(b"\n")


__all__ = ["MAX_LOCALS", "address", "unpack"]
