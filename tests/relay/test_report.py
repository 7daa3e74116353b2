"""What a relay says of itself in the store: R7."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.exceptions import ChannelFull, StoreFull
from asgi_ipc.layers.relays import relay_of
from asgi_ipc.relay import relay, report
from asgi_ipc.relay.frames import shard_of, shard_topic
from asgi_ipc.relay.report import LARGEST, STALE, read, write
from asgi_ipc.relay.way_out import RELAY, REPORT
from tests.tools.layers import demux_of
from tests.tools.machines import Machine, Site, eventually, run


@pytest.fixture
def engine() -> Iterator[MemoryEngine]:
    now = [1]
    made = MemoryEngine(
        "report", channel_memory=1 << 20, group_memory=1 << 20, clock=lambda: now[0]
    )
    made.now = now  # type: ignore[attr-defined]
    yield made
    made.close()


def test_the_last_report_is_read_whatever_its_length(engine: MemoryEngine) -> None:
    assert read(engine) is None
    for size in (0, 10, 5000, 100):
        write(engine, {"state": "connected", "text": "x" * size})
        found = read(engine)
        assert found is not None
        assert (found.content["text"], found.state) == ("x" * size, "none")
    assert engine.hold(RELAY)
    found = read(engine)
    assert found is not None
    assert (found.state, found.age) == ("connected", 0)
    engine.now[0] += STALE + 1  # type: ignore[attr-defined]
    found = read(engine)
    assert found is not None
    assert found.state == "stopped"
    write(engine, {"state": "ended"})
    found = read(engine)
    assert found is not None
    assert found.state == "connecting", "the next relay has the role, and has not written yet"


def test_a_report_that_was_not_finished_or_is_none_is_passed_over(engine: MemoryEngine) -> None:
    write(engine, {"n": 1, "text": "x" * 1000})
    whole = engine.members(REPORT).names
    write(engine, {"n": 2, "text": "x" * 1000})
    last = engine.members(REPORT).names
    deadline = 1 << 60
    for member in whole:
        engine.put(REPORT, member, deadline)
    engine.remove(REPORT, last[1])
    found = read(engine)
    assert found is not None
    assert found.content["n"] == 1, "its writer was killed"
    for member in engine.members(REPORT).names:
        engine.remove(REPORT, member)
    for wrong in (b"x", b"\xff" * 40, b"\0\0\0\1\0\1\xc1", b"\0\0\0\1\0\1\x80"):
        engine.put(REPORT, wrong, deadline)
        assert read(engine) is None
    write(engine, {"n": 3})
    found = read(engine)
    assert found is not None
    assert found.content["n"] == 3


def test_a_report_of_many_machines_leaves_out_what_matters_least(engine: MemoryEngine) -> None:
    sequences = {b"g%02d" % n: n for n in range(50)}
    peers = [{"heard_at": n, "host": "h" * 50, "sequences": sequences} for n in range(400)]
    for count, kept in ((10, 10), (200, 200), (400, 50)):
        write(engine, {"peers": peers[:count]})
        found = read(engine)
        assert found is not None
        assert len(found.content["peers"]) == kept
        assert sum(map(len, engine.members(REPORT).names)) <= LARGEST + 6 * 256
    assert found is not None
    assert found.content["peers"][0]["heard_at"] == 399


def test_a_report_leaves_out_first_where_nothing_was_published(engine: MemoryEngine) -> None:
    sequences = {b"%03d" % number: number % 4 for number in range(900)}
    peers = [{"heard_at": n, "sequences": sequences, "before": {}} for n in range(5)]
    write(engine, {"peers": peers})
    found = read(engine)
    assert found is not None
    told = [each["sequences"] for each in found.content["peers"]]
    assert told == [{topic: n for topic, n in sequences.items() if n}] * 5


def test_what_a_relay_leaves_in_the_store_is_no_message_and_no_membership(site: Site) -> None:
    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.member("room")
        await one.layer.send(channel, {})
        await two.layer.receive(channel)
        await eventually(lambda: two.report()["shards"])
        counts = await two.layer.global_statistics()
        assert (counts["messages_pending"], counts["memberships_count"]) == (0, 1)
        assert counts["messages_max_age"] == 0

    run(main)


def test_what_no_relay_needs_is_not_left_in_the_store_to_be_counted_as_dropped(site: Site) -> None:
    async def main() -> None:
        machine = site.machine()
        channel = await machine.layer.new_channel()
        for number in range(1200):
            await machine.layer.group_add(f"group{number}", channel)
        machine.begin()
        await eventually(lambda: machine.hears("group0"))
        machine.end()
        counts = machine.engine.statistics()
        names = ("pending", "refused", "expired")
        assert {name: counts[name] for name in names} == dict.fromkeys(names, 0)

    run(main)


def test_a_silent_machine_has_left_if_its_host_was_heard_with_a_new_store_since(
    engine: MemoryEngine,
) -> None:
    engine.now[0] = now = 1_000_000_000_000  # type: ignore[attr-defined]
    before, after = now - 60_000_000_000, now - 50_000_000_000
    silent = {"since": 1, "heard_at": before}
    peers = [
        {"host": "crashed", "node": b"old", **silent},
        {"host": "crashed", "node": b"new", "since": after, "heard_at": now},
        {"host": "alone", "node": b"old", **silent},
        {"host": "shared", "node": b"old", **silent},
        {"host": "shared", "node": b"other", "since": 1, "heard_at": now},
        {"host": "", "node": b"old", **silent},
        {"host": "", "node": b"new", "since": after, "heard_at": now},
    ]
    write(engine, {"peers": peers})
    info = relay_of(engine)
    assert info is not None
    found = [each.state for each in info.machines]
    assert found == ["left", "heard", "silent", "silent", "heard", "silent", "heard"]


def test_a_report_of_long_texts_and_many_counts_is_shortened(engine: MemoryEngine) -> None:
    """R10: a piece's number has one byte."""
    counts = {f"dropped_{number}" * 5: number for number in range(5000)}
    published = {b"g%02d" % number: number for number in range(3000)}
    write(engine, {"error": "A\x1b" * 200_000, "counts": counts, "published": published})
    found = read(engine)
    assert found is not None
    assert found.content["error"].startswith("A?A?")
    assert len(found.content["error"]) <= 200
    with pytest.raises(ValueError, match="of at most"):
        write(engine, {"node": bytes(LARGEST)})
    assert read(engine) is not None, "the former one"


