"""What servers and networks do: R5, R8; and a relay that ends: R7."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from asgi_ipc.engines.base import Record, Refused
from asgi_ipc.exceptions import WireLost, WireRefused
from asgi_ipc.relay import relay, report
from asgi_ipc.relay.ending import first_of
from asgi_ipc.relay.frames import ALL, RelayFrame, machine_topic, shard_of, shard_topic
from asgi_ipc.relay.loop import run as run_alone
from asgi_ipc.relay.memory import MemoryServer, MemoryWire
from asgi_ipc.relay.peers import Peers
from asgi_ipc.relay.way_out import OUT, RELAY
from asgi_ipc.relay.wire import Frame
from tests.tools.machines import ENOUGH, Site, eventually, received, run

MIB = 1 << 20


def test_lost_frames_are_counted_as_gaps_at_the_latest_with_a_beat(
    site: Site, server: MemoryServer, caplog: pytest.LogCaptureFixture
) -> None:
    """R5."""

    async def main() -> None:
        one, two, channel = await site.in_a_room()
        server.drop_frames(3)
        for number in range(1, 4):
            await one.layer.group_send("room", {"n": number})
        await eventually(lambda: two.count("gaps"))
        # A beat may have been among the frames that were dropped.
        await one.layer.group_send("room", {"n": 4})
        found = await received(two.layer, channel, 4)
        assert 4 - len(found) <= two.count("gaps") <= 3
        two.end()
        lines = [record.getMessage() for record in caplog.records if "(gaps)" in record.message]
        told = [int(number) for line in lines for number in re.findall(r"(\d+) \(gaps\)", line)]
        assert sum(told) == two.count("gaps")

    run(main)


def test_nothing_comes_twice_or_out_of_order_while_connections_break(
    site: Site, server: MemoryServer
) -> None:
    """R5: what is missing was counted, by the sender or by the receiver."""

    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.member("room")
        for number in range(400):
            if number % 40 == 20:
                server.cut_after(5)
            await one.layer.group_send("room", {"n": number})
            await asyncio.sleep(0.001)
        await eventually(lambda: one.knows(two) and two.knows(one))
        await eventually(lambda: not one.engine.peek(OUT))
        await one.layer.send(channel, {"n": "end"})
        found = (await received(two.layer, channel, "end"))[:-1]
        assert found == sorted(set(found))
        lost = 400 - len(found)
        counted = two.count("gaps") + one.count("dropped_outcome_unknown")
        assert lost <= counted

    run(main)


def test_what_was_certainly_not_sent_is_sent_again_and_is_no_gap(
    site: Site, server: MemoryServer
) -> None:
    """R5, R3."""

    async def main() -> None:
        one, two, channel = await site.in_a_room()
        server.cut_after(0)
        for number in range(1, 30):
            await one.layer.group_send("room", {"n": number})
        assert await received(two.layer, channel, 29) == list(range(1, 30))
        assert two.count("gaps") == 0
        assert one.count("dropped_outcome_unknown") == 0

    run(main)


def test_a_site_without_its_server_starts_works_and_says_so_once(
    site: Site, server: MemoryServer, caplog: pytest.LogCaptureFixture
) -> None:
    """R8."""

    async def main() -> None:
        server.go_away("the server is away")
        one, two = site.machine(), site.machine()
        for machine in (one, two):
            machine.begin()
            await eventually(lambda m=machine: m.relay_now.state == "away")  # type: ignore[misc]
        here, there = await one.layer.new_channel(), await two.layer.new_channel()
        await one.layer.group_add("room", here)
        await two.layer.group_add("room", there)
        await one.layer.group_send("room", {"n": 1})
        await one.layer.send(there, {"n": 2})
        assert await received(one.layer, here) == [1]
        assert told() == 2
        # A relay is away a moment before its report says so.
        await eventually(lambda: one.report()["state"] == "away")
        server.come_back()
        # What waited is passed on, as it has not expired.
        assert await received(two.layer, there, 2) in ([1, 2], [2])
        assert sum("connected again" in record.message for record in caplog.records) <= 2

    def told() -> int:
        return sum("is away" in r.message for r in caplog.records if r.levelname == "WARNING")

    caplog.set_level(logging.WARNING, "asgi_ipc")
    run(main)


def test_a_server_that_takes_connections_and_ends_them_is_not_back(
    site: Site,
    server: MemoryServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R8: the pauses grow, and the log says it once."""

    async def main() -> None:
        one, _ = await site.joined(2)
        connections: list[float] = []
        admit = server.admit

        def admitted(wire: MemoryWire) -> None:
            connections.append(time.monotonic())
            admit(wire)

        def publish(wire: MemoryWire, frames: Sequence[Frame]) -> int:
            server.cut("it has changed its mind")
            return 0

        monkeypatch.setattr(server, "admit", admitted)
        with monkeypatch.context() as patch:
            patch.setattr(server, "publish", publish)
            server.cut()
            await asyncio.sleep(3)
            # Of two machines; with pauses that do not grow they would be some fifty.
            assert 2 <= len(connections) <= 20
        await eventually(lambda: one.relay_now.lag is not None)
        await eventually(lambda: told("connected again"))
        assert told("goes on by itself") == 2
        assert told("connected again") <= 2

    def told(words: str) -> int:
        return sum(words in message for message in caplog.messages)

    caplog.set_level(logging.WARNING, "asgi_ipc")
    run(main)


