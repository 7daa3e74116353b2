"""Messages as bytes: checked, encoded and decoded with msgpack (S1-S3, O1).

msgpack keeps bytes and str apart, is compact, and runs no code when it is read.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

import msgpack

from ..exceptions import MessageTooLarge, RecordCorrupt

#: Largest encoded message, in bytes. See `encode` for the one exception.
MESSAGE_LIMIT = 1024 * 1024
#: How deep a message may be nested, the message itself included.
DEPTH_LIMIT = 256

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
#: Types that need no look at the value.
_PLAIN = frozenset((str, bytes, float, bool, type(None)))
#: Types of values that a copy of a message may share with it.
_UNCHANGING = _PLAIN | {int}
#: A float takes 9 bytes encoded, and in JSON, with its comma, may take 4: ``0.5,``.
_FLOAT_EXTRA = 9 - 4
#: No message takes more bytes: one of nothing but floats, at the limit when they count as 4.
_LARGEST_BODY = MESSAGE_LIMIT * 9 // 4

_TYPES = "a message carries bytes, str, int, float, bool, None, list, tuple and dict"

#: What msgpack raises for bytes that it can't unpack.
_UNPACKING = (
    msgpack.exceptions.UnpackException,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
)

_pack = msgpack.packb
_unpack = msgpack.unpackb
#: What objects consist of: of containers what they hold, of all else nothing.
_parts = gc.get_referents


def _packer_for_all() -> Callable[[Any], bytes]:
    """What packs messages that hold no containers; with C and the GIL, one packer for all threads.

    To make one costs more than to pack with it, and such a message runs no Python code while
    it is packed, so nobody can come in between.
    """
    in_c = msgpack.Packer.__module__ != "msgpack.fallback"
    if in_c and getattr(sys, "_is_gil_enabled", lambda: True)():
        return cast("Callable[[Any], bytes]", msgpack.Packer().pack)
    return cast("Callable[[Any], bytes]", _pack)


_pack_flat = _packer_for_all()
#: A packer keeps the largest buffer that it ever needed. After a message of more bytes than this
#: another takes its place.
_SMALL = 64 * 1024


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as bytes.

    Subclasses of what is carried travel as what they extend; tuples as lists (S1).

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
            if kind in _PLAIN:
                continue
            if kind is not int or not _INT_MIN <= value <= _INT_MAX:
                break
        else:
            return _finish(message, _pack_flat)
    if not isinstance(message, dict):
        raise TypeError(f"a message must be a dict, not {_type_name(message)}: {_brief(message)}")
    try:
        _check(message, 1)
    except _Bad as bad:
        bad.explain()
    return _finish(message, _pack)


def decode(body: bytes) -> dict[str, Any]:
    """Return the message that `encode` made these bytes of. Raises `RecordCorrupt` for others.

    Whatever the bytes are, a message that is returned is one that `encode` accepts: in its
    types, its keys, the range of its ints, its depth and its size.
    """
    try:
        if (size := len(body)) > _LARGEST_BODY:
            raise ValueError(f"the largest message takes {_LARGEST_BODY}")
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
    except _UNPACKING as error:
        # These bytes are not ours. Not any exception: a signal handler's may come here, or there
        # is little stack left.
        what = str(error) or type(error).__name__
        raise RecordCorrupt(f"a message of {len(body)} bytes can't be decoded: {what}") from error
    return message


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"it has an extension type, {code}, which no message has")


def _check_decoded(message: dict[str, Any], body: bytes) -> None:
    """Raise ValueError for a message that `encode` refuses."""
    if type(message) is not dict:
        raise ValueError(f"it is no dict but {_type_name(message)}")
    if 0xC4 in body or 0xCF in body or 0xC5 in body or 0xC6 in body:
        _check_keys_and_ints(message)
    if below := _parts(*message.values()):
        _check_depth(below)
    size = len(body)
    if size > MESSAGE_LIMIT and size - _FLOAT_EXTRA * _count_floats(message) > MESSAGE_LIMIT:
        raise ValueError(f"the limit is {MESSAGE_LIMIT}")


def _check_keys_and_ints(message: dict[str, Any]) -> None:
    level: list[Any] = [message]
    while level:
        below = []
        for each in level:
            items = each
            if type(each) is dict:
                for key in each:
                    if type(key) is not str:
                        raise ValueError(f"it has the key {_brief(key)}, which is no str")
                items = each.values()
            if _PLAIN.issuperset(map(type, items)):
                continue
            for item in items:
                kind = type(item)
                if kind is int:
                    if item > _INT_MAX:
                        raise ValueError(f"it has an int beyond signed 64 bits: {item}")
                elif kind not in _PLAIN:
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


class SharedBody:
    """An encoded message that several receivers of this process get.

    Decoding costs more than copying, so a message in which nothing can be changed is decoded
    once, and each gets a copy.
    """

    __slots__ = ("_body", "_message")

    def __init__(self, body: bytes) -> None:
        self._body = body
        #: Decoded, if a copy of it will do.
        self._message: dict[str, Any] | None = None

    def decode(self) -> dict[str, Any]:
        """As `decode`."""
        body = self._body  # First: another thread may be at this, too.
        if self._message is not None:
            return self._message.copy()
        message = decode(body)
        if all(type(value) in _UNCHANGING for value in message.values()):
            self._message, self._body = message.copy(), b""
        return message


#: A message as receivers find it.
Body = bytes | SharedBody


def _finish(message: Mapping[str, Any], pack: Callable[[Any], bytes]) -> bytes:
    global _pack_flat
    try:
        body = pack(message)
    except UnicodeEncodeError:
        _find_surrogate(message)
        raise
    size = len(body)
    if size <= _SMALL:
        return body
    if pack is _pack_flat:
        _pack_flat = _packer_for_all()
    if size > MESSAGE_LIMIT and size - _FLOAT_EXTRA * _count_floats(message) > MESSAGE_LIMIT:
        raise MessageTooLarge(
            f"the message takes {size} bytes encoded, {size - MESSAGE_LIMIT} over the limit of"
            f" {MESSAGE_LIMIT}; send a reference to the data instead, or send it in parts"
        )
    return body


class _Bad(Exception):
    """A value that can't be carried, and on the way up the path to it."""

    def __init__(self, error: type[Exception], reason: str) -> None:
        self.error, self.reason = error, reason
        self.path: list[str] = []

    def explain(self) -> NoReturn:
        """Raise it as what the caller is to see."""
        steps = self.path[::-1]
        if len(steps) > 12:
            steps = [*steps[:6], "...", *steps[-3:]]
        raise self.error(f"message{''.join(steps)} {self.reason}") from None


