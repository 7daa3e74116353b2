"""Messages with more types than every layer carries: the serializer ``"extended"``.

A message is encoded as `asgi_ipc.encoding.codec` does it, and a value of another type as one of
msgpack's extension types. So a layer with the default serializer reads those messages that need
none of them, and this one reads all of the default's.

==== ========== =====================================================================
code type       bytes
==== ========== =====================================================================
1    Decimal    its text
2    datetime   year (2 bytes), month, day, then as time
3    date       year (2 bytes), month, day
4    time       hour, minute, second, microsecond (4 bytes), fold, time zone
5    timedelta  days (4 bytes, signed), seconds (4 bytes), microseconds (4 bytes)
6    UUID       its 16 bytes
7    set        a msgpack array of the items; tuples in it stay tuples
8    frozenset  as set
==== ========== =====================================================================

A time zone is empty for none; ``o`` and the offset in microseconds (8 bytes, signed); ``n``, the
offset and a name of its own; or ``z`` and the key of a ``ZoneInfo``. Numbers are big-endian. The
format is persisted in stores that outlive their processes: do not change it without new codes.

A value arrives equal to the one that was sent, and of the same type; one of a subclass arrives as
the type that it extends, and a lazy string of Django as the str that it was when it was sent.
"""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import msgpack

from ..exceptions import UnreadableMessage
from .carried import (
    INT_MAX,
    MESSAGE_LIMIT,
    PLAIN,
    Bad,
    brief,
    check,
    check_depth,
    type_name,
)
from .codec import (
    EXTENDED,
    LARGEST_BODY,
    UNPACKING,
    check_is_dict,
    check_size,
    unreadable,
)
from .codec import encode as _encode

_DECIMAL, _DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID, _SET, _FROZENSET = range(1, 9)

