"""Messages as bytes: checked, encoded and decoded with msgpack (S1-S3, O1).

msgpack keeps bytes and str apart, is compact, and runs no code when it is read.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

import msgpack

from ..exceptions import MessageTooLarge, RecordCorrupt, UnreadableMessage
from .carried import (
    DEPTH_LIMIT,
    INT_MAX,
    INT_MIN,
    MESSAGE_LIMIT,
    PLAIN,
    Bad,
    Carries,
    brief,
    check,
    count_floats,
    find_surrogate,
    type_name,
)

#: Types of values that a copy of a message may share with it.
_UNCHANGING = PLAIN | {int}
#: A float takes 9 bytes encoded, and in JSON, with its comma, may take 4: ``0.5,``.
_FLOAT_EXTRA = 9 - 4
#: No message takes more bytes: one of nothing but floats, at the limit when they count as 4.
LARGEST_BODY = MESSAGE_LIMIT * 9 // 4

#: The serializer that carries more types, and the codes of msgpack's extension types for them
#: (`asgi_ipc.encoding.extended`). Persisted: do not change.
EXTENDED = "extended"
EXTENSIONS = frozenset(range(1, 9))
#: The first byte of a message of a serializer of the user's, which msgpack never uses; the length
#: of the serializer's name, the name, and what it made follow. Persisted: do not change.
TAG = b"\xc1"

#: The errors that msgpack raises for bytes that it can't unpack.
UNPACKING = (
    msgpack.exceptions.UnpackException,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
)

_pack = msgpack.packb
_unpack = msgpack.unpackb
#: Returns what an object refers to: for a container its items, for any other value nothing.
_parts = gc.get_referents


def _packer_for_all() -> Callable[[Any], bytes]:
    """Return the packer of messages without containers: with C and the GIL, one for all threads.

    Making a packer costs more than packing with it. Packing such a message runs no Python code, so
    no other thread can use the packer meanwhile.
    """
    in_c = msgpack.Packer.__module__ != "msgpack.fallback"
    if in_c and getattr(sys, "_is_gil_enabled", lambda: True)():
        return cast("Callable[[Any], bytes]", msgpack.Packer().pack)
    return cast("Callable[[Any], bytes]", _pack)


_pack_flat = _packer_for_all()
#: A packer keeps the largest buffer that it ever needed, so it is replaced after a message of more
#: bytes than this.
_SMALL = 64 * 1024


def encode(
    message: Mapping[str, Any],
    carries: Carries | None = None,
    pack: Callable[[Any], bytes] = _pack,
) -> bytes:
    """Return a message as bytes.

    A value of a subclass of a carried type is encoded as that type, a tuple as a list (S1). What
    ``carries`` accepts besides, ``pack`` must know.

    Raises `TypeError` for a type that can't be carried, `ValueError` for an int beyond
    signed 64 bits, a str that is not valid Unicode, or too deep a nesting, both naming
    the path to the value (O1); `MessageTooLarge` over `MESSAGE_LIMIT` bytes (S2). To keep
    the promise that 1 MB of JSON always fits, a message over the limit is measured again
    with every float counted as short as JSON can write it.
    """
    if type(message) is dict:
        for key, value in message.items():
            if type(key) is not str:
                break
            kind = type(value)
            if kind in PLAIN:
                continue
            if kind is not int or not INT_MIN <= value <= INT_MAX:
                break
        else:
            return _finish(message, _pack_flat)
    check_is_dict(message)
    try:
        check(message, 1, carries)
    except Bad as bad:
        bad.explain()
    return _finish(message, pack)


def check_is_dict(message: object) -> None:
    """Raise `TypeError` for what is no message."""
    if not issubclass(type(message), dict):
        raise TypeError(f"a message must be a dict, not {type_name(message)}: {brief(message)}")


def decode(body: bytes) -> dict[str, Any]:
    """Return the message that `encode` made these bytes of.

    Raises `UnreadableMessage` for the bytes of another serializer, `RecordCorrupt` for those of
    none.

    Whatever the bytes are, a message that is returned is one that `encode` accepts: in its
    types, its keys, the range of its ints, its depth and its size.
    """
    try:
        if (size := len(body)) > LARGEST_BODY:
            raise ValueError(f"the largest message has {LARGEST_BODY} bytes")
        message: dict[str, Any] = _unpack(body, max_ext_len=0, ext_hook=_refuse_extension)
        if type(message) is dict:
            # Most messages are too short to be deep, and have none of the bytes that begin bytes,
            # which msgpack takes as keys, and an int of 64 bits without a sign.
            if size <= 256 and not (0xC4 in body or 0xCF in body or 0xC5 in body or 0xC6 in body):
                return message
            for key, value in message.items():
                if type(key) is not str or type(value) not in _UNCHANGING:
                    break
            else:
                if 0xCF not in body and size <= MESSAGE_LIMIT:
                    return message
        _check_decoded(message, body)
    except UNPACKING as error:
        # These bytes are not ours. Not any exception: a signal handler's may come here, or there
        # is little stack left.
        raise unreadable(body, error) from error
    return message


def unreadable(body: bytes, error: Exception, mine: str = "msgpack") -> Exception:
    """Return the error of bytes that the serializer called ``mine`` can't read."""
    by = _written_by(body)
    if by is not None and by != mine:
        return UnreadableMessage(by)
    # Such errors may have no text.
    what = str(error) or type(error).__name__
    return RecordCorrupt(f"a message of {len(body)} bytes can't be decoded: {what}")


