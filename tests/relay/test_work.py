"""Shared channels: R12."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from asgi_ipc import ChannelFull, IPCChannelLayer, OptionError
from asgi_ipc.engines.base import IDENTITY_BYTES, Record
from asgi_ipc.exceptions import WireLost
from asgi_ipc.relay import work
from asgi_ipc.relay.frames import ALL
from asgi_ipc.relay.memory import MemoryServer
from asgi_ipc.relay.way_out import FULL, OUT, WAITING, receiver
from asgi_ipc.relay.wire import Frame
from tests.tools.holders import answering, stop_outside
from tests.tools.machines import ENOUGH, Machine, Site, eventually, received, run
from tests.tools.stores import start

MIB = 1 << 20
SHARED = {"relay_channels": ["work", "mail.*"]}


def on_server(server: MemoryServer, channel: str) -> int:
    return server.length("site", channel.encode())


async def passed_on(machine: Machine) -> None:
    """Wait until nothing of a machine waits for the server any more."""
    await eventually(lambda: machine.engine.statistics(OUT)["pending"] == 0)


async def _fill(layer: IPCChannelLayer, pause: float, load: bytes = b"") -> None:
    for number in range(100):
        await layer.send("work", {"n": number, "load": load})
        await asyncio.sleep(pause)


def test_any_machines_receivers_take_messages_each_once(site: Site, server: MemoryServer) -> None:
    async def main() -> None:
        machines = await site.joined(3, **SHARED)
        found: list[int] = []

        async def worker(machine: Machine) -> None:
            while True:
                found.extend(await received(machine.layer, "work"))

        workers = [asyncio.create_task(worker(m)) for m in machines[1:] for _ in range(2)]
        for number in range(60):
            await machines[number % 2].layer.send("work", {"n": number})
            await asyncio.sleep(0.001)
        await eventually(lambda: len(found) == 60)
        assert sorted(found) == list(range(60))
        assert on_server(server, "work") == 0
        for each in workers:
            each.cancel()

    run(main)


def test_messages_lie_on_the_server_in_order_until_a_receiver_waits(
    site: Site, server: MemoryServer
) -> None:
    async def main() -> None:
        one, two = await site.joined(2, **SHARED)
        for number in range(3):
            await one.layer.send("mail.out", {"n": number})
        await eventually(lambda: on_server(server, "mail.out") == 3)
        await two.layer.send("mail.other", {"n": 1})
        # Not for a receiver of another channel, nor for one that has gone.
        waiting = asyncio.create_task(two.layer.receive("work"))
        gone = asyncio.create_task(two.layer.receive("mail.none"))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert on_server(server, "mail.out") == 3
        await one.layer.send("mail.none", {"n": 1})
        await eventually(lambda: on_server(server, "mail.none") == 1)
        for number in range(3):
            assert await received(two.layer, "mail.out") == [number]
            left = 2 - number
            await eventually(lambda left=left: on_server(server, "mail.out") == left)  # type: ignore[misc]
        # A thread that waits is one, too; one that only looks is not.
        assert two.layer.sync.receive(["mail.none"]) == (None, None)
        found = await asyncio.to_thread(two.layer.sync.receive, ["a", "mail.none"], True, 10)
        assert found == ("mail.none", {"n": 1})
        waiting.cancel()

    run(main)


def test_no_more_is_taken_than_receivers_wait_for(site: Site, server: MemoryServer) -> None:
    """Not while a message that was taken is still on its way to its receiver."""

    async def main() -> None:
        _, two = await site.joined(2, **SHARED)
        relay = two.relay_now
        waiting = [asyncio.create_task(two.layer.receive("work")) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert relay.work._missing() == {b"work": 3}
        # They run only once this does.
        deadline = two.engine.clock() + 60_000_000_000
        two.engine.push([Record(b"work", b"\x80", deadline, 100)] * 2)
        assert relay.work._missing() == {b"work": 1}
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert +relay.work._missing() == {}

    run(main)


def test_receivers_that_wait_during_a_flush_get_what_comes_after_it(site: Site) -> None:
    """In an event loop and in a thread."""

    async def main() -> None:
        one, two = await site.joined(2, **SHARED)
        two.demux.look_again = 0.05
        waiting = asyncio.create_task(two.layer.receive("work"))
        thread = asyncio.create_task(
            asyncio.to_thread(two.layer.sync.receive, ["mail.a"], True, ENOUGH)
        )
        relay = two.relay_now
        await eventually(lambda: sum(relay.work._missing().values()) == 2)
        await one.layer.flush()
        await eventually(lambda: sum(relay.work._missing().values()) == 2)
        await one.layer.send("work", {"n": 1})
        await one.layer.send("mail.a", {"n": 2})
        assert await waiting == {"n": 1}
        assert await thread == ("mail.a", {"n": 2})

    run(main)


def test_a_relay_that_ends_loses_nothing_that_is_under_way(
    site: Site, server: MemoryServer
) -> None:
    async def main() -> None:
        one, two = await site.joined(2, **SHARED)
        server.freeze()
        await one.layer.send("work", {"n": 1})
        await eventually(lambda: one.engine.statistics(OUT)["popped"] == 1)
        receiving = asyncio.create_task(received(two.layer, "work"))
        await eventually(lambda: two.engine.members(WAITING).names)
        await asyncio.sleep(0.3)
        ending = [asyncio.create_task(asyncio.to_thread(each.end)) for each in (one, two)]
        await asyncio.sleep(0.1)
        server.thaw()
        await asyncio.gather(*ending)
        assert await asyncio.wait_for(receiving, ENOUGH) == [1]
        assert "dropped_outcome_unknown" not in one.report()["counts"]

    run(main)


def test_a_message_that_goes_back_keeps_its_lifetime(site: Site, server: MemoryServer) -> None:
    async def main() -> None:
        (one,) = await site.joined(1, **SHARED)
        deadline, now = one.engine.clock() + 30_000_000_000, server.clock()
        one.engine.push([Record(b"work", one.encoded({"n": 1}), deadline, 100)])
        one.end()
        one.begin()
        await eventually(lambda: on_server(server, "work") == 1)
        server.clock = lambda: now + 31
        assert on_server(server, "work") == 0

    run(main)


def test_a_relay_that_ends_while_it_gives_a_message_back_does_not_lose_it(
    site: Site, server: MemoryServer
) -> None:
    async def main() -> None:
        (one,) = await site.joined(1, **SHARED)
        one.end()
        deadline = one.engine.clock() + 60_000_000_000
        one.engine.push([Record(b"work", one.encoded({"n": 1}), deadline, 100)])
        one.begin()
        await eventually(lambda: one.relay_now.state == "connected")
        server.freeze()
        await eventually(lambda: one.engine.statistics(b"work")["popped"])
        ending = asyncio.create_task(asyncio.to_thread(one.end))
        await asyncio.sleep(0.1)
        server.thaw()
        await ending
        assert on_server(server, "work") == 1
        assert "dropped_outcome_unknown" not in one.report()["counts"]

    run(main)


def test_a_call_that_fails_first_does_not_lose_what_is_about_to_be_published(
    site: Site, server: MemoryServer
) -> None:
    """R5: neither lost without a count, nor counted as lost."""

    async def main() -> None:
        one, two = await site.joined(2, **SHARED)
        channel = await two.member("room")
        relay = one.relay_now
        wire = relay._wire
        publish = wire.publish

        async def published_slowly(frames: Sequence[Frame]) -> None:
            """Wait until the connection is lost, and learn of it a little later than others."""
            if frames[0].topic == ALL:
                await publish(frames)
                return
            error = await wire.lost()
            await asyncio.sleep(0.05)
            raise WireLost(str(error), unsent=len(frames))

        wire.publish = published_slowly
        receiving = asyncio.create_task(one.layer.receive("work"))
        await eventually(lambda: one.engine.members(WAITING).names)
        server.freeze()
        await asyncio.sleep(1.5 * work.LOOK)  # It asks the server for a message by now.
        for number in range(3):
            await one.layer.group_send("room", {"n": number})
        await eventually(lambda: one.engine.statistics(OUT)["popped"] > 0)
        server.go_away()
        server.thaw()
        await eventually(lambda: relay.state == "away")
        server.come_back()
        assert await received(two.layer, channel, 2) == [0, 1, 2]
        assert one.count("dropped_outcome_unknown") == 0
        receiving.cancel()

    run(main)


@contextlib.contextmanager
def process_that_receives(machine: Machine, *channels: str) -> Iterator[int]:
    """A process of a machine that waits on channels, as its relay knows; it is killed at last."""
    pid = start(lambda: machine.layer.sync.receive(list(channels), block=True))
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            kill(pid)


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Signal a child, and wait until it has ended or stopped."""
    os.kill(pid, how)
    os.waitpid(pid, os.WUNTRACED)


