"""The synchronous layer, beyond what the conformance suite holds every engine to."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
import time
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, StoreUnavailable, SyncIPCChannelLayer
from tests.tools.doubles import (
    KINDS,
    PATIENCE,
    CountingEngine,
    engine,
    fresh,
    in_thread,
    patient,
    run,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channel", ["c", "x!", "mine"])
def test_a_blocking_receive_is_woken(kind: Any, channel: str) -> None:
    layer = SyncIPCChannelLayer(engine=engine(kind))
    if channel == "mine":
        channel = f"specific.{layer.client_prefix}!"
    sent_to = channel + "local" if channel.endswith("!") else channel
    threading.Timer(0.1, layer.send, (sent_to, {"n": 1})).start()
    assert layer.receive([channel, "other"], block=True) == (sent_to, {"n": 1})
    assert layer.receive([channel, "other"]) == (None, None)
    layer.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_blocking_receive_ends_with_its_timeout(kind: Any) -> None:
    layer = SyncIPCChannelLayer(engine=engine(kind))
    for timeout in (0, -1, 0.05, 1.2):
        began = time.monotonic()
        assert layer.receive(["c", "x!"], block=True, timeout=timeout) == (None, None)
        assert time.monotonic() - began >= timeout
    for bad in ("1", True, float("nan")):
        with pytest.raises(ValueError, match="timeout is"):
            layer.receive(["c"], block=True, timeout=bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="timeout is"):
            layer.receive(["c"], timeout=bad)  # type: ignore[arg-type]
    layer.close()


def test_what_is_not_a_list_of_readable_channels_is_refused() -> None:
    layer = SyncIPCChannelLayer(engine=engine())
    for channels in ("abc", b"abc", 5, None):
        with pytest.raises(TypeError):
            layer.receive(channels)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="channel name"):
        layer.receive(["a b"])
    with pytest.raises(ValueError, match="must end there, as x!"):
        layer.receive(["c", "x!local"])
    with pytest.raises(ValueError, match="belongs to process"):
        layer.receive(["specific." + "ab" * 16 + "!"])
    assert layer.receive([]) == (None, None)
    assert layer.receive(("c",)) == (None, None)
    layer.close()


@pytest.mark.parametrize("kind", KINDS)
def test_of_no_channels_at_all_there_is_nothing_to_wait_for(kind: Any) -> None:
    layer = SyncIPCChannelLayer(engine=engine(kind))
    # For type checkers this call returns a message: they can't tell that the list is empty.
    assert layer.receive([], block=True) == (None, None)  # type: ignore[comparison-overlap]
    assert layer.receive(iter(()), block=True, timeout=1e9) == (None, None)
    layer.close()


def test_a_busy_channel_does_not_starve_a_quiet_one() -> None:
    layer = SyncIPCChannelLayer(engine=engine())
    for _ in range(50):
        layer.send("busy", {})
        layer.send("x!busy", {})
    layer.send("quiet", {})
    got = [layer.receive(["busy", "x!", "quiet"])[0] for _ in range(6)]
    assert sorted(map(str, got[:3])) == ["busy", "quiet", "x!busy"]
    layer.close()


@pytest.mark.parametrize(
    "pattern", ["test!", "test.foo", "?", "a?b", "a b?", "x" * 68 + "?", 5, b"a?"]
)
def test_a_pattern_that_makes_no_channel_is_refused(pattern: Any) -> None:
    layer = SyncIPCChannelLayer(engine=engine())
    with pytest.raises(TypeError, match="pattern of a new channel"):
        layer.new_channel(pattern)
    layer.close()


def test_new_channels_end_the_pattern_and_are_never_the_same() -> None:
    layer = SyncIPCChannelLayer(engine=engine())
    names = {layer.new_channel("http.response?") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("http.response?") and name[14:] for name in names)
    name = names.pop()
    layer.send(name, {"n": 1})
    assert layer.receive([name]) == (name, {"n": 1})
    layer.close()


def test_old_names_still_work() -> None:
    layer = SyncIPCChannelLayer(engine=engine())
    layer.group_add("g", "c")
    layer.send_group("g", {"n": 1})
    with pytest.warns(DeprecationWarning, match="receive"):
        assert layer.receive_many(["c"]) == ("c", {"n": 1})
    layer.close()


def test_messages_of_a_queue_come_in_the_order_of_sending_whatever_their_channel() -> None:
    layer = SyncIPCChannelLayer(engine=engine())
    mine = f"specific.{layer.client_prefix}!"
    sent = [(f"{mine}{local}", {"n": number}) for number, local in enumerate("abcbacab")]
    for channel, message in sent:
        layer.send(channel, message)
    assert [layer.receive([mine]) for _ in sent] == sent
    layer.close()


@pytest.mark.parametrize("kind", KINDS[:2])
def test_what_one_layer_sends_the_other_receives(kind: Any) -> None:
    layer = IPCChannelLayer(engine=engine(kind))
    sync = layer.sync
    assert layer.sync is sync
    channel = run(layer.new_channel())
    sync.send(channel, {"n": 1})
    sync.send("c", {"n": 2})

    async def main() -> None:
        assert await layer.receive(channel) == {"n": 1}
        assert await layer.receive("c") == {"n": 2}
        task = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(sync.send, channel, {"n": 3})
        assert await asyncio.wait_for(task, PATIENCE) == {"n": 3}
        await layer.send("d", {"n": 4})

    run(main())
    assert sync.receive(["d"]) == ("d", {"n": 4})
    sync.close()


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_thread_and_a_loop_share_a_process_specific_queue(kind: Any) -> None:
    """The one that fetches wakes the other, and the one that leaves hands over to it."""
    layer = patient(IPCChannelLayer(engine=engine(kind), capacity=1000))
    sync = layer.sync
    channel = run(layer.new_channel())
    queue = channel[: channel.index("!") + 1]
    got: list[Any] = []

    def thread() -> None:
        got.extend(sync.receive([queue], block=True)[1] for _ in range(5))

    async def main() -> None:
        task = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0.05)
        worker = in_thread(thread)
        await asyncio.sleep(0.05)
        for number in range(6):
            await layer.send(queue + "other", {"n": number})
            await asyncio.sleep(0.01)
        # The thread wanted five; there is one too many, and the loop is still served.
        await asyncio.to_thread(worker.join, PATIENCE)
        await layer.send(channel, {"mine": True})
        assert await asyncio.wait_for(task, PATIENCE) == {"mine": True}

    run(main())
    assert got == [{"n": number} for number in range(5)]
    assert sync.receive([queue]) == (queue + "other", {"n": 5})
    sync.close()


def test_a_thread_that_leaves_passes_the_signal_to_another_process() -> None:
    """Two engines on one store stand for two processes (E14)."""
    prefix = fresh()
    sizes = {"channel_memory": 10**6, "group_memory": 10**6}
    one = patient(SyncIPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
    two = patient(SyncIPCChannelLayer(engine=CountingEngine(prefix, **sizes)))
    for channel in ("c", "x!"):
        got: list[Any] = []
        first = in_thread(functools.partial(one.receive, [channel], block=True, timeout=0.3))
        time.sleep(0.1)
        second = in_thread(lambda c=channel, got=got: got.append(two.receive([c], block=True)))
        first.join(PATIENCE)
        one.send(channel, {})
        second.join(PATIENCE)
        assert got == [(channel, {})]
    one.close()
    two.close()


@pytest.mark.parametrize("channel", ["c", "x!"])
def test_closing_wakes_a_thread_that_waits(channel: str) -> None:
    layer = patient(SyncIPCChannelLayer(fresh(), engine="memory"))
    errors: list[Exception] = []

    def wait() -> None:
        try:
            layer.receive([channel], block=True)
        except StoreUnavailable as error:
            errors.append(error)

    thread = in_thread(wait)
    demux = layer._core.demux
    while not (demux.threads and demux.threads[0].bell):
        time.sleep(0.01)
    time.sleep(0.1)
    layer._core.close()
    thread.join(PATIENCE)
    assert len(errors) == 1


def test_threads_that_ended_leave_no_descriptors_behind() -> None:
    layer = SyncIPCChannelLayer(engine=engine())

    def wait() -> None:
        layer.receive(["c"], block=True, timeout=0.01)

    in_thread(wait).join(PATIENCE)
    before = len(os.listdir("/dev/fd"))
    for _ in range(10):
        in_thread(wait).join(PATIENCE)
    assert len(os.listdir("/dev/fd")) <= before + 2
    layer.close()


def test_an_interrupt_ends_a_blocking_receive_and_loses_nothing() -> None:
    layer = SyncIPCChannelLayer(engine=engine())

    def interrupted() -> None:
        # It may come before the call.
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        layer.receive(["c", "x!"], block=True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    layer.send("c", {"n": 1})
    assert layer.receive(["c", "x!"], block=True) == ("c", {"n": 1})
    layer.close()
