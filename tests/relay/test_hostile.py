"""Whatever is published, relays go on: R10; versions: R11; seals."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from functools import partial
from typing import Any

import pytest

from asgi_ipc.encoding.names import channel_name
from asgi_ipc.engines.base import Engine, Record
from asgi_ipc.exceptions import ChannelFull, FlushIncomplete
from asgi_ipc.layers.relays import relay_of
from asgi_ipc.relay import inbound, relay, report, way_out
from asgi_ipc.relay.frames import (
    ALL,
    FLUSH_BYTES,
    LIMIT,
    LONGEST_LIFE,
    Beat,
    Kind,
    RelayFrame,
    machine_topic,
    pack,
    pack_beat,
    pack_join,
    shard_of,
    shard_topic,
)
from asgi_ipc.relay.memory import MemoryWire
from asgi_ipc.relay.peers import EXPECTED, MOST
from asgi_ipc.relay.way_out import OUT, WAITING
from asgi_ipc.relay.wire import Frame
from asgi_ipc.relay.work import GRACE
from tests.tools.machines import Machine, Site, eventually, join, received, run
from tests.tools.relays import engine_beside, shown_states

STRANGER = b"other"


async def publish(site: Site, frames: list[Frame]) -> None:
    """Publish something as another program does."""
    wire = MemoryWire(site.url, "site")
    await wire.start(lambda topic, frame: None)
    await wire.publish(frames)
    await wire.close()


async def pair(site: Site, **options: Any) -> tuple[Machine, Machine, str]:
    """Two machines that are joined, and a channel of the second in the group ``room``."""
    one, two = await site.joined(2, **options)
    return one, two, await two.member("room")


async def passes(one: Machine, two: Machine, channel: str, number: int) -> None:
    """A message to the group goes from one machine to the member on the other."""
    await one.layer.group_send("room", {"n": number})
    assert await received(two.layer, channel) == [number]


def frames_for(machine: Machine, channel: str) -> list[Frame]:
    """What is published by something that is no relay, or not a good one."""
    number = iter(range(1, 10_000))

    def frame(kind: Kind, name: bytes, payload: bytes, lifetime: int = LONGEST_LIFE) -> bytes:
        return pack(RelayFrame(kind, STRANGER, 1, next(number), lifetime, name, payload))

    mine, room, name = machine_topic(machine.node), shard_topic(shard_of(b"room")), channel.encode()
    far = name.replace(machine.node.hex().encode(), STRANGER.hex().encode())
    random.seed(10)
    wrong = [
        *((topic, random.randbytes(size)) for topic in (ALL, mine, room) for size in (0, 1, 50)),
        (room, frame(Kind.GROUP, b"room", b"\xc2 no message")),
        (room, frame(Kind.GROUP, b"room", b"")),
        (room, frame(Kind.GROUP, b"room", b"\xc0")),
        (room, frame(Kind.GROUP, b"room", b"\xc0\0\0\0\0\x80")),
        (room, frame(Kind.GROUP, b"room", b"\xc0\0\0\0\1a")),
        (room, frame(Kind.GROUP, b"room", b"\xc0\xff\xff\xff\xffa!b\x80")),
        (mine, frame(Kind.CHANNEL, name, b"\xc0\0\0\0\1a\x80")),
        (room, frame(Kind.GROUP, b"no group!", b"\x80")),
        (room, frame(Kind.GROUP, b"\xff\xfe", b"\x80")),
        (room, frame(Kind.GROUP, b"", b"\x80")),
        (room, frame(Kind.GROUP, b"room", b"\x80", lifetime=0)),
        (mine, frame(Kind.CHANNEL, name, b"\x93\x01")),
        (mine, frame(Kind.CHANNEL, b"ordinary", b"\x80")),
        (mine, frame(Kind.CHANNEL, far, b"\x80")),
        (mine, frame(Kind.JOIN, name, b"short")),
        (mine, frame(Kind.JOIN, name, pack_join(b"\xff", 1))),
        (mine, frame(Kind.JOIN, far, pack_join(b"room", 1))),
        (mine, frame(Kind.LEAVE, name, b"not!a!group")),
        (ALL, frame(Kind.BEAT, b"host", b"\xff\xff")),
        (ALL, frame(Kind.FLUSHED, b"unknown", b"")),
        (ALL, b"aI\x07" + bytes(40)),
        (ALL, pack(RelayFrame(Kind.HELLO, machine.node, LONGEST_LIFE, 1, 0, b"copy", b""))),
    ]
    return [Frame(topic, data) for topic, data in wrong]


def test_any_bytes_are_dropped_and_counted_and_the_relay_goes_on(site: Site) -> None:
    """R10: and a receiver meets nothing but messages."""

    async def main() -> None:
        one, two, channel = await pair(site)
        frames = frames_for(two, channel)
        before = two.relay_now.counts.all.copy()
        await publish(site, frames)
        await passes(one, two, channel, 1)
        after = two.relay_now.counts.all - before
        dropped = sum(count for name, count in after.items() if name.startswith("dropped_"))
        # All but the answer to a flush that no machine has asked for.
        assert dropped == len(frames) - 1, after
        assert after["dropped_failed"] == 0
        assert two.relay_now.state == "connected"
        assert await two.layer.group_channels("room") == [channel]

    run(main)


def test_machines_of_two_versions_talk_in_the_older_one(site: Site) -> None:
    """R11: and in the newer one once all read it."""

    async def main() -> None:
        old, new, newest = site.machine(), site.machine(), site.machine()
        for machine in (new, newest):
            machine.reads(1, 2)
        await join(old, new, newest)
        members = [(machine, await machine.member("room")) for machine in (old, new, newest)]
        heard: list[int] = []
        listener = MemoryWire(site.url, "site")
        await listener.start(lambda topic, frame: heard.append(frame[2]))
        await listener.subscribe([shard_topic(shard_of(b"room"))])
        for sender in (old, new):
            await sender.layer.group_send("room", {"n": 1})
            for machine, channel in members:
                assert await received(machine.layer, channel) == [1]
        await eventually(lambda: heard == [1, 1])
        old.end()
        for machine in (new, newest):
            peers = machine.relay_now.peers
            await eventually(partial(_is_gone, peers, old.node))
        await new.layer.group_send("room", {"n": 2})
        assert await received(newest.layer, members[2][1]) == [2]
        await eventually(lambda: heard[2:] == [2])
        await listener.close()

    def _is_gone(peers: object, node: bytes) -> bool:
        # Another process of that machine might go on at once; a test need not wait for it.
        peer = peers.known[node]  # type: ignore[attr-defined]
        if peer.has_left:
            peer.heard_at -= LONGEST_LIFE
        return bool(peer.has_left)

    run(main)


def test_with_keys_only_what_was_sealed_with_one_of_them_is_heard(site: Site) -> None:
    keys = [bytes(range(n, n + 32)).hex() for n in (0, 100)]

    async def main() -> None:
        one = site.machine(relay_options={"keys": [keys[0], keys[1]]})
        two = site.machine(relay_options={"keys": [keys[1], keys[0]]})
        await join(one, two)
        without, other = (
            site.machine(),
            site.machine(relay_options={"keys": ["ab" * 16 + keys[1][:32]]}),
        )
        for machine in (without, other):
            machine.begin()
            await eventually(lambda m=machine: m.relay_now.state == "connected")  # type: ignore[misc]
        channel = await two.member("room")
        strangers = [await machine.member("room") for machine in (without, other)]
        heard: list[bytes] = []
        listener = MemoryWire(site.url, "site")
        await listener.start(lambda topic, frame: heard.append(frame))
        await listener.subscribe([shard_topic(shard_of(b"room"))])
        await without.layer.group_send("room", {"n": "forged"})
        await one.layer.group_send("room", {"n": "secret"})
        assert await received(two.layer, channel) == ["secret"]
        await eventually(lambda: len(heard) == 2)
        (sealed,) = (frame for frame in heard if b"forged" not in frame)
        assert b"secret" not in sealed
        await publish(site, [Frame(shard_topic(shard_of(b"room")), sealed)])
        await eventually(lambda: two.count("dropped_late"))
        assert two.count("dropped_not_sealed") >= 1
        assert without.count("dropped_sealed") >= 1
        await eventually(lambda: other.count("dropped_seal_unknown_key"))
        for machine, stranger in zip((without, other), strangers, strict=True):
            await machine.layer.send(stranger, {"n": "end"})
            found = await received(machine.layer, stranger, "end")
            assert found == (["forged", "end"] if machine is without else ["end"])
        await listener.close()

    run(main)


ROOM = shard_topic(shard_of(b"room"))
KEYS = {"relay_options": {"keys": [bytes(range(32)).hex()]}}


class Recorder:
    """A program on the server that hears all frames, and publishes them again."""

    def __init__(self, site: Site) -> None:
        self.wire, self.frames = MemoryWire(site.url, "site"), list[Frame]()

    async def start(self) -> None:
        await self.wire.start(lambda topic, data: self.frames.append(Frame(topic, data)))
        await self.wire.subscribe([ALL, ROOM])

    async def play(self, recorded: list[Frame]) -> None:
        await self.wire.publish(recorded)

    def of(self, kind: Kind, machine: Machine) -> list[Frame]:
        head = bytes((kind,)) + machine.node
        return [each for each in self.frames if each.payload[4:10] == head]


async def silent(machine: Machine, channel: str) -> None:
    """Make sure that no message is on a channel."""
    await machine.layer.send(channel, {"n": "end"})
    assert await received(machine.layer, channel, "end") == ["end"]


def test_sealed_messages_of_a_topic_left_and_heard_again_are_not_played_again(site: Site) -> None:
    """R5."""

    async def main() -> None:
        recorder = Recorder(site)
        await recorder.start()
        one, two, channel = await pair(site, **KEYS)
        await passes(one, two, channel, 1)
        recorded = recorder.of(Kind.GROUP, one)
        assert len(recorded) == 1
        await two.layer.group_discard("room", channel)
        # As a look for unused shards does, half a minute later.
        two.relay_now.peers.hears_no_more([ROOM])
        two.relay_now.peers.hears([ROOM])
        await two.layer.group_add("room", channel)
        await recorder.play(recorded)
        await eventually(lambda: two.count("dropped_late"))
        await silent(two, channel)
        await passes(one, two, channel, 2)
        await recorder.wire.close()

    run(main)


def test_what_comes_before_a_proof_alarms_nobody_while_the_relay_begins(site: Site) -> None:
    """R5: it is what each deployment may lose."""

    async def main() -> None:
        one, two = await site.joined(2, **KEYS)
        await two.member("room")
        relay = two.relay_now
        # The first machine proves nothing from now on.
        one.relay_now.peers.take_answers = lambda: ()
        for since, count, problems in (
            (float("inf"), "dropped_not_yet_proven", 0),
            (0.0, "dropped_not_proven", 1),
        ):
            relay._connected_at = since
            relay.peers.nonce = os.urandom(len(relay.peers.nonce))
            for peer in relay.peers.known.values():
                peer.has_answered = False
            await one.layer.group_send("room", {"n": 1})
            await eventually(lambda count=count: two.count(count))  # type: ignore[misc]
            relay._reports.write()
            found = relay_of(two.engine)
            assert found is not None
            assert len(found.problems) == problems

    run(main)


def test_sealed_frames_played_to_a_new_store_are_not_acted_on(site: Site) -> None:
    """R5, R9: messages, and flushes, of a machine that is there or is gone."""

    async def main() -> None:
        recorder = Recorder(site)
        await recorder.start()
        one, two, channel = await pair(site, **KEYS)
        await passes(one, two, channel, 1)
        await one.layer.flush()
        recorded = list(recorder.frames)
        assert recorder.of(Kind.FLUSH, one)
        assert recorder.of(Kind.GROUP, one)
        one.end()
        new = site.machine(**KEYS)
        new.begin()
        await eventually(lambda: new.knows(two))
        fresh = await new.member("room")
        before, flushes = new.engine.flushes, two.engine.flushes
        await recorder.play(recorded)
        await eventually(
            lambda: new.count("dropped_not_yet_proven") + new.count("dropped_not_proven") >= 2
        )
        await silent(new, fresh)
        assert new.engine.flushes == before
        # The next relay of a machine that was there does not act on them either.
        two.end()
        two.begin()
        await recorder.play(recorded)
        await eventually(lambda: two.knows(new) and new.knows(two))
        await recorder.play(recorded)
        assert two.engine.flushes == flushes
        await recorder.wire.close()

    run(main)


def test_with_keys_what_waits_for_a_relay_is_published_once_others_can_act_on_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SETTLED", 10.0)

    async def main() -> None:
        one, two, channel = await pair(site, **KEYS)
        for number in range(3):
            one.end()
            await one.layer.group_send("room", {"n": number})
            one.begin()
            assert await received(two.layer, channel) == [number]
        assert two.count("gaps") == two.count("dropped_not_proven") == 0

    run(main)


def test_the_farthest_numbers_end_no_relay(site: Site) -> None:
    """R10: what is counted of them still fits the report."""

    async def main() -> None:
        one, two, channel = await pair(site)
        wrong = []
        for term in (1, 2, 3, LIMIT - 1, LIMIT, (1 << 64) - 1):
            for sequence in (1, LIMIT - 1, LIMIT, (1 << 64) - 1):
                frame = RelayFrame(Kind.GROUP, STRANGER, term, sequence, 1, b"room", b"\x80")
                told = Beat(sequences={ROOM: sequence})
                beat = frame._replace(kind=Kind.BEAT, payload=pack_beat(told))
                hello = frame._replace(kind=Kind.HELLO, sequence=1, payload=b"")
                wrong += [Frame(ALL, pack(hello)), Frame(ROOM, pack(frame)), Frame(ALL, pack(beat))]
        await publish(site, wrong)
        await eventually(lambda: two.count("gaps") > LIMIT)
        two.relay_now._reports.write()
        assert two.count("failures") == 0
        two.end()
        two.begin()
        await eventually(lambda: two.knows(one))
        await passes(one, two, channel, 1)

    run(main)


def test_many_forged_machines_cost_few_reports_and_no_machine_its_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        one, _two = await site.joined(2)
        written: list[None] = []
        write = report.write

        def count(engine: Engine, content: dict[str, Any]) -> None:
            written.append(None)
            write(engine, content)

        monkeypatch.setattr(report, "write", count)
        began = one.engine.clock()
        for number in range(1200):
            node = number.to_bytes(5, "big")
            hello = RelayFrame(Kind.HELLO, node, 1, 1, 0, b"\x1b[2J\n", b"")
            await publish(site, [Frame(ALL, pack(hello))])
        await eventually(lambda: one.count("dropped_too_many_machines") == 1201 - MOST)
        seconds = (one.engine.clock() - began) / 1e9
        # Of two machines: some a second for what was learned, and one for itself.
        assert len(written) <= 2 * (6 * seconds + 4)
        assert "\x1b" not in one.relay_now.peers.known[bytes(5)].host
        for peer in one.relay_now.peers.known.values():
            if not peer.is_proven:
                peer.heard_at -= 6 * 1_000_000_000
        one.relay_now.peers._full_until = 0
        three = site.machine()
        three.begin()
        await eventually(lambda: one.knows(three))
        # Those that never beat are neither waited for nor named.
        await one.layer.flush()

    run(main)


def test_a_flood_of_flushes_is_carried_out_together(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """R9, R10: nothing is logged for each."""

    async def main() -> None:
        one, two = await site.joined(2)
        before = one.engine.flushes
        frames = [
            pack(RelayFrame(Kind.FLUSH, STRANGER, 1, n + 1, 0, b"%016d" % n, b""))
            for n in range(3000)
        ]
        wrong = [
            pack(RelayFrame(Kind.FLUSH, STRANGER, 1, 4000 + size, 0, bytes(size), b""))
            for size in (0, FLUSH_BYTES - 1, 255)
        ]
        await publish(site, [Frame(ALL, frame) for frame in (*frames, *wrong)])
        await eventually(lambda: one.count("dropped_too_many_flushes") >= 2000)
        await eventually(lambda: one.count("dropped_no_frame") == 3)
        assert one.engine.flushes - before <= 10
        assert sum("flushed" in record.message for record in caplog.records) <= 30
        # The flushes of others are not among those dropped.
        with pytest.raises(FlushIncomplete, match=STRANGER.hex()) as caught:
            await two.layer.flush()
        assert one.node.hex() not in str(caught.value)
        assert two.count("failures") == one.count("failures") == 0

    caplog.set_level(logging.WARNING, "asgi_ipc")
    run(main)


def test_flushes_of_many_forged_machines_are_few_for_each_machine(site: Site) -> None:
    """R9, R10: each is noted of each machine, and confirmed to all."""

    async def main() -> None:
        one, two = await site.joined(2)
        nodes = [number.to_bytes(5, "big") for number in range(200)]
        frames = [
            RelayFrame(kind, node, 1, at + 1, 0, b"%08d" % number * 2, b"")
            for number, node in enumerate(nodes)
            for at, kind in enumerate((Kind.BEAT, Kind.FLUSH))
        ]
        # Together, as they come while a flush waits.
        one.relay_loop.call_soon_threadsafe(
            lambda: setattr(one.relay_now._flushes_from_afar, "_allowed", 0.0)
        )
        await publish(site, [Frame(ALL, pack(each)) for each in frames])
        await eventually(lambda: one.count("dropped_too_many_flushes") >= 100)
        await eventually(lambda: not one.relay_now._flushes_from_afar._asked)
        assert max(len(each.owes) for each in one.relay_now.peers.known.values()) <= 70
        assert two.count("failures") == one.count("failures") == 0

    run(main)


def test_what_waits_to_be_told_to_others_is_bounded(site: Site) -> None:
    """R10, R12: while a server takes nothing and tells of queues without end."""

    async def main() -> None:
        (one,) = await site.joined(1, relay_channels=["work.*"])
        relay, loop = one.relay_now, one.relay_loop
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(acquire(relay), loop))
        for number in range(1000):
            loop.call_soon_threadsafe(relay.work._act_on_ready, {b"work.%d" % number})
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop))
        assert 0 < len(relay._tasks) <= 200
        loop.call_soon_threadsafe(relay.outbound.publishing.release)
        await eventually(lambda: not relay._tasks)

    async def acquire(relay: Any) -> None:
        await relay.outbound.publishing.acquire()

    run(main)


def test_memberships_from_afar_leave_room_for_those_of_the_machine(site: Site) -> None:
    """R10: and a store without room ends no relay."""

    async def main() -> None:
        _one, two = await site.joined(2)
        channel = await two.member("room")
        mine = machine_topic(two.node)
        joins = [
            Frame(
                mine,
                pack(
                    RelayFrame(
                        Kind.JOIN, STRANGER, 1, n + 1, LONGEST_LIFE, channel.encode(),
                        pack_join(b"group%d" % n, LONGEST_LIFE),
                    )
                ),
            )
            for n in range(12_000)
        ]  # fmt: skip
        for at in range(0, len(joins), 200):
            await publish(site, joins[at : at + 200])
            await asyncio.sleep(0.002)
        await eventually(lambda: two.count("dropped_no_room_in_the_store"))
        counts = await two.layer.global_statistics()
        assert counts["group_bytes_used"] < 0.9 * counts["group_bytes_total"]
        await two.layer.group_add("fresh", channel)
        assert two.count("failures") == 0

    run(main)


def test_messages_from_afar_do_not_fill_a_store_for_good(site: Site) -> None:
    """R4, R10: whatever lifetime they claim; and those for no process expire as the site's own."""
    hour = 3600 * 1_000_000_000

    async def main() -> None:
        _one, two = await site.joined(2, expiry=0.5)
        channel = await two.member("room")
        mine, ghost = machine_topic(two.node), f"specific.{two.node.hex()}{7:022x}!ghost"
        other = engine_beside(two.options)
        there = f"specific.{other.identity.hex():0<32}!there"
        for number, name in enumerate((ghost, there)):
            frame = RelayFrame(
                Kind.CHANNEL, STRANGER, 1, number + 1, LONGEST_LIFE, name.encode(), b"\x80"
            )
            await publish(site, [Frame(mine, pack(frame))])
        group = RelayFrame(Kind.GROUP, STRANGER, 1, 3, LONGEST_LIFE, b"room", b"\x80")
        await two.layer.group_add("room", "ordinary")
        await publish(site, [Frame(ROOM, pack(group))])
        queue = channel_name(there).queue
        await eventually(lambda: two.engine.look(b"ordinary") and two.engine.look(queue))
        for each in (queue, b"ordinary"):
            (record,) = two.engine.look(each)
            assert record.deadline - two.engine.clock() <= hour
        await eventually(lambda: not two.engine.look(channel_name(ghost).queue))
        assert await two.layer.receive(channel) == {}
        assert two.engine.look(queue)
        other.close()

    run(main)