async def stop_asleep(pid: int, machine: Machine, *channels: str) -> None:
    """Stop a process once it waits on channels, and holds no lock of the store."""
    names = {channel.encode() for channel in channels}
    engine = machine.engine
    await eventually(lambda: names <= {each.name for each in engine.queues() if each.waiting})
    stop_outside(pid, answering(engine))


def lying(machine: Machine, channel: str) -> int:
    """The messages of a channel that lie in the store of a machine."""
    count: int = machine.engine.statistics(channel.encode())["pending"]
    return count


@pytest.mark.parametrize("killed", ["before it is sent", "after it was taken"])
def test_what_was_taken_for_a_receiver_that_is_killed_goes_to_another_machine(
    site: Site, server: MemoryServer, killed: str
) -> None:
    """And keeps its lifetime."""

    async def main() -> None:
        one, two = await site.joined(2, expiry=300, **SHARED)
        with process_that_receives(one, "work") as pid:
            await eventually(lambda: one.relay_now.work._missing() == {b"work": 1})
            await stop_asleep(pid, one, "work")
            if killed == "before it is sent":
                kill(pid)
            await two.layer.send("work", {"n": 1})
            if killed == "after it was taken":
                await eventually(lambda: lying(one, "work"))
            waiting = asyncio.create_task(two.layer.receive("work"))
            if killed == "after it was taken":
                # A living receiver keeps it, however slow it is.
                await asyncio.sleep(work.GRACE + 2 * work.LOOK_TAKEN)
                (record,) = one.engine.look(b"work")
                assert record.deadline > one.engine.clock() + 200e9
                kill(pid)
            assert await asyncio.wait_for(waiting, ENOUGH) == {"n": 1}
        assert lying(one, "work") == 0
        await eventually(lambda: one.relay_now.work._missing() == {})
        # And the other receivers of this machine get theirs.
        await one.layer.send("work", {"n": 2})
        assert await received(one.layer, "work") == [2]

    run(main)


