"""Records that no layer has written: what they cost, and that a receiver gets none of it."""

from __future__ import annotations

import itertools
import resource
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.delivery import mailboxes
from asgi_ipc.encoding.codec import DEPTH_LIMIT, MESSAGE_LIMIT, SharedBody, decode, encode
from asgi_ipc.encoding.envelope import MAX_LOCALS, address, unpack
from asgi_ipc.encoding.names import channel_name
from asgi_ipc.engines.base import MAX_PAYLOAD, Record
from asgi_ipc.exceptions import RecordCorrupt, StoreCorrupt
from tests.tools.doubles import (
    engine,
)
from tests.tools.stores import (
    in_child,
)

MIB = 1 << 20


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


#: Bodies by what is wrong with them.
BODIES: dict[str, bytes] = {
    "an extension": msgpack.packb({"a": msgpack.ExtType(5, b"x")}),
    "an empty extension": b"\x81\xa1a\xc7\x00\x05",
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


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_no_sender_encodes_is_refused_in_little_memory(name: str) -> None:
    body = BODIES[name]

    def limited() -> None:
        tracemalloc.start()
        for function in (decode, lambda body: SharedBody(body).decode()):
            with pytest.raises(RecordCorrupt):
                function(body)
        # All that one of the lists promises is at once set aside, and not touched.
        assert tracemalloc.get_traced_memory()[1] < (16 << 30 if "promise" in name else 32 * MIB)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 400 << 10

    in_child(limited)


#: The largest and deepest that are encoded, and with what makes the decoder look closer.
HONEST: list[dict[str, Any]] = [
    {"a": nested(DEPTH_LIMIT - 1, lambda value: [value])},
    {"a": nested(DEPTH_LIMIT - 1, lambda value: {"b": value})},
    {"a": "x" * (MESSAGE_LIMIT - 8)},
    {"a": b"\xc4\xc5\xc6\xcf" * 1000, "b": [b"\xcf", {"c": b"\xc4"}]},
    {"a": (1 << 63) - 1, "b": -(1 << 63), "c": "\u0141\u03a9", "d": 1e300},
    {"a": [0.5] * (MESSAGE_LIMIT // 4 - 10)},
    {"a": [{} for _ in range(100_000)]},
    {"a": [[1, None, True, "x", 0.5, b"y"]] * 100},
]


@pytest.mark.parametrize("message", HONEST, ids=range(len(HONEST)))
def test_whatever_is_encoded_is_decoded(message: dict[str, Any]) -> None:
    assert decode(encode(message)) == message


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


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_that_no_layer_writes_is_refused_in_little_memory(name: str) -> None:
    payload = ENVELOPES[name]
    tracemalloc.start()
    try:
        with pytest.raises(RecordCorrupt):
            unpack(payload)
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB
    finally:
        tracemalloc.stop()


def test_hostile_records_on_both_kinds_of_channels_are_errors_and_the_next_arrives() -> None:
    store = engine(channel_memory=64 * MIB)
    layer = SyncIPCChannelLayer(engine=store)
    own = channel_name(f"specific.{layer.client_prefix}!mine")

    def push(queue: bytes, payload: bytes) -> None:
        record = Record(queue, payload, store.clock() + 10**11, 10**6, b"")
        assert store.push([record]) == []

    for body in BODIES.values():
        push(b"plain", body[:MAX_PAYLOAD])
        layer.send("plain", {"n": 1})
        with pytest.raises(StoreCorrupt, match="destroy"):
            layer.receive(["plain"])
        assert layer.receive(["plain"]) == ("plain", {"n": 1})
    for payload in [*ENVELOPES.values(), *(own.header + body for body in BODIES.values())]:
        push(own.queue, payload[:MAX_PAYLOAD])
        with pytest.raises(StoreCorrupt, match="destroy"):
            layer.receive([own.full[: own.full.index("!") + 1]])
        layer.send(own.full, {"n": 2})
        assert layer.receive([own.full[: own.full.index("!") + 1]]) == (own.full, {"n": 2})
    layer.close()


def test_messages_for_strangers_take_bounded_memory_and_harm_no_known_channel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mailboxes, "_MOST_STRANGERS", 1000)
    now = [10**15]
    store = engine(channel_memory=64 * MIB, clock=lambda: now[0])
    layer = SyncIPCChannelLayer(engine=store)
    mine = f"specific.{layer.client_prefix}!"
    queue = mine.encode()
    numbers = itertools.count()
    demux = layer._core.demux

    def forge(count: int) -> None:
        names = [b"%07d" % next(numbers) for _ in range(count)]
        store.push([Record(queue, address(names) + b"\x80", now[0] + 10**10, 10**6, b"")])

    with demux.lock:
        own = demux.queue(queue)
        known = demux.channel(channel_name(f"{mine}known"))
    for _ in range(50):
        forge(900)
    layer.send(f"{mine}known", {"n": 1})
    with demux.lock:
        demux.fetch(own, None, known)
        assert len(own.locals) <= 1001
        assert [item[0] for item in known.items] == [encode({"n": 1})]
        # The first are kept: a channel may be new, and its receiver on the way.
        assert own.locals[b"0000000"].items
    assert layer.global_statistics()["overflow_count"] >= 50 * 900 - 1001
    # Once they have expired there is room for others.
    now[0] += 2 * 10**10
    forge(2000)
    with demux.lock:
        demux.fetch(own, None, demux.channel(channel_name(f"{mine}known")))
        assert len(own.locals) <= 1001
        assert own.locals[b"%07d" % 45_000].items
    layer.close()  # What was to be logged is, once no lock is held.
    assert "has not received" in caplog.text
