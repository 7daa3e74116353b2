"""A flush of all machines: R9."""

from __future__ import annotations

import asyncio
import re

import pytest

from asgi_ipc.exceptions import FlushIncomplete
from asgi_ipc.relay import flushes
from asgi_ipc.relay.frames import ALL, Kind, RelayFrame
from asgi_ipc.relay.memory import MemoryServer
from asgi_ipc.relay.peers import Peers
from tests.tools.machines import Site, eventually, received, run


def test_a_flush_empties_the_stores_of_all_machines(site: Site) -> None:
    async def main() -> None:
        one, two, three = await site.joined(3)
        members = [(machine, await machine.member("room")) for machine in (one, two, three)]
        for machine, channel in members:
            await machine.layer.send("work", {"n": "old"})
            await machine.layer.send(channel, {"n": "old"})
        await two.layer.flush()
        for machine, channel in members:
            assert await machine.layer.group_channels("room") == []
            assert machine.engine.statistics(b"work")["pending"] == 0
            await machine.layer.group_add("room", channel)
        for machine, _ in members:
            await eventually(lambda m=machine: m.hears("room"))  # type: ignore[misc]
        await one.layer.group_send("room", {"n": "new"})
        for machine, channel in members:
            assert await received(machine.layer, channel) == ["new"]
        # Also without an event loop.
        await asyncio.to_thread(three.layer.sync.flush)
        assert await one.layer.group_channels("room") == []

    run(main)


def test_a_relay_that_has_just_begun_waits_for_machines_that_it_has_not_heard(
    site: Site, server: MemoryServer
) -> None:
    async def main() -> None:
        one, two = await site.joined(2)
        one.end()
        one.engine.flush()  # What its former relay has told, too.
        await two.layer.send("work", {"n": "old"})
        server.set_lag(0.05)
        one.begin()
        await one.layer.flush()
        assert two.engine.statistics(b"work")["pending"] == 0

    run(main)


def test_two_flushes_at_once_both_end(site: Site) -> None:
    async def main() -> None:
        one, two = await site.joined(2)
        await asyncio.gather(one.layer.flush(), two.layer.flush(), one.layer.flush())

    run(main)


def test_machines_that_do_not_answer_are_named(
    site: Site, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flushes, "PATIENCE", 0.5)

    async def main() -> None:
        one, two = await site.joined(2)
        await eventually(one.relay_now._knows_all)
        await one.layer.send("work", {"n": 1})
        # Its relay is killed: no goodbye, and nobody takes over.
        relay = two.relay_now
        relay.outbound.say = _nothing
        two.end()
        with pytest.raises(FlushIncomplete, match=re.escape(two.node.hex())):
            await one.layer.flush()
        assert one.engine.statistics(b"work")["pending"] == 0
        server.go_away()
        await eventually(lambda: one.relay_now.state == "away")
        with pytest.raises(FlushIncomplete, match="server is away"):
            await one.layer.flush()
        one.end()
        with pytest.raises(FlushIncomplete, match=r"no process of this machine relays.*start"):
            await one.layer.flush()

    async def _nothing(*_: object) -> None:
        pass

    run(main)


def test_of_many_machines_that_do_not_answer_some_are_named() -> None:
    peers = Peers()
    for each in range(200):
        hello = RelayFrame(Kind.HELLO, each.to_bytes(5, "big"), 1, 1, 0, b"host", b"")
        peers.accept(ALL, hello, 1, 1)
    answers: list[list[str]] = []
    asked = flushes.Flushes(peers, lambda number, names: answers.append(names))
    for number in (b"one", b"two"):
        assert asked.is_new(number)
        asked.fail(number, "any machine")
    assert [(len(names), names[-1]) for names in answers] == [(21, "181 more")] * 2