def test_what_no_receiver_takes_any_more_goes_back_behind_the_others(
    site: Site, server: MemoryServer
) -> None:
    """After a receiver took that of another of its channels; and after a relay that ended."""

    async def main() -> None:
        one, two = await site.joined(2, **SHARED)
        with process_that_receives(one, "work", "mail.a") as pid:
            await eventually(lambda: sum(one.relay_now.work._missing().values()) == 2)
            await stop_asleep(pid, one, "work", "mail.a")
            for channel in ("work", "mail.a"):
                await two.layer.send(channel, {"n": 1})
                await eventually(lambda c=channel: lying(one, c))  # type: ignore[misc]
            kill(pid, signal.SIGCONT)
        await eventually(lambda: lying(one, "work") + lying(one, "mail.a") == 0)
        left = "work" if on_server(server, "work") else "mail.a"
        assert await received(two.layer, left) == [1]
        one.end()
        deadline = one.engine.clock() + 60_000_000_000
        body = one.encoded({"n": "former"})
        one.engine.push([Record(b"work", body, deadline, 100)])
        one.engine.push([Record(b"local", body, deadline, 100)])
        await two.layer.send("work", {"n": "other"})
        await eventually(lambda: on_server(server, "work") == 1)
        one.begin()
        await eventually(lambda: on_server(server, "work") == 2)
        assert lying(one, "local") == 1, "it is not shared"
        assert await received(two.layer, "work", "former") == ["other", "former"]

    run(main)


def test_what_the_server_has_no_room_for_stays_until_it_has(
    site: Site, server: MemoryServer
) -> None:
    async def main() -> None:
        one, two = await site.joined(2, **SHARED)
        deadline = one.engine.clock() + 60_000_000_000
        server.room = 0
        for number in range(3):
            body = one.encoded({"n": number})
            one.engine.push([Record(b"work", body, deadline, 100)])
        one.end()
        one.begin()
        await eventually(one.knows)
        await asyncio.sleep(work.GRACE + 2 * work.LOOK_TAKEN)
        # The oldest is away for a moment each time that it is tried.
        await eventually(
            lambda: [each.payload[-1] for each in one.engine.look(b"work")] == [0, 1, 2]
        )
        server.room = 10
        assert await received(two.layer, "work", 2) == [0, 1, 2]

    run(main)


def test_receivers_that_an_earlier_version_tells_of_count_as_alive(site: Site) -> None:
    async def main() -> None:
        one, _ = await site.joined(2, **SHARED)
        deadline = one.engine.clock() + 60_000_000_000
        one.engine.put(WAITING, b"work\n" + b"8" * 8, deadline, b"")
        one.engine.put(WAITING, receiver(b"work", b"\n" * IDENTITY_BYTES), deadline, b"")
        assert one.relay_now.work._receivers(b"work") == 1
        assert one.relay_now.work._missing() == {b"work": 1}

    run(main)


