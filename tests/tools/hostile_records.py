"""Bodies and envelopes that no layer writes, by what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from asgi_ipc.encoding.codec import DEPTH_LIMIT, MESSAGE_LIMIT
from asgi_ipc.encoding.envelope import MAX_LOCALS
from asgi_ipc.engines.base import MAX_PAYLOAD

MIB = 1 << 20


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


#: Bodies by what is wrong with them.
BODIES: dict[str, bytes] = {
    "an extension": msgpack.packb({"a": msgpack.ExtType(100, b"x")}),
    "an empty extension": b"\x81\xa1a\xc7\x00\x64",
    "a time": msgpack.packb({"a": msgpack.Timestamp(1, 2)}),
    "bytes as a key": msgpack.packb({b"a": 1}),
    "bytes as a key within": msgpack.packb({"a": [{"b": {b"c": 1}}]}),
    "bytes as a key, written long": b"\x81\xc6\x00\x00\x00\x01a\x01",
    "an int as a key": b"\x81\x01\x01",
    "an int beyond signed": msgpack.packb({"a": 1 << 63}),
    "an int beyond signed within": msgpack.packb({"a": [[1.0, (1 << 64) - 1]]}),
    "lists too deep": msgpack.packb({"a": nested(DEPTH_LIMIT, lambda value: [value])}),
    "dicts too deep": msgpack.packb({"a": nested(DEPTH_LIMIT, lambda value: {"a": value})}),
    "deep beside flat": msgpack.packb({"a": 1, "b": nested(DEPTH_LIMIT, lambda v: [0, v, "x"])}),
    "deeper than msgpack goes": b"\x81\xa1a" + b"\x91" * 5000 + b"\x01",
    "text too large": msgpack.packb({"a": "x" * MESSAGE_LIMIT}),
    "floats too many": msgpack.packb({"a": [0.5] * (MESSAGE_LIMIT // 4 + 100)}),
    "as large as a record": b"\xde\x00\x01\xa1a" + b"\xdd" + (8 * MIB - 99).to_bytes(4, "big")
    + b"\x80" * (8 * MIB - 99),
    "lists that promise much": b"\x81\xa1a" + (b"\xdd" + (MIB - 20).to_bytes(4, "big")) * 900
    + b"\x00" * (MIB - 5000),
    "a dict that promises much": b"\xdf\xff\xff\xff\xff" + b"\xa1a\x01" * 1000,
    "text that is none": b"\x81\xa1a\xa2\xff\xfe",
    "text with a surrogate": b"\x81\xa1a\xa3\xed\xa0\x80",
    "more behind it": b"\x80\x80",
    "a list": b"\x90",
    "nothing": b"",
}  # fmt: skip


def envelope(names: bytes, length: int | None = None) -> bytes:
    return (len(names) if length is None else length).to_bytes(4, "little") + names + b"\x80"


ENVELOPES: dict[str, bytes] = {
    "names beyond the record": envelope(b"a", 1 << 31),
    "names up to its end": envelope(b"a", 2),
    "no message": envelope(b"a")[:-1],
    "too many names": envelope(b"\n" * MAX_LOCALS),
    "nothing but names": envelope(b"\n" * (MAX_PAYLOAD - 5)),
    "one long name": envelope(b"a" * 100),
    "one long name among others": envelope(b"b\n" * 1000 + b"a" * 100),
    "one name as large as a record": envelope(b"a" * (MAX_PAYLOAD - 5)),
    "a name with a sign": envelope(b"a\nb!c"),
    "a name that a terminal obeys": envelope(b"a\n\x1b[2J\r"),
    "a name beyond ASCII": envelope("ä\nb".encode()),
    "a name with a zero": envelope(b"a\0\nb"),
}