def test_a_server_that_comes_and_goes_is_not_connected_to_and_told_of_without_end(
    site: Site, server: MemoryServer, caplog: pytest.LogCaptureFixture
) -> None:
    """R8: although each connection works until it ends."""

    async def main() -> None:
        one, two = await site.joined(2)
        lost, until = 0, time.monotonic() + 3
        while time.monotonic() < until or lost < 2:
            await eventually(lambda: one.relay_now.lag is not None)
            lost += 1
            server.cut("it goes")
            await eventually(lambda: one.relay_now.lag is None)
        # With pauses that do not grow they would be some thirty.
        assert lost <= 10
        assert told("goes on by itself") <= 4
        assert told("connected again") <= 2
        await eventually(lambda: one.knows(two))

    def told(words: str) -> int:
        return sum(words in message for message in caplog.messages)

    caplog.set_level(logging.WARNING, "asgi_ipc")
    run(main)


def test_the_lag_is_that_of_the_beat_that_was_heard(
    site: Site, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though others have been published since, as to a slow server."""
    monkeypatch.setattr(relay, "BEAT", 0.2)

    async def main() -> None:
        (one,) = await site.joined(1)
        inbound, lags = one.relay_now.inbound, list[int]()
        act = inbound._act

        def slow(frame: RelayFrame) -> None:
            one.relay_loop.call_later(0.7, act_late, frame)

        def act_late(frame: RelayFrame) -> None:
            act(frame)
            lags.append(one.relay_now.lag)

        await eventually(lambda: one.relay_now.lag is not None)
        monkeypatch.setattr(inbound, "_act", slow)
        await eventually(lambda: len(lags) > 8)
        assert min(lags[4:]) >= 0.6e9
        assert len(one.relay_now.outbound._beats_at) <= 10

    run(main)


def test_a_server_that_takes_frames_and_passes_none_on_is_told(
    site: Site, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: such as two servers behind one name."""
    monkeypatch.setattr(relay, "_UNHEARD", 1.5)

    async def main() -> None:
        (one,) = await site.joined(1)
        await eventually(lambda: one.report()["lag"] is not None)
        server.drop_frames(1 << 30)
        await eventually(lambda: "has not come back to it" in one.report()["error"])
        assert (one.report()["state"], one.report()["lag"]) == ("connected", None)
        server.drop_frames(0)
        await eventually(lambda: one.report()["error"] == "" and one.report()["lag"] is not None)

    run(main)


def test_a_server_that_is_away_and_refuses_by_turns_is_not_told_of_at_each_turn(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8."""
    monkeypatch.setattr(relay, "LONGEST_PAUSE", 0.01)
    errors = itertools.cycle([WireLost("it is away"), WireRefused("it refuses")])

    async def start(*words: object) -> None:
        tries.append(None)
        raise next(errors)

    async def main() -> None:
        monkeypatch.setattr(MemoryWire, "start", start)
        site.machine().begin()
        await eventually(lambda: len(tries) > 50)
        assert caplog.text.count("goes on by itself") == 1

    tries: list[None] = []
    caplog.set_level(logging.WARNING, "asgi_ipc")
    run(main)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A name server that is silent, and set once it is asked."""
    is_asked, ends = threading.Event(), threading.Event()

    def ask(*words: object, **options: object) -> list[object]:
        is_asked.set()
        ends.wait(ENOUGH)
        raise socket.gaierror("it was silent")

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    yield is_asked
    ends.set()


def test_a_relay_ends_although_a_name_server_is_silent(
    site: Site, name_server: threading.Event
) -> None:
    """R7: another process relays at once."""
    machine = site.machine(relay="redis://silent.invalid")
    machine.begin()
    assert name_server.wait(ENOUGH)
    machine.end()
    assert machine.engine.hold(RELAY)


def test_a_process_that_relays_alone_ends_although_a_name_server_is_silent(
    name_server: threading.Event,
) -> None:
    began = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        run_alone(lambda: asyncio.wait_for(asyncio.open_connection("silent.invalid", 1), 0.1))
    assert name_server.is_set()
    assert time.monotonic() - began < ENOUGH / 2


@pytest.fixture
def frozen(server: MemoryServer) -> Iterator[MemoryServer]:
    yield server
    server.thaw()


@pytest.mark.parametrize("outage", ["away", "no relay"])
def test_the_way_out_is_bounded_and_drops_the_oldest(
    site: Site, server: MemoryServer, outage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R8: `group_send` goes on; what it drops is counted, and logged with the sum."""

    async def main() -> None:
        options = {"relay_options": {"backlog": 2 * MIB}, "channel_memory": 16 * MIB}
        one, two = await site.joined(2, **options)
        channel = await two.member("room")
        if outage == "away":
            server.go_away()
            await eventually(lambda: one.relay_now.state == "away")
        else:
            one.end()
        load = b"x" * 200_000
        for number in range(40):
            await one.layer.group_send("room", {"n": number, "load": load})
            assert one.engine.statistics(OUT)["bytes"] < 3 * MIB
        server.come_back()
        if outage != "away":
            one.begin()
        await eventually(lambda: one.knows(two) and two.knows(one))
        found = await received(two.layer, channel, 39)
        assert 5 <= len(found) <= 12
        assert found == list(range(40 - len(found), 40)), "the newest"
        await eventually(lambda: one.count("dropped_way_out_full") == 40 - len(found))
        assert any("dropped" in record.message for record in caplog.records)

    caplog.set_level(logging.WARNING, "asgi_ipc")
    run(main)


def test_a_frozen_server_blocks_no_sender(site: Site, frozen: MemoryServer) -> None:
    """R8: the loop that sends goes on with its other work."""

    async def main() -> None:
        # A sender that waited for the server would wait until the watchdog ends the test.
        one, two = await site.joined(2, relay_options={"timeout": 600.0})
        channel = await two.member("room")
        frozen.freeze()
        for number in range(200):
            await one.layer.group_send("room", {"n": number})
        assert await one.layer.group_channels("room") == []
        frozen.thaw()
        found = await received(two.layer, channel, 199)
        assert found == sorted(set(found))

    run(main)


def test_a_new_relay_goes_on_with_a_higher_term_and_the_counts(site: Site) -> None:
    """R7, R5."""

    async def main() -> None:
        one, two, channel = await site.in_a_room()
        for number in range(1, 4):
            machine = (one, two)[number % 2]
            term, frames = machine.relay_now.term, machine.count("frames_in")
            machine.end()
            assert machine.report()["state"] == "none"
            if machine is one:
                await one.layer.group_send("room", {"n": number})
            machine.begin()
            await eventually(lambda: one.knows(two) and two.knows(one))
            assert machine.relay_now.term > term
            assert machine.count("frames_in") >= frames
            if machine is two:
                await one.layer.group_send("room", {"n": number})
            assert await received(two.layer, channel) == [number]
        assert two.count("gaps") == 0

    run(main)


def test_a_term_is_higher_than_the_last_although_the_clock_stands_still(site: Site) -> None:
    """R7."""

    async def main() -> None:
        (one,) = await site.joined(1)
        term, clock = one.relay_now.term, one.engine.clock
        one.end()
        one.engine.clock = lambda: term
        one.begin()
        await eventually(lambda: one.relay_now.state == "connected")
        assert one.relay_now.term == term + 1
        one.engine.clock = clock

    run(main)


def test_a_task_that_swallows_a_cancellation_does_not_keep_a_relay_from_ending() -> None:
    """R7: as `asyncio.wait_for` does before Python 3.12, once in some thousand ends."""
    cancelled: list[bool] = []

    async def stubborn() -> None:
        while len(cancelled) < 2:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(True)

    run(lambda: first_of(asyncio.sleep(0), stubborn()))
    assert len(cancelled) == 2


def test_what_a_task_raises_after_a_second_cancellation_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R10."""

    async def ends_late() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            raise WireLost("the wire is closed")

    async def main() -> None:
        both = asyncio.ensure_future(first_of(asyncio.sleep(3600), ends_late()))
        for _ in range(2):
            await asyncio.sleep(0.01)
            both.cancel()
        await asyncio.gather(both, return_exceptions=True)
        await asyncio.sleep(0.1)
        gc.collect()

    run(main)
    assert caplog.records == []


def test_what_is_missed_around_the_end_of_two_relays_is_counted(site: Site) -> None:
    """R5: the machine that published it has begun another term, too."""

    async def main() -> None:
        one, two, channel = await site.in_a_room()
        two.end()
        for number in range(1, 4):
            await one.layer.group_send("room", {"n": number})
        await eventually(lambda: not one.engine.peek(OUT))
        one.end()
        two.begin()
        one.begin()
        await eventually(lambda: one.knows(two) and two.knows(one))
        await one.layer.group_send("room", {"n": 4})
        assert await received(two.layer, channel) == [4]
        assert two.count("gaps") == 3

    run(main)


def _knows_where_to_count_from(peers: Peers, node: bytes, topic: bytes) -> bool:
    peer = peers.known[node]
    return topic in peer.sequences or peers.topics[topic] <= peer.told_all


@pytest.mark.parametrize("before", [1, 0])
def test_what_is_missed_at_the_end_of_a_long_outage_is_counted(site: Site, before: int) -> None:
    """R5: although nothing more comes, and the beats that first told of it were missed as well.

    Also if nothing had come before.
    """

    async def main() -> None:
        one, two = await site.joined(2)
        room = shard_topic(shard_of(b"room"))
        channel = await two.member("room")
        for number in range(before):
            await one.layer.group_send("room", {"n": number})
            assert await received(two.layer, channel) == [number]
        node = one.node
        await eventually(lambda: _knows_where_to_count_from(two.relay_now.peers, node, room))
        two.end()
        for number in range(3):
            await one.layer.group_send("room", {"n": number})
        await eventually(lambda: not one.engine.peek(OUT))
        await eventually(lambda: one.relay_now.outbound.sequences[room] == before + 3)
        await eventually(lambda: not one.relay_now.outbound._to_tell.keys() - {ALL})
        two.begin()
        await eventually(lambda: two.count("gaps") == 3)

    run(main)


def test_the_next_relay_goes_on_with_sequences_that_still_mean_something(site: Site) -> None:
    async def main() -> None:
        one, two = await site.joined(2)
        there, gone, group = machine_topic(two.node), machine_topic(bytes(5)), shard_topic(3)
        await eventually(lambda: one.report()["peers"])
        told = one.report()
        one.end()
        published = {there: 5, gone: 6, group: 7, ALL: 8, b"g": 9, "x": 1, b"g\0\2": "x"}
        report.write(one.engine, {**told, "published": published})
        one.begin()
        await eventually(lambda: one.report()["published"].get(ALL, 0) > 8)
        left = one.report()["published"]
        assert {topic: left[topic] for topic in left if topic != ALL} == {there: 5, group: 7}

    run(main)


def test_what_expired_on_the_way_out_is_counted_once_whichever_relay_sees_it(site: Site) -> None:
    """R7."""

    async def main() -> None:
        one = site.machine(expiry=0.01)

        def counted() -> int:
            return one.count("dropped_expired")

        for relays in range(1, 4):
            for _ in range(5):
                await one.layer.group_send("room", {})
            await asyncio.sleep(0.02)
            one.begin()
            await eventually(lambda n=5 * relays: counted() >= n)  # type: ignore[misc]
            assert counted() == 5 * relays
            one.end()

    run(main)


def test_the_next_relay_counts_what_a_killed_one_had_taken(site: Site) -> None:
    """R5, R7: a killed relay tells nobody what became of it."""

    async def main() -> None:
        one, two, channel = await site.in_a_room()
        await eventually(lambda: one.report()["taken"] == 1)
        before = one.report()
        one.end()
        # It did not end: it took two, and was killed.
        report.write(one.engine, before)
        for number in range(1, 4):
            await one.layer.group_send("room", {"n": number})
        one.engine.pop(OUT, 2)
        one.begin()
        await eventually(lambda: one.knows(two))
        assert await received(two.layer, channel) == [3]
        assert one.count("dropped_relay_killed") == 2
        assert (one.count("kills"), one.count("disconnects")) == (1, 0)
        assert two.count("gaps") == 0
        one.end()
        one.begin()
        assert one.count("dropped_relay_killed") == 2, "one that ended has nothing in its hands"
        assert one.count("kills") == 1

    run(main)


@pytest.mark.parametrize("kind", ["no room", "over share", "at capacity"])
def test_what_a_full_system_refuses_is_told_apart_from_a_full_way_out(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    async def main() -> None:
        (machine,) = await site.joined(1)
        push = machine.engine.push
        is_full = True

        def refusing(records: Sequence[Record]) -> list[Refused]:
            out = [n for n, each in enumerate(records) if each.queue.startswith(b"!!relay")]
            if is_full and out:
                no_room = kind != "at capacity"
                return [Refused(n, no_room, "No space left", kind == "over share") for n in out]
            refused: list[Refused] = push(records)
            return refused

        monkeypatch.setattr(machine.engine, "push", refusing)
        for _ in range(3):
            await machine.layer.group_send("room", {"type": "x"})
        is_full = False
        monkeypatch.setattr(machine.engine, "push", push)
        # The relay is told once it can be.
        if kind == "no room":
            await machine.layer.group_send("room", {"type": "x"})
            machine.refused(Refused(0, True, "No space left"))
            await eventually(lambda: machine.count("dropped_no_room_in_the_store") == 4)
            assert machine.count("dropped_way_out_full") == 0
        said = "the store has no room for them: No space left"
        assert (said in caplog.text) == (kind == "no room")
        assert ("take all of its backlog" in caplog.text) == (kind != "no room")

    run(main)