def _check(value: Any, depth: int) -> None:
    kind = type(value)
    if kind in _PLAIN:
        return
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise _Bad(ValueError, f"is an int beyond signed 64 bits: {_brief(value)}")
    elif isinstance(value, dict):
        if depth > DEPTH_LIMIT:
            raise _Bad(ValueError, f"is nested more than {DEPTH_LIMIT} deep, or contains itself")
        for key, item in value.items():
            if not isinstance(key, str):
                raise _Bad(
                    TypeError,
                    f"has the key {_brief(key)} of type {_type_name(key)}; keys must be str",
                )
            if type(item) in _PLAIN:
                continue
            try:
                _check(item, depth + 1)
            except _Bad as bad:
                bad.path.append(f"[{_brief(key)}]")
                raise
    elif isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        if depth > DEPTH_LIMIT:
            raise _Bad(ValueError, f"is nested more than {DEPTH_LIMIT} deep, or contains itself")
        for index, item in enumerate(value):
            if type(item) in _PLAIN:
                continue
            try:
                _check(item, depth + 1)
            except _Bad as bad:
                bad.path.append(f"[{index}]")
                raise
    elif not isinstance(value, (str, bytes, float)):
        raise _Bad(
            TypeError,
            f"is of type {_type_name(value)}, which can't be sent: {_brief(value)}; {_TYPES}",
        )


def _find_surrogate(message: Mapping[str, Any]) -> None:
    """Raise `ValueError` with the path to the str that has no UTF-8 form."""

    def search(value: Any) -> None:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _Bad(
                    ValueError, f"has a lone surrogate, which is no text: {_brief(value)}"
                ) from None
            return
        steps: Any = ()
        if isinstance(value, dict):
            for key in value:
                search(key)
            steps = value.items()
        elif isinstance(value, (list, tuple)):
            steps = enumerate(value)
        for step, item in steps:
            try:
                search(item)
            except _Bad as bad:
                bad.path.append(f"[{_brief(step)}]")
                raise

    try:
        search(message)
    except _Bad as bad:
        bad.explain()


def _count_floats(value: Any) -> int:
    if isinstance(value, float):
        return 1
    if isinstance(value, dict):
        return sum(_count_floats(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_count_floats(item) for item in value)
    return 0


def _type_name(value: object) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _brief(value: object) -> str:
    """A value for an error message: short, and never an error itself."""
    try:
        shown = repr(value)
    except Exception:
        return f"<{_type_name(value)}>"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


__all__ = ["DEPTH_LIMIT", "MESSAGE_LIMIT", "Body", "SharedBody", "decode", "encode"]