@pytest.mark.parametrize("engine_name", ["mmap", "memory"])
def test_a_report_is_written_although_visitors_have_filled_the_memory_for_groups(
    tmp_path: Path, engine_name: str
) -> None:
    if engine_name == "mmap":
        layer = SyncIPCChannelLayer(
            "full", engine="mmap", group_memory=1 << 18, engine_options={"directory": str(tmp_path)}
        )
    else:
        layer = SyncIPCChannelLayer("full", engine="memory", group_memory=1 << 18)
    engine = demux_of(layer).engine
    write(engine, {"n": 0, "text": "x" * 1000})
    channel = layer.new_channel()
    refused = added = 0
    while refused < 50:
        try:
            layer.group_add(f"room{added + refused}", channel)
            added += 1
        except StoreFull:
            refused += 1
    assert engine.hold(RELAY)
    elsewhere = False
    for n in range(1, 5):
        write(engine, {"n": n, "text": "x" * 1000, "state": "connected"})
        found = read(engine)
        assert found is not None
        assert (found.content["n"], found.state) == (n, "connected")
        elsewhere |= engine.statistics(REPORT)["pending"] == 1
    assert elsewhere, "the memory for groups was full"
    for n in range(added):
        layer.group_discard(f"room{n}", channel)
    write(engine, {"n": 5, "text": "x"})
    found = read(engine)
    assert found is not None
    assert found.content["n"] == 5
    assert engine.statistics(REPORT)["pending"] == 0
    layer.destroy()


def test_a_report_replaces_the_former_one_where_both_memories_are_full(tmp_path: Path) -> None:
    """Otherwise a relay that fares well would seem to be stopped, and people would kill it."""
    small: dict[str, Any] = {"group_memory": 1 << 18, "channel_memory": 1 << 18}
    layer = SyncIPCChannelLayer(
        "full", engine="mmap", engine_options={"directory": str(tmp_path)}, **small
    )
    engine = demux_of(layer).engine
    write(engine, {"n": 1, "text": "x" * 1000})
    channel = layer.new_channel()
    for number in range(3000):
        with contextlib.suppress(StoreFull):
            layer.group_add(f"room{number}", channel)
        with contextlib.suppress(ChannelFull):
            layer.send(f"queue{number}", {"text": "x" * (3000 - number)})
    write(engine, {"n": 2, "text": "x" * 1000})
    found = read(engine)
    assert found is not None
    assert found.content["n"] == 2
    with pytest.raises(StoreFull):
        write(engine, {"n": 3, "text": "x" * 20_000})
    assert read(engine) is None, "so the relay counts as one that can't report"
    layer.destroy()


def test_a_relay_says_once_that_there_is_no_room_for_its_report(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StoreFull("both memories are full")

    async def main() -> None:
        monkeypatch.setattr(report, "write", full)
        machine = site.machine()
        machine.begin()
        await eventually(lambda: machine.relay_now.state == "connected")
        for _ in range(3):
            machine.relay_now._reports.write()
        info = relay_of(machine.engine)
        assert info is not None
        assert info.state == "unknown"
        assert any("no room for its report" in each for each in info.problems)
        machine.end()

    run(main)
    assert caplog.text.count("no room for its report") == 1
    assert "both memories are full" in caplog.text


def test_what_a_relay_took_and_heard_is_written_down_soon(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5: if it is killed, the next one takes what came since for unknown, and for gaps."""
    topic = shard_topic(shard_of(b"room"))

    async def main() -> None:
        one, two = await site.joined(2)
        await two.member("room")
        for number in (1, 2, 3):
            await one.layer.group_send("room", {"n": number})
            await eventually(lambda number=number: taken(one) == published(one) == number)  # type: ignore[misc]
            await eventually(lambda number=number: heard(two) == [number])  # type: ignore[misc]

    def taken(machine: Machine) -> object:
        return machine.report()["taken"]

    def published(machine: Machine) -> object:
        return machine.report()["published"].get(topic)

    def heard(machine: Machine) -> object:
        return [peer["sequences"].get(topic) for peer in machine.report()["peers"]]

    # There are no regular reports.
    monkeypatch.setattr(relay, "BEAT", 1000.0)
    run(main)