def test_a_full_channel_is_full_by_its_last_known_length(
    site: Site, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "LOOK_FULL", 0.05)

    async def main() -> None:
        one, two = await site.joined(2, channel_capacity={"work": 3}, **SHARED)
        for number in range(3):
            await one.layer.send("work", {"n": number})
        # Before any message is refused there, and so lost.
        await eventually(lambda: one.engine.members(FULL).names)
        with pytest.raises(ChannelFull, match=r"work is full.*capacity of 3"):
            await one.layer.send("work", {"n": 3})
        assert await received(two.layer, "work") == [0]
        await eventually(lambda: _takes(one.layer.sync))
        assert on_server(server, "work") <= 3

    def _takes(layer: Any) -> bool:
        try:
            layer.send("work", {"n": "late"})
        except ChannelFull:
            return False
        return True

    run(main)


def test_a_server_without_memory_is_told_apart_from_a_full_channel(
    site: Site, server: MemoryServer
) -> None:
    async def main() -> None:
        one, _ = await site.joined(2, **SHARED)
        server.room = 0
        with pytest.raises(ChannelFull, match="or the server was out of memory"):
            await _fill(one.layer, 0.02)
        counts = one.relay_now.counts.all
        assert counts["dropped_server_out_of_memory"]
        assert not counts["dropped_shared_channel_full"]

    run(main)


def test_without_its_server_messages_wait_and_then_the_channel_is_full(
    site: Site, server: MemoryServer
) -> None:
    async def main() -> None:
        options = {"relay_options": {"backlog": 2 * MIB}, "channel_memory": 16 * MIB}
        one, two = await site.joined(2, **options, **SHARED)
        server.go_away()
        await eventually(lambda: one.relay_now.state == "away")
        await one.layer.send("work", {"n": 0})
        with pytest.raises(ChannelFull, match="backlog"):
            await _fill(one.layer, 0, b"x" * 200_000)
        server.come_back()
        assert await received(two.layer, "work") == [0]

    run(main)


def test_messages_expire_by_the_servers_clock_and_go_with_a_flush(
    site: Site, server: MemoryServer
) -> None:
    async def main() -> None:
        one, two = await site.joined(2, expiry=30, **SHARED)
        now = server.clock()
        await one.layer.send("work", {"n": "expired"})
        await eventually(lambda: on_server(server, "work") == 1)
        server.clock = lambda: now + 31
        await one.layer.send("work", {"n": "fresh"})
        assert await received(two.layer, "work") == ["fresh"]
        await one.layer.send("work", {"n": "flushed"})
        await eventually(lambda: on_server(server, "work") == 1)
        await two.layer.flush()
        assert on_server(server, "work") == 0

    run(main)


def test_what_is_no_message_on_a_shared_queue_is_dropped_and_counted(
    site: Site, server: MemoryServer
) -> None:
    """R10."""

    async def main() -> None:
        one, two = await site.joined(2, **SHARED)
        for data in (b"", b"\xff" * 40):
            server.push("site", b"work", data, 60, 100)
        await one.layer.send("work", {"n": 1})
        assert await received(two.layer, "work") == [1]
        assert two.count("dropped_no_frame") == 2

    run(main)


def test_other_channels_stay_on_their_machine(site: Site, server: MemoryServer) -> None:
    async def main() -> None:
        one, two = await site.joined(2, **SHARED)
        await one.layer.send("local", {"n": 1})
        assert await received(one.layer, "local") == [1]
        channel = await one.layer.new_channel("work")
        await two.layer.send(channel, {"n": 2})
        assert await received(one.layer, channel) == [2]
        with pytest.raises(ValueError, match="can't be in group"):
            await one.layer.group_add("room", "work")
        assert on_server(server, "local") == 0

    run(main)


@pytest.mark.parametrize(
    ("relay", "channels", "told"),
    [
        ("memory://x", "work", "list of patterns"),
        ("memory://x", ["a!b"], "no '!'"),
        ("memory://x", [5], "pattern is a str"),
        (None, ["work"], "relay is not"),
        ("nats://x", ["work"], "can't be used with nats"),
    ],
)
def test_wrong_patterns_are_refused(relay: Any, channels: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        IPCChannelLayer(engine="memory", relay=relay, relay_channels=channels)
