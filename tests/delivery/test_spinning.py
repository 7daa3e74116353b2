"""Spinning for a message instead of sleeping: when, for how long, and that nothing is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_ipc import (
    IPCChannelLayer,
    StoreUnavailable,
    SyncIPCChannelLayer,
)
from asgi_ipc.delivery import (
    loop_listener,
    spinning,
    thread_listener,
)
from asgi_ipc.delivery.spinning import LIMIT, Spinner
from asgi_ipc.engines.base import Bell
from conformance.forks import wait
from tests.tools.doubles import (
    CountingEngine,
    engine,
    in_thread,
    patient,
    run,
)
from tests.tools.layers import demux_of


class Peeking(CountingEngine):
    """Counts looks, and how often a bell was armed."""

    def peek(self, queue: bytes) -> bool:
        self.calls["peek"] += 1
        return super().peek(queue)

    def pop(self, queue: bytes, limit: int = 1, bell: Bell | None = None) -> Any:
        self.calls["armed"] += bell is not None
        return super().pop(queue, limit, bell)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every receiver spins until something comes, also on one processor."""
    monkeypatch.setattr(Spinner, "worth_it", lambda self: not self.busy)
    for module in (loop_listener, thread_listener):
        monkeypatch.setattr(module, "LIMIT", 1e6)


