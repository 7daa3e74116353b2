"""Records that no layer has written: a receiver gets an error instead, and the next message."""

from __future__ import annotations

import itertools

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.delivery import mailboxes
from asgi_ipc.encoding.envelope import address
from asgi_ipc.encoding.names import channel_name
from asgi_ipc.engines.base import MAX_PAYLOAD, Record
from asgi_ipc.exceptions import StoreCorrupt
from tests.tools.doubles import (
    engine,
)
from tests.tools.hostile_records import BODIES, ENVELOPES, MIB
from tests.tools.layers import demux_of
from tests.tools.messages import encode


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
    demux = demux_of(layer)

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