def test_a_full_group_memory_ends_no_relay(site: Site) -> None:
    """R10, R6."""

    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.member("room", "other")
        with pytest.raises(ChannelFull):
            fill(two)
        for machine in (one, two):
            machine.relay_loop.call_soon_threadsafe(machine.relay_now.shards.want, b"new")
            await eventually(lambda m=machine: m.hears("new"))  # type: ignore[misc]
        await passes(one, two, channel, 1)
        assert two.relay_now.state == "connected"
        assert two.count("failures") == 0

    def fill(machine: Machine) -> None:
        for number in range(100_000):
            machine.engine.put(b"own%d" % (number % 10), b"%d" % number, 1 << 62)

    run(main)


def test_messages_from_afar_for_which_there_is_no_room_are_logged_together(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """R10: whatever their channels."""

    async def main() -> None:
        (one,) = await site.joined(1)
        mine = machine_topic(one.node)
        frames = []
        for number in range(200):
            ghost = b"specific." + one.node.hex().encode() + b"%022x!ghost" % number
            body = b"\x81\xa1n\xc6\x00\x01\x00\x00" + bytes(1 << 16)
            frame = RelayFrame(Kind.CHANNEL, STRANGER, 1, number + 1, LONGEST_LIFE, ghost, body)
            frames.append(Frame(mine, pack(frame)))
        await publish(site, frames)
        await eventually(lambda: one.count("frames_in") >= 200 and told())
        assert told() <= 3

    def told() -> int:
        return sum("from other machines" in each.message for each in caplog.records)

    caplog.set_level(logging.WARNING, "asgi_ipc")
    run(main)


def test_what_says_that_a_queue_is_ready_is_checked_and_told_to_others_together(
    site: Site,
) -> None:
    """R10, R12."""

    async def main() -> None:
        one, two = await site.joined(2, relay_channels=["work.*"])
        ready = one.relay_now.work.ready
        loop = one.relay_loop
        before = two.count("frames_in")
        for _ in range(2000):
            for name in (b"work.a", b"other", b"w" * 300, b"work.\xff", b"", b"work.a!b"):
                loop.call_soon_threadsafe(ready, name)
        await eventually(lambda: one.count("dropped_no_frame") == 5 * 2000)
        await two.layer.group_send("room", {})
        assert two.count("frames_in") - before < 200
        await one.layer.send("work.a", {"n": 1})
        assert await received(two.layer, "work.a") == [1]

    run(main)


def test_names_in_the_store_that_no_channel_has_end_no_relay(site: Site) -> None:
    """R10, R12: a member of the store's group may have left them."""

    async def main() -> None:
        (one,) = await site.joined(1, relay_channels=["*"])
        engine = one.engine
        one.end()
        for name in (b"", b"w" * 130, b"\xff", b"a!b", b"!!x", b"w\n"):
            engine.put(WAITING, name + b"\n", 1 << 62)
            body = way_out.pack_work(10, b"\x80")
            engine.push([Record(OUT, way_out.header(Kind.WORK, name) + body, 1 << 62, 100)])
            if name:
                engine.push([Record(name, b"\x80", 1 << 62, 100)])
        for wrong in (b"\x0a", b"\x0a\xff", b""):
            engine.push([Record(OUT, wrong, 1 << 62, 100)])
        one.begin()
        await eventually(lambda: one.count("dropped_not_a_record") == 9)
        await one.layer.send("work", {"n": 1})
        assert await received(one.layer, "work") == [1]
        await asyncio.sleep(2 * GRACE)  # What lies in the store is to be given back.
        assert one.relay_now.state == "connected"
        assert one.count("failures") == 0

    run(main)


def test_a_copy_of_a_store_is_told_on_all_machines(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one with the later term hears the other as well, and others hear both."""
    monkeypatch.setattr(inbound, "FORMER", 0)

    async def main() -> None:
        one, two = await site.joined(2)
        term = one.relay_now.term
        for machine, other in ((one, term + 1), (two, two.relay_now.term - 1)):
            assert machine.report()["error"] == ""
            beat = RelayFrame(Kind.BEAT, machine.node, other, 1000, 0, b"copy", b"")
            await publish(site, [Frame(ALL, pack(beat))])
            await eventually(lambda m=machine: "copy of this store" in m.report()["error"])  # type: ignore[misc]
        # At the other, the copy with the later term has made the machine late.
        await eventually(lambda: state_of(two) == "late")
        await eventually(lambda: state_of(one) == "late")
        one.relay_now._copy_at -= EXPECTED + 1
        await eventually(lambda: one.report()["error"] == "")

    def state_of(at: Machine) -> str:
        (state,) = shown_states(at.engine)
        return state

    run(main)
