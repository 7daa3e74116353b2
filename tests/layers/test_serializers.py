"""Layers with the option ``serializer``: what they carry, and messages of another serializer."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import time
import uuid
from decimal import Decimal
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from asgi_ipc.layers import sync
from tests.tools.doubles import (
    KINDS,
    PATIENCE,
    BlockingEngine,
    CountingEngine,
    engine,
    fresh,
    in_thread,
    run,
)

RICH: dict[str, Any] = {
    "price": Decimal("1.10"),
    "at": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc),
    "items": [{"id": uuid.UUID(int=7), "tags": {"a", ("b", 1)}}],
}


class Json:
    name = "json"

    def serialize(self, message: dict[str, Any]) -> bytes:
        return json.dumps(message).encode()

    def deserialize(self, data: bytes) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(data)
        return found


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS[:2])
def test_more_types_arrive_on_all_ways(kind: Any) -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(kind), serializer="extended")
        assert layer.serializer == layer.sync.serializer == "extended"
        own, twin = await layer.new_channel(), await layer.new_channel()
        for channel in (own, twin, "c"):
            await layer.group_add("g", channel)
            await layer.send(channel, RICH)
            assert await layer.receive(channel) == RICH
        await layer.group_send("g", RICH)
        first = await layer.receive(own)
        first["items"][0]["tags"].clear()
        assert await layer.receive(twin) == await layer.receive("c") == RICH
        with pytest.raises(TypeError, match=r"message\['a'\]\[0\] is of type complex"):
            await layer.send("c", {"a": [1j]})
        await layer.send("c", RICH)
        synchronous = layer.sync
        await asyncio.to_thread(lambda: _check(synchronous.receive(["c"], block=True), ("c", RICH)))
        await layer.close()

    run(main())


def _check(got: object, expected: object) -> None:
    assert got == expected


@pytest.mark.parametrize("kind", [CountingEngine, BlockingEngine])
def test_a_receiver_passes_over_what_another_serializer_wrote(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = engine(kind)
        default = IPCChannelLayer(engine=store)
        others = [IPCChannelLayer(engine=store, serializer=each) for each in ("extended", Json)]
        own, twin = await default.new_channel(), await default.new_channel()
        await default.group_add("g", own)
        await default.group_add("g", twin)
        for channel in (own, "c"):
            waiting = asyncio.ensure_future(default.receive(channel))
            await asyncio.sleep(0)
            await others[0].send(channel, {"n": Decimal(1)})
            await others[1].send(channel, {"n": 2})
            await default.send(channel, {"n": 3})
            assert await asyncio.wait_for(waiting, PATIENCE) == {"n": 3}
        await others[1].group_send("g", {"n": 4})
        await default.group_send("g", {"n": 5})
        assert await default.receive(own) == await default.receive(twin) == {"n": 5}
        assert (await default.global_statistics())["unreadable_count"] == 6
        # What needs no other types is alike.
        await others[0].send("c", {"n": [6]})
        assert await default.receive("c") == {"n": [6]}
        await default.send("c", {"n": 7})
        assert await others[0].receive("c") == {"n": 7}
        for layer in (default, *others):
            await layer.close()

    with caplog.at_level(logging.WARNING, "asgi_ipc"):
        run(main())
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert (
        "that was written with serializer 'extended': this layer has serializer 'msgpack'" in said
    )
    assert "that was written with serializer 'json': this layer has serializer 'msgpack'" in said
    assert "give all layers of prefix 'asgi' the same one; 1 dropped" in said
    assert "3 dropped since the last warning" in said


def test_thousands_of_them_neither_end_a_receiver_nor_hold_up_its_loop() -> None:
    async def main() -> None:
        store = engine()
        default = IPCChannelLayer(engine=store, capacity=5000)
        other = IPCChannelLayer(engine=store, capacity=5000, serializer=Json())
        for _ in range(3000):
            await other.send("c", {})
        await default.send("c", {"n": 1})
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        assert await default.receive("c") == {"n": 1}
        assert turns > 20
        counting.cancel()
        await default.close()

    run(main())


def test_a_synchronous_receiver_passes_over_them_within_its_time() -> None:
    store = engine()
    default = SyncIPCChannelLayer(engine=store)
    other = SyncIPCChannelLayer(engine=store, serializer=Json())
    for channel in ("c", "x!local"):
        readable = channel.partition("local")[0]
        other.send(channel, {})
        assert default.receive([readable]) == (None, None)
        other.send(channel, {})
        assert default.receive([readable], block=True, timeout=0.05) == (None, None)
        other.send(channel, {})
        default.send(channel, {"n": 1})
        assert default.receive([readable], block=True) == (channel, {"n": 1})
    assert default.global_statistics()["unreadable_count"] == 6
    default.close()
    other.close()


def test_each_of_them_takes_of_the_time_of_a_synchronous_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left: list[Any] = []

    def receive_waiting(demux: Any, names: Any, timeout: float | None) -> Any:
        left.append(timeout)
        time.sleep(0.002)
        return waiting(demux, names, timeout)

    waiting: Any = vars(sync)["receive_waiting"]
    monkeypatch.setattr(sync, "receive_waiting", receive_waiting)
    store = engine()
    default = SyncIPCChannelLayer(engine=store)
    other = SyncIPCChannelLayer(engine=store, serializer=Json())
    for _ in range(3):
        other.send("c", {})
    default.send("c", {"n": 1})
    assert default.receive(["c"], block=True, timeout=PATIENCE) == ("c", {"n": 1})
    assert len(left) == 4
    assert left == sorted(left, reverse=True)
    assert left[-1] <= PATIENCE - 3 * 0.002
    default.close()
    other.close()


def test_what_its_own_serializer_cannot_read_is_passed_over_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Newer(Json):
        def serialize(self, message: dict[str, Any]) -> bytes:
            return b"\x02" + super().serialize(message)

    store = engine()
    old = SyncIPCChannelLayer(engine=store, serializer=Json())
    new = SyncIPCChannelLayer(engine=store, serializer=Newer())
    new.send("c", {})
    old.send("c", {"n": 1})
    assert old.receive(["c"]) == ("c", {"n": 1})
    said = caplog.records[0].getMessage()
    assert "written with serializer 'json': it can't be read here: deserialize raised" in said
    old.close()


def test_processes_of_one_serializer_understand_each_other_and_it_is_shown() -> None:
    serializer = Json()
    prefix = fresh()
    one = SyncIPCChannelLayer(prefix, engine="memory", serializer=serializer)
    two = SyncIPCChannelLayer(prefix, engine="memory", serializer=Json)
    assert (one.serializer, two.serializer) == (serializer, Json)
    sender = in_thread(two.send, "c", {"n": 1})
    sender.join(PATIENCE)
    assert one.receive(["c"]) == ("c", {"n": 1})
    one.close()
    two.close()
