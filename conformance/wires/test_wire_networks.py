"""What networks and servers do: W3, W5 and W8 behind a proxy, and on a server that fails."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
from typing import TYPE_CHECKING

import pytest

from asgi_ipc.exceptions import WireError, WireLost

from .case import eventually, in_loop, numbered, publish, within
from .proxy import OnceMangled

if TYPE_CHECKING:
    from .case import WireCase


@pytest.mark.clause("W6")
@pytest.mark.needs("network")
@in_loop
async def test_a_stream_in_single_bytes_says_the_same(wires: WireCase) -> None:
    proxy = wires.line.proxy
    assert proxy is not None
    proxy.to_client = proxy.to_server = lambda data: [bytes([byte]) for byte in data]
    listener = await wires.listener([b"t"])
    await publish(listener.wire, b"t", *numbered(30), b"end")
    assert await listener.until(b"end") == numbered(30)


@pytest.mark.clause("W3")
@pytest.mark.clause("W5")
@pytest.mark.needs("network")
@pytest.mark.parametrize("way", ["to_server", "to_client"])
@pytest.mark.parametrize("kind", ["drop", "duplicate", "reorder", "halve"])
@in_loop
async def test_a_garbled_stream_breaks_nothing_but_the_wire(
    wires: WireCase, kind: str, way: str
) -> None:
    """The wire ends, or goes on where the garbled bytes have happened to make sense."""
    proxy = wires.line.proxy
    assert proxy is not None
    dice = random.Random(f"{kind} {way}")
    for _ in range(4):
        listener = await wires.listener([b"t", b"u"], timeout=0.2)
        mangle = OnceMangled(kind, dice.randrange(3000), proxy.cut)
        setattr(proxy, way, mangle)
        try:
            for number in range(40):
                await within(publish(listener.wire, b"t", b"%d" % number + b"x" * 100))
                await within(listener.wire.subscribe([b"%d" % number]))
        except WireError:
            pass
        if kind == "halve" and mangle.done:
            await within(listener.wire.lost())
        setattr(proxy, way, None)
        await within(listener.wire.close())
    # And the next wire is as good as ever.
    listener = await wires.listener([b"t"])
    await publish(listener.wire, b"t", b"end")
    await listener.until(b"end")


@pytest.mark.clause("W3")
@pytest.mark.needs("network")
@in_loop
async def test_noise_from_the_server_ends_the_wire(wires: WireCase) -> None:
    proxy = wires.line.proxy
    assert proxy is not None
    dice = random.Random(3)
    for _ in range(4):
        listener = await wires.listener([b"t"], timeout=0.2)
        noise = dice.randbytes(dice.choice([1, 7, 500, 70_000]))
        proxy.to_client = functools.partial(_instead, noise)
        assert isinstance(await within(listener.wire.lost()), WireLost), "the next may succeed"
        proxy.to_client = None
        await within(listener.wire.close())


@pytest.mark.clause("W3")
@pytest.mark.needs("server")
@in_loop
async def test_a_server_that_is_stopped_and_goes_on_confirms_or_is_lost(wires: WireCase) -> None:
    assert wires.server is not None
    patient = await wires.listener([b"t"], timeout=60)
    hasty = await wires.listener([b"t"], timeout=0.2)
    wires.server.freeze()
    try:
        waiting = asyncio.ensure_future(patient.wire.subscribe([b"u"]))
        assert isinstance(await within(hasty.wire.lost()), WireLost)
        assert not waiting.done()
    finally:
        wires.server.thaw()
    await within(waiting)
    await publish(patient.wire, b"u", b"end")
    await patient.until(b"end")


@pytest.mark.clause("W3")
@pytest.mark.clause("W8")
@pytest.mark.needs("server")
@in_loop
async def test_a_server_that_is_killed_while_frames_pass_gets_none_twice(wires: WireCase) -> None:
    assert wires.server is not None
    publisher = await wires.listener()
    listener = await wires.listener([b"t"])
    try:
        with pytest.raises(WireLost):  # noqa: PT012 (which call it is, is chance)
            for number in itertools.count():
                await within(publish(publisher.wire, b"t", b"%d" % number))
                if number == 200:
                    wires.server.stop()
    finally:
        wires.server.stop()
        wires.server.start()
    await within(publisher.wire.lost())
    await within(listener.wire.lost())
    assert listener.payloads == numbered(len(listener.payloads))
    after = await wires.listener([b"t"])
    await publish(after.wire, b"t", b"end")
    assert await after.until(b"end") == []


@pytest.mark.clause("W3")
@pytest.mark.needs("server")
@in_loop
async def test_a_wire_whose_connection_the_server_ends_is_lost(wires: WireCase) -> None:
    kill = getattr(wires.server, "kill_clients", None)
    if kill is None:
        pytest.skip(f"the server of {wires.name} ends no connections on demand")
    listener = await wires.listener([b"t"])
    await asyncio.to_thread(kill)
    assert isinstance(await within(listener.wire.lost()), WireLost)
    await eventually(lambda: wires.line.standing == 0)


def _instead(noise: bytes, data: bytes) -> list[bytes]:
    return [noise]