def _written_by(body: bytes) -> str | None:
    """Return which other serializer encoded bytes that are no message of this one, if any did."""
    if body[:1] == TAG:
        name = body[2 : 2 + body[1]] if len(body) > 2 else b""
        return name.decode("ascii") if name.isascii() and name else None
    codes: set[int] = set()
    try:
        # Only the codes of its extensions matter, so each of them becomes None.
        message = _unpack(body[: LARGEST_BODY + 1], ext_hook=lambda code, _: codes.add(code))
    except UNPACKING:
        return None
    return EXTENDED if type(message) is dict and codes and codes <= EXTENSIONS else None


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"it has an extension type, {code}, which no message has")


def _check_decoded(message: dict[str, Any], body: bytes) -> None:
    """Raise ValueError for a message that `encode` refuses."""
    if type(message) is not dict:
        raise ValueError(f"it is not a dict but {type_name(message)}")
    if 0xC4 in body or 0xCF in body or 0xC5 in body or 0xC6 in body:
        _check_keys_and_ints(message)
    if below := _parts(*message.values()):
        _check_depth(below)
    check_size(message, body)


def check_size(message: dict[str, Any], body: bytes) -> None:
    """Raise ValueError for a message that is larger than `encode` makes them."""
    size = len(body)
    if size > MESSAGE_LIMIT and size - _FLOAT_EXTRA * count_floats(message) > MESSAGE_LIMIT:
        raise ValueError(f"the limit is {MESSAGE_LIMIT} bytes")


def _check_keys_and_ints(message: dict[str, Any]) -> None:
    level: list[Any] = [message]
    while level:
        below = []
        for each in level:
            items = each
            if type(each) is dict:
                for key in each:
                    if type(key) is not str:
                        raise ValueError(f"it has the key {brief(key)}, which is not a str")
                items = each.values()
            if PLAIN.issuperset(map(type, items)):
                continue
            for item in items:
                kind = type(item)
                if kind is int:
                    if item > INT_MAX:
                        raise ValueError(f"it has an int beyond signed 64 bits: {item}")
                elif kind not in PLAIN:
                    below.append(item)
        level = below


def _check_depth(level: list[Any]) -> None:
    """Raise ValueError if values are too deep, given all that is two levels below a message."""
    # All of a level in one call: faster than Python code that asks each value.
    for _ in range(DEPTH_LIMIT - 1):
        level = _parts(*level)
        if not level:
            return
    raise ValueError(f"it is nested more than {DEPTH_LIMIT} deep")


#: A message is kept decoded with so many entries, and one more in each 64 bytes.
_FEW = 16
_ENTRY = 6


class SharedBody:
    """An encoded message for several receivers of this process.

    Decoding costs more than copying, so a message of immutable values is decoded once, and each
    receiver gets a copy.
    """

    __slots__ = ("_body", "_message", "size")

    def __init__(self, body: bytes) -> None:
        self._body = body
        #: Bytes of the encoded message.
        self.size = len(body)
        #: Decoded, if a copy of it will do.
        self._message: dict[str, Any] | None = None

    def decode(self) -> dict[str, Any]:
        """Return the decoded message, which the receiver may change."""
        body = self._body  # First: another thread may decode it at the same time.
        if self._message is not None:
            return self._message.copy()
        return self._keep(decode(body))

    def decode_by(self, decode: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
        """As `decode`, by a function that returns the same for what it accepts."""
        body = self._body
        if self._message is not None:
            return self._message.copy()
        return self._keep(decode(body))

    def _keep(self, message: dict[str, Any]) -> dict[str, Any]:
        """Keep a copy of a message for the next receiver, if a copy of it will do."""
        # An entry of a few bytes takes some two hundred once it is decoded. With few of them a
        # message that waits for its last receiver is not much larger for that.
        if len(message) <= _FEW + (self.size >> _ENTRY) and all(
            type(value) in _UNCHANGING for value in message.values()
        ):
            self._message, self._body = message.copy(), b""
        return message

    def encoded(self) -> bytes | None:
        """Return the encoded message; None once it is kept decoded, as a plain message."""
        return self._body or None


#: An encoded message as it lies in a buffer.
Body = bytes | SharedBody


def _finish(message: Mapping[str, Any], pack: Callable[[Any], bytes]) -> bytes:
    global _pack_flat
    try:
        body = pack(message)
    except UnicodeEncodeError:
        find_surrogate(message)
        raise
    size = len(body)
    if size <= _SMALL:
        return body
    if pack is _pack_flat:
        _pack_flat = _packer_for_all()
    if size > MESSAGE_LIMIT and size - _FLOAT_EXTRA * count_floats(message) > MESSAGE_LIMIT:
        raise too_large(size)
    return body


def too_large(size: int) -> MessageTooLarge:
    """Return the error of a message that takes so many bytes."""
    return MessageTooLarge(
        f"the message takes {size} bytes encoded, {size - MESSAGE_LIMIT} over the limit of"
        f" {MESSAGE_LIMIT}; send a reference to the data instead, or send it in parts"
    )


__all__ = [
    "DEPTH_LIMIT",
    "EXTENDED",
    "EXTENSIONS",
    "LARGEST_BODY",
    "MESSAGE_LIMIT",
    "TAG",
    "UNPACKING",
    "Body",
    "SharedBody",
    "check_is_dict",
    "check_size",
    "decode",
    "encode",
    "too_large",
    "unreadable",
]