_date = struct.Struct(">HBB")
_time = struct.Struct(">BBBIB")
_timedelta = struct.Struct(">iII")
_offset = struct.Struct(">q")
_MICROSECOND = timedelta(microseconds=1)
#: Types of which every value is carried.
_ALL = (Decimal, date, timedelta, UUID)
#: Of values that need no further look once they are decoded.
_WHOLE = PLAIN | {Decimal, datetime, date, time, timedelta, UUID}
#: So many items of a set may have one hash: each is compared with all before it.
_ALIKE = 64
#: So many sets may contain one another: msgpack takes 25 KB of the thread's stack for each.
_SETS = 8


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as bytes. Raises as `asgi_ipc.encoding.codec.encode`."""
    return _encode(message, _carries, _pack)


def decode(body: bytes) -> dict[str, Any]:
    """Return the message that `encode`, or the default serializer, made these bytes of.

    Raises `UnreadableMessage` for the bytes of another serializer and for a time zone that this
    process does not know, `RecordCorrupt` for bytes of none. A message that is returned is one
    that `encode` accepts.
    """
    try:
        if len(body) > LARGEST_BODY:
            raise ValueError(f"the largest message has {LARGEST_BODY} bytes")
        message: dict[str, Any] = msgpack.unpackb(body, ext_hook=partial(_value, 1))
        if type(message) is dict and len(body) <= MESSAGE_LIMIT:
            for key, value in message.items():
                if type(key) is not str:
                    break
                kind = type(value)
                if kind not in _WHOLE and (kind is not int or value > INT_MAX):
                    break
            else:
                return message
        check_is_dict(message)
        try:
            check(message, 1, _carries)
        except Bad as bad:
            bad.explain()
        check_size(message, body)
    except UNPACKING as error:
        raise unreadable(body, error, EXTENDED) from error
    return message


# Before encoding


def _carries(value: Any, depth: int, sets: int = 0) -> bool:
    """Return whether a value within so many sets is carried, as `Carries` does."""
    kind = type(value)
    if issubclass(kind, (set, frozenset)):
        _check_set(value, depth, sets + 1)
    elif issubclass(kind, (datetime, time)):
        _zone_bytes(value.tzinfo)
    elif not issubclass(kind, _ALL):
        return _is_lazy_text(value)
    return True


def _check_set(items: Collection[Any], depth: int, sets: int) -> None:
    check_depth(depth)
    if sets > _SETS:
        raise Bad(ValueError, f"is a set within more than {_SETS - 1} sets; send flatter data")
    for item in items:
        if type(item) in PLAIN:
            continue
        try:
            check(item, depth + 1, partial(_carries, sets=sets))
        except Bad as bad:
            bad.path.append(f"{{{brief(item)}}}")
            raise
    if _too_alike(items):
        raise Bad(ValueError, f"has more than {_ALIKE} items of one hash; send it as a list")


def _too_alike(items: Collection[Hashable]) -> bool:
    return len(items) > _ALIKE and max(Counter(map(hash, items)).values()) > _ALIKE


def _is_lazy_text(value: Any) -> bool:
    """Return whether a value is a lazy string of Django, or another that equals its own text."""
    # If Django's module is not loaded, it made no value.
    functional = sys.modules.get("django.utils.functional")
    promise = getattr(functional, "Promise", None)
    if promise is None or not issubclass(type(value), promise):
        return False
    text = str(value)
    if value != text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Bad(ValueError, f"has a lone surrogate, which is no text: {brief(text)}") from None
    return True


# Encoding


def _extension(value: Any) -> Any:
    """Return a value that `_carries` has accepted as what msgpack packs."""
    for kind, code, to_bytes in _KINDS:
        if isinstance(value, kind):
            return msgpack.ExtType(code, to_bytes(value))
    return str(value)


_pack: Callable[[Any], bytes] = partial(msgpack.packb, default=_extension)


def _date_bytes(value: date) -> bytes:
    return _date.pack(value.year, value.month, value.day)


def _time_bytes(value: time | datetime) -> bytes:
    parts = value.hour, value.minute, value.second, value.microsecond, value.fold
    return _time.pack(*parts) + _zone_bytes(value.tzinfo)


def _zone_bytes(zone: tzinfo | None) -> bytes:
    """Return a time zone as bytes. Raises `Bad` for one that can't be carried."""
    if zone is None:
        return b""
    if isinstance(zone, timezone):
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        if name == timezone(offset).tzname(None):
            return b"o" + _offset.pack(offset // _MICROSECOND)
        try:
            return b"n" + _offset.pack(offset // _MICROSECOND) + name.encode()
        except UnicodeEncodeError:
            raise Bad(ValueError, f"has a time zone whose name is no text: {brief(name)}") from None
    # Only if the program has imported it, without which it has no such zone.
    zoneinfo = sys.modules.get("zoneinfo")
    if zoneinfo is not None and isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        return b"z" + str(zone.key).encode()
    raise Bad(
        TypeError,
        f"has a time zone of type {type_name(zone)}, which can't be sent: {brief(zone)}; use"
        " datetime.timezone or a zoneinfo.ZoneInfo that has a key",
    )


def _timedelta_bytes(value: timedelta) -> bytes:
    return _timedelta.pack(value.days, value.seconds, value.microseconds)


#: Types in the order of asking: a datetime is a date too.
_KINDS: tuple[tuple[type, int, Callable[[Any], bytes]], ...] = (
    (Decimal, _DECIMAL, lambda value: Decimal.__str__(value).encode()),
    (datetime, _DATETIME, lambda value: _date_bytes(value) + _time_bytes(value)),
    (date, _DATE, _date_bytes),
    (time, _TIME, _time_bytes),
    (timedelta, _TIMEDELTA, _timedelta_bytes),
    (UUID, _UUID, lambda value: value.bytes),
    (set, _SET, lambda value: _pack(list(value))),
    (frozenset, _FROZENSET, lambda value: _pack(list(value))),
)


# Decoding


def _value(depth: int, code: int, data: bytes) -> Any:
    """Return the value of an extension type; a set of it would be the ``depth``-th around it.

    Raises one of `UNPACKING` for other bytes.
    """
    if code == _DECIMAL:
        return Decimal(data.decode("ascii"))
    if code == _DATETIME:
        return datetime.combine(
            date(*_fields(_date, data)), _value(depth, _TIME, data[_date.size :])
        )
    if code == _DATE:
        return date(*_fields(_date, data, whole=True))
    if code == _TIME:
        hour, minute, second, microsecond, fold = _fields(_time, data)
        zone = _zone(data[_time.size :])
        return time(hour, minute, second, microsecond, zone, fold=fold)
    if code == _TIMEDELTA:
        return timedelta(*_fields(_timedelta, data, whole=True))
    if code == _UUID:
        return UUID(bytes=data)
    if code in (_SET, _FROZENSET):
        return (set if code == _SET else frozenset)(_items(depth, data))
    raise ValueError(f"it has an extension type, {code}, which no message has")


def _fields(form: struct.Struct, data: bytes, whole: bool = False) -> tuple[int, ...]:
    if len(data) < form.size or (whole and len(data) > form.size):
        raise ValueError(f"a value has {len(data)} bytes, and its fields take {form.size}")
    return form.unpack_from(data)


def _items(depth: int, data: bytes) -> tuple[Any, ...]:
    if depth > _SETS:
        raise ValueError(f"it has a set within more than {_SETS - 1} sets")
    items = msgpack.unpackb(data, use_list=False, ext_hook=partial(_value, depth + 1))
    if type(items) is not tuple:
        raise ValueError("it has a set that is no array")
    if _too_alike(items):
        raise ValueError(f"it has a set with more than {_ALIKE} items of one hash")
    return items


def _zone(data: bytes) -> tzinfo | None:
    if not data:
        return None
    kind, rest = data[:1], data[1:]
    if kind in (b"o", b"n"):
        (microseconds,) = _fields(_offset, rest, whole=kind == b"o")
        offset = timedelta(microseconds=microseconds)
        return timezone(offset) if kind == b"o" else timezone(offset, rest[_offset.size :].decode())
    if kind != b"z":
        raise ValueError(f"it has a time zone of an unknown kind, {kind!r}")
    # Few messages have one, and it takes long to import.
    from zoneinfo import ZoneInfo

    key = rest.decode("ascii")
    try:
        return ZoneInfo(key)
    except (LookupError, OSError) as error:
        raise UnreadableMessage(
            EXTENDED, f"this process does not know its time zone {key!r}; install tzdata here"
        ) from error


__all__ = ["decode", "encode"]
