"""Whatever is published, relays go on: R10; versions: R11; seals."""

from __future__ import annotations

import random
from functools import partial

from asgi_ipc.relay.frames import (
    ALL,
    LONGEST_LIFE,
    Kind,
    RelayFrame,
    machine_topic,
    pack,
    pack_join,
    shard_of,
    shard_topic,
)
from asgi_ipc.relay.memory import MemoryWire
from asgi_ipc.relay.wire import Frame
from tests.tools.machines import Machine, Site, eventually, join, received, run

STRANGER = b"other"


async def publish(site: Site, frames: list[Frame]) -> None:
    """Publish something as another program does."""
    wire = MemoryWire(site.url, "site")
    await wire.start(lambda topic, frame: None)
    await wire.publish(frames)
    await wire.close()


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
        one, two = await site.joined(2)
        channel = await two.member("room")
        frames = frames_for(two, channel)
        before = two.relay_now.counts.all.copy()
        await publish(site, frames)
        await one.layer.group_send("room", {"n": 1})
        assert await received(two.layer, channel) == [1]
        after = two.relay_now.counts.all - before
        dropped = sum(count for name, count in after.items() if name.startswith("dropped_"))
        # All but the answer to a flush that nobody asked for.
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
        assert heard[2:] == [2]
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
