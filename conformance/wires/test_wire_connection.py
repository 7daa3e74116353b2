"""Beginning and end of a wire: W1 to W4."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from asgi_ipc.conformance.tools import patient

from asgi_ipc.exceptions import OptionError, WireError, WireLost, WireRefused

from .case import at_port, eventually, in_loop, publish, within

if TYPE_CHECKING:
    from .case import WireCase

SECRET = "s3cr3t-Pa%2Fss"
USER = f"j0hn:{SECRET}"


def made(wires: WireCase) -> int:
    """Return how many connections wires have ever made, as far as that is seen."""
    return wires.line.proxy.made if wires.line.proxy is not None else 0


def shown_credentials(text: str) -> list[str]:
    """The credentials of these tests that stand in a text."""
    return [secret for secret in ("s3cr3t", "j0hn") if secret in text]


@pytest.mark.clause("W1")
@in_loop
async def test_all_that_is_wrong_is_named_at_once_and_no_credentials(wires: WireCase) -> None:
    scheme = wires.line.url.partition("://")[0]
    url = f"{scheme}://{USER}@host.invalid:1/"
    with pytest.raises(OptionError) as caught:
        wires.make("a b", url, timeout="soon", tmeout=3)
    text = str(caught.value)
    for word in ("tmeout", "timeout", "a b", "host.invalid"):
        assert re.search(rf"\b{word}\b", text), f"it does not name {word}: {text}"
    assert not shown_credentials(text)
    for timeout in (0, -1, float("nan"), float("inf"), True):
        with pytest.raises(OptionError, match="timeout"):
            wires.make(timeout=timeout)


@pytest.mark.clause("W1")
@in_loop
async def test_a_url_of_no_server_is_refused_without_its_credentials(wires: WireCase) -> None:
    others = [f"gopher://u:{SECRET}@h", f"http://{SECRET}@h:1:2/", f"{SECRET}@h", "://", "x"]
    scheme = wires.line.url.partition("://")[0]
    for url in (*others, f"{scheme}://{USER}@no..host:1", f"{scheme}://{USER}@{64 * 'x'}:1"):
        with pytest.raises(OptionError) as caught:
            wires.make(url=url)
        assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.clause("W1")
def test_a_wire_without_queues_says_why(wires: WireCase) -> None:
    """The error of the option ``relay_channels`` ends with these words."""
    factory: Any = wires.factory
    if not factory.capabilities.queues:
        assert factory.no_queues


@pytest.mark.clause("W1")
@pytest.mark.needs("network")
@in_loop
async def test_making_a_wire_uses_no_network(wires: WireCase) -> None:
    wire = wires.make()
    await asyncio.sleep(0.02)
    assert wires.line.proxy is not None
    assert wires.line.proxy.made == 0
    await wire.close()
    with pytest.raises(WireLost):
        await wire.start(lambda topic, payload: None)


@pytest.mark.clause("W2")
@pytest.mark.needs("network")
@in_loop
async def test_without_a_server_start_raises_wire_lost(wires: WireCase) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # And never listens.
        wire = wires.make(url=at_port(wires.line.url, nobody.getsockname()[1]), timeout=0.3)
        with pytest.raises(WireLost) as caught:
            await within(wire.start(lambda topic, payload: None))
    assert "127.0.0.1" in str(caught.value), "it names the server"
    with pytest.raises(WireError):
        await publish(wire, b"t", b"")


@pytest.mark.clause("W2")
@in_loop
async def test_a_server_that_does_not_answer_is_wire_lost_and_nothing_is_left_open(
    wires: WireCase,
) -> None:
    wires.line.freeze()
    wire = wires.make(timeout=0.2)
    with pytest.raises(WireLost):
        await within(wire.start(lambda topic, payload: None))
    wires.line.thaw()
    await eventually(lambda: wires.line.standing == 0)


@pytest.mark.clause("W1")
@pytest.mark.needs("network")
@in_loop
async def test_a_wire_that_fails_shows_no_credentials(
    wires: WireCase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # And never listens.
        texts = []
        try:
            wire = wires.make(url=at_port(wires.line.url, nobody.getsockname()[1], USER))
            texts.append(repr(wire))
            await within(wire.start(lambda topic, payload: None))
        except (OptionError, WireError) as error:  # Its server may have no users.
            texts += traceback.format_exception(error)
        else:
            pytest.fail("it has connected to nobody")
    logged = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert not shown_credentials("\n".join(texts + logged))


@pytest.mark.clause("W2")
@pytest.mark.needs("network")
@in_loop
async def test_a_start_that_fails_halfway_leaves_nothing_open(wires: WireCase) -> None:
    """Each connection in turn is the one on which the server does not answer."""
    proxy = wires.line.proxy
    assert proxy is not None
    await (await wires.listener()).wire.close()
    for at in range(1, proxy.made + 1):
        proxy.silent = {proxy.made + at}
        wire = wires.make(timeout=0.5)
        with pytest.raises(WireLost):
            await within(wire.start(lambda topic, payload: None))
        await eventually(lambda: proxy.standing == 0)


@pytest.mark.clause("W2")
@pytest.mark.needs("network")
@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\xff" * 100 + b"\r\n"])
@in_loop
async def test_a_server_of_another_kind_is_refused(wires: WireCase, words: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(words)
            while await reader.read(1000):
                writer.write(words)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        wire = wires.make(url=at_port(wires.line.url, port))
        with pytest.raises(WireRefused):
            await within(wire.start(lambda topic, payload: None))


@pytest.mark.clause("W2")
@pytest.mark.clause("W9")
@in_loop
async def test_starting_can_be_cancelled_and_leaves_nothing_open(wires: WireCase) -> None:
    wires.line.freeze()
    wire = wires.make(timeout=60)
    starting = asyncio.ensure_future(wire.start(lambda topic, payload: None))
    await asyncio.sleep(0.02)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(starting)
    wires.line.thaw()
    await eventually(lambda: wires.line.standing == 0)


@pytest.mark.clause("W3")
@in_loop
async def test_a_lost_wire_says_so_and_never_connects_again(wires: WireCase) -> None:
    listener = await wires.listener([b"t"], timeout=0.2)
    before = made(wires)
    wire = listener.wire
    wires.line.cut()
    error = await within(wire.lost())
    assert isinstance(error, WireError)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: publish(wire, b"t", b""),
        lambda: wire.subscribe([b"u"]),
        lambda: wire.unsubscribe([b"t"]),
    ]
    if wire.capabilities.queues:
        calls += [
            lambda: wire.push(b"q", b"", 1, 1),
            lambda: wire.pop(b"q"),
            lambda: wire.disarm(b"q"),
            lambda: wire.length(b"q"),
            wire.clear,
        ]
    for call in calls:
        with pytest.raises(WireError, match=re.escape(str(error))):
            await within(call())
    await asyncio.sleep(0.25)  # Longer than its timeout.
    assert made(wires) == before
    other = await wires.listener([b"t"])
    await publish(other.wire, b"t", b"end")
    await other.until(b"end")
    assert listener.frames == []


@pytest.mark.clause("W3")
@in_loop
async def test_a_server_that_falls_silent_is_lost_while_nobody_calls(wires: WireCase) -> None:
    listener = await wires.listener([b"t"], timeout=0.2)
    wires.line.freeze()
    assert isinstance(await within(listener.wire.lost()), WireLost)


@pytest.mark.clause("W3")
@pytest.mark.needs("network")
@pytest.mark.parametrize("fault", ["cut", "silent"])
@in_loop
async def test_a_wire_is_lost_with_any_of_its_connections(wires: WireCase, fault: str) -> None:
    """One that goes on with the others hears nothing, or sends nothing, and nobody is told."""
    proxy = wires.line.proxy
    assert proxy is not None
    await (await wires.listener()).wire.close()
    for at in range(proxy.made):
        # A silence is noticed by the timeout, and a cut without it.
        listener = await wires.listener([b"t"], timeout=0.5 if fault == "silent" else 60)
        if fault == "silent":
            proxy.silent = {proxy.made - at}
        else:
            proxy.cut(proxy.made - at)
        assert isinstance(await within(listener.wire.lost()), WireLost)
        await listener.wire.close()


@pytest.mark.clause("W3")
@in_loop
async def test_calls_that_wait_for_a_silent_server_end_with_the_wire(wires: WireCase) -> None:
    listener = await wires.listener(timeout=0.3)
    wires.line.freeze()
    with pytest.raises(WireLost):
        await within(listener.wire.subscribe([b"t"]))


@pytest.mark.clause("W3")
@pytest.mark.parametrize("stopped", [False, True], ids=["idle", "stopped"])
@in_loop
async def test_a_wire_that_had_nothing_to_read_for_long_is_not_lost(
    wires: WireCase, stopped: bool
) -> None:
    """Neither while nobody publishes, nor while the process itself was stopped."""

    async def outlast(timeout: float) -> bool:
        listener = await wires.listener([b"t"], timeout=timeout)
        await asyncio.sleep(timeout / 3 if stopped else 2 * timeout)
        if stopped:
            time.sleep(2 * timeout)  # noqa: ASYNC251
        try:
            await publish(listener.wire, b"t", b"end")
            await within(listener.until(b"end"), 2)
        except (WireError, AssertionError, asyncio.TimeoutError):
            return False
        return True

    # On a busy machine the server may really be silent for so long.
    for timeout in (0.15, 0.6, 2.4):
        if await outlast(timeout):
            return
        if timeout > patient(timeout):
            break
    pytest.fail("it was lost each time")


@pytest.mark.clause("W4")
@in_loop
async def test_close_ends_waiting_calls_and_can_be_called_again(wires: WireCase) -> None:
    listener = await wires.listener([b"t"])
    wire = listener.wire
    lost = asyncio.ensure_future(wire.lost())
    wires.line.freeze()
    waiting = asyncio.ensure_future(wire.subscribe([b"u"]))
    await asyncio.sleep(0.01)
    await within(wire.close())
    assert isinstance(await within(lost), WireLost)
    with pytest.raises(WireLost):
        await within(waiting)
    await within(wire.close())
    with pytest.raises(WireLost):
        await publish(wire, b"t", b"")
    wires.line.thaw()
    await eventually(lambda: wires.line.standing == 0)


@pytest.mark.clause("W4")
@in_loop
async def test_close_ends_a_start_that_waits_for_the_server(wires: WireCase) -> None:
    wires.line.freeze()
    wire = wires.make(timeout=60)
    starting = asyncio.ensure_future(wire.start(lambda topic, payload: None))
    await asyncio.sleep(0.02)
    await within(wire.close())
    with pytest.raises(WireLost):
        await within(starting)
    wires.line.thaw()
    await eventually(lambda: wires.line.standing == 0)


@pytest.mark.clause("W4")
@in_loop
async def test_nothing_is_heard_after_close(wires: WireCase) -> None:
    listener, publisher = await wires.listener([b"t"]), await wires.listener([b"t"])
    await publish(publisher.wire, b"t", *[b"x"] * 100)
    await listener.wire.close()
    heard = len(listener.frames)
    await publish(publisher.wire, b"t", b"end")
    await publisher.until(b"end")
    await asyncio.sleep(0.01)
    assert len(listener.frames) == heard