@pytest.fixture(params=["async", "sync"])
def side(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A blocking receive on a layer, and the layer."""
    layer = patient(IPCChannelLayer(engine=engine(Peeking)))

    def receive(channel: str) -> dict[str, Any]:
        if request.param == "async":
            return run(layer.receive(channel))
        message: dict[str, Any] = layer.sync.receive([channel], block=True)[1]
        return message

    yield layer, receive
    layer.sync.close()


# When


def waited(spinner: Spinner, seconds: float, times: int = 1) -> None:
    for _ in range(times):
        spinner.waited(time.monotonic() - seconds)


def test_spinning_is_worth_it_after_some_short_waits_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spinning, "_POSSIBLE", True)
    spinner = Spinner()
    waited(spinner, 0, 3)
    assert not spinner.worth_it()
    waited(spinner, 2 * LIMIT)
    waited(spinner, 0, 3)
    assert not spinner.worth_it(), "a long one in between"
    waited(spinner, 0)
    assert spinner.worth_it()
    spinner.busy = True
    assert not spinner.worth_it()
    spinner.busy = False
    spinner.wasted()
    assert not spinner.worth_it()


def test_spinning_is_never_worth_it_on_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spinning, "_POSSIBLE", False)
    spinner = Spinner()
    waited(spinner, 0, 100)
    assert not spinner.worth_it()


@pytest.mark.parametrize("refused", ["sched_yield", "sched_getaffinity"])
def test_a_system_that_refuses_a_call_of_the_scheduler_is_asked_once(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, refused, refuse)
    assert spinning._possible() is (refused == "sched_getaffinity")


def test_a_receiver_that_waits_long_never_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spinning, "_POSSIBLE", True)
    layer = patient(IPCChannelLayer(engine=engine(Peeking)))

    def send_at_leisure() -> None:
        for _ in range(24):
            time.sleep(0.02)
            layer.sync.send("x", {})

    async def receive() -> None:
        for _ in range(12):
            await layer.receive("x")

    thread = in_thread(send_at_leisure)
    for _ in range(12):
        assert layer.sync.receive(["x"], block=True)[0] == "x"
    run(receive())
    thread.join(60)
    assert demux_of(layer).engine.calls["peek"] == 0
    layer.sync.close()


# How


@pytest.mark.usefixtures("always")
def test_a_spinning_receiver_arms_no_bell(side: Any) -> None:
    layer, receive = side
    got: list[Any] = []
    for number in range(20):
        thread = in_thread(lambda: got.append(receive("x")))
        calls = demux_of(layer).engine.calls
        before = calls["peek"]
        while calls["peek"] < before + 3:
            time.sleep(0.001)
        layer.sync.send("x", {"n": number})
        thread.join(60)
    assert got == [{"n": number} for number in range(20)]
    assert calls["armed"] == 0


@pytest.mark.usefixtures("always", "way")
def test_the_loop_runs_while_one_receiver_spins_and_the_next_waits_by_its_bell() -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine(Peeking)))
        own = [await layer.new_channel() for _ in range(3)]
        tasks = [asyncio.ensure_future(layer.receive(each)) for each in (*own, "a", "b")]
        for _ in range(50):
            await asyncio.sleep(0)
        # Only the first of them all spins.
        assert demux_of(layer).loops[id(asyncio.get_running_loop())]._spinner.busy
        assert demux_of(layer).engine.calls["armed"] >= 3
        for number, channel in enumerate((*own[::-1], "b", "a")):
            await layer.send(channel, {"n": number})
        assert [each["n"] for each in await asyncio.gather(*tasks)] == [2, 1, 0, 4, 3]
        await layer.close()

    run(main())


@pytest.mark.usefixtures("always", "way")
def test_a_message_that_another_receiver_fetched_is_seen() -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine(Peeking)))
        first, second = await layer.new_channel(), await layer.new_channel()
        looking = asyncio.ensure_future(layer.receive(first))
        await asyncio.sleep(0)
        layer.sync.send(first, {"n": 1})
        layer.sync.send(second, {"n": 2})
        # Before the other gets its turn; its message lies behind the first one's.
        assert await layer.receive(second) == {"n": 2}
        assert await looking == {"n": 1}
        await layer.close()

    run(main())


@pytest.mark.usefixtures("always", "way")
@pytest.mark.parametrize("specific", [False, True])
def test_a_cancelled_spin_loses_nothing_and_the_next_receiver_may_spin(specific: bool) -> None:
    async def main() -> None:
        layer = patient(IPCChannelLayer(engine=engine(Peeking)))
        channel = await layer.new_channel() if specific else "x"
        for number in range(50):
            looking = asyncio.ensure_future(layer.receive(channel))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            await layer.send(channel, {"n": number})
            looking.cancel()
            got: Any
            (got,) = await asyncio.gather(looking, return_exceptions=True)
            if isinstance(got, asyncio.CancelledError):
                assert await layer.receive(channel) == {"n": number}
            else:
                assert got == {"n": number}
        await layer.close()

    run(main())


def test_a_receiver_that_has_spun_for_a_while_sleeps_and_is_woken(
    side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spinner, "worth_it", lambda self: not self.busy)
    layer, receive = side
    calls = demux_of(layer).engine.calls
    got: list[Any] = []
    for number in range(5):
        before = calls["armed"]
        thread = in_thread(lambda: got.append(receive("x")))
        while calls["armed"] == before:
            time.sleep(0.001)
        assert calls["peek"]
        layer.sync.send("x", {"n": number})
        thread.join(60)
    assert got == [{"n": number} for number in range(5)]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("what", ["layer", "engine"])
def test_spinning_ends_when_its_layer_or_its_engine_is_closed(side: Any, what: str) -> None:
    """A layer to which an engine was passed in leaves that open."""
    layer, receive = side
    store = demux_of(layer).engine
    raised: list[str] = []

    def spin() -> None:
        try:
            receive("x")
        except StoreUnavailable as error:
            raised.append(str(error))

    thread = in_thread(spin)
    while not store.calls["peek"]:
        time.sleep(0.001)
    (layer.sync if what == "layer" else store).close()
    thread.join(60)
    assert len(raised) == 1


@pytest.mark.parametrize("spins", [False, True])
def test_threads_that_pass_a_message_around_all_make_progress(
    spins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spins:
        monkeypatch.setattr(Spinner, "worth_it", lambda self: True)
    layer = patient(SyncIPCChannelLayer(engine=engine()))
    rounds = 300

    def player(mine: str, other: str) -> None:
        for _ in range(rounds):
            _, ball = layer.receive([mine], block=True)
            assert ball is not None
            layer.send(other, ball)

    threads = [in_thread(player, f"p{n}", f"p{(n + 1) % 4}") for n in range(4)]
    for number in range(2):
        layer.send("p0", {"n": number})
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    layer.close()


# Between processes


@pytest.mark.parametrize("spins", [None, True])
@pytest.mark.parametrize("name", ["posix", "sysv", "mmap"])
def test_a_message_passed_between_processes_is_never_lost_whether_they_spin_or_sleep(
    name: str, spins: bool | None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every pace around that at which they begin to spin, and cease to."""
    if spins:
        monkeypatch.setattr(Spinner, "worth_it", lambda self: not self.busy)
    options: dict[str, Any] = {"engine": name, "engine_options": {"directory": str(tmp_path)}}
    prefix = f"spin{secrets.token_hex(4)}"
    rounds = 600

    def play_back() -> None:
        layer = SyncIPCChannelLayer(prefix, **options)
        demux_of(layer).look_again = 1000.0
        for number in range(rounds):
            _, ball = layer.receive(["there"], block=True)
            assert ball == {"n": number}
            layer.send("back", ball)
        layer.close()

    async def play() -> None:
        layer = patient(IPCChannelLayer(prefix, **options))
        for number in range(rounds):
            await layer.send("there", {"n": number})
            assert await layer.receive("back") == {"n": number}
            if number % 7 == 0:
                await asyncio.sleep(number % 50 / 50 * 2 * LIMIT)

    child = os.fork()
    if not child:
        status = 1
        try:
            play_back()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    try:
        run(play())
        assert wait(child) == 0
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        SyncIPCChannelLayer(prefix, **options).destroy()
    assert os.listdir(tmp_path) == []
