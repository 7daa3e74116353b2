"""A flush of all machines: R9."""

from __future__ import annotations

import asyncio
import gc
import re

import pytest

from asgi_ipc.exceptions import FlushIncomplete, WireRefused
from asgi_ipc.relay import flushes, relay
from asgi_ipc.relay.frames import ALL, Kind, RelayFrame
from asgi_ipc.relay.memory import MemoryServer, MemoryWire
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
    site: Site, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SETTLED", 3.0)

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


def test_a_server_that_does_not_empty_the_shared_channels_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines confirm before the server refuses, or afterwards; neither hides the reason."""

    takes = {"seconds": 0.0}

    async def refuses(_: MemoryWire) -> None:
        await asyncio.sleep(takes["seconds"])
        raise WireRefused("NOPERM this user has no permissions to run the 'eval' command")

    monkeypatch.setattr(MemoryWire, "clear", refuses)

    async def main() -> None:
        one, two = await site.joined(2, relay_channels=["work"])
        await eventually(one.relay_now._knows_all)
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: errors.append(told))
        for seconds in (0.0, 0.3):
            takes["seconds"] = seconds
            await two.layer.send("here", {"n": 1})
            with pytest.raises(FlushIncomplete, match=r"did not empty the shared.*NOPERM"):
                await one.layer.flush()
            await eventually(lambda: two.engine.statistics(b"here")["pending"] == 0)
        gc.collect()
        assert errors == []

    run(main)


def test_machines_and_the_server_that_do_not_answer_are_both_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flushes, "PATIENCE", 0.5)

    async def hangs(_: MemoryWire) -> None:
        await asyncio.sleep(100)

    monkeypatch.setattr(MemoryWire, "clear", hangs)

    async def main() -> None:
        one, two = await site.joined(2, relay_channels=["work"])
        await eventually(one.relay_now._knows_all)
        two.relay_now.inbound._act = lambda frame: None
        told = rf"{re.escape(two.node.hex())}.*did not empty the shared.*did not answer in time"
        with pytest.raises(FlushIncomplete, match=told):
            await one.layer.flush()

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


def test_of_many_machines_that_do_not_answer_some_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flushes, "PATIENCE", 0.0)
    peers = Peers()
    for each in range(200):
        hello = RelayFrame(Kind.HELLO, each.to_bytes(5, "big"), 1, 1, 0, b"host", b"")
        peers.accept(ALL, hello, 1, 1)
    answers: list[str] = []
    asked = flushes.OwnFlushes(peers, lambda number, missing: answers.append(missing))
    for number in (b"one", b"two"):
        assert asked.ask(number)
        asked.begin(number)
        asked.end_finished()
    assert [(told.count("host"), "180 more)" in told) for told in answers] == [(20, True)] * 2
