"""The option relay: who relays (R7), and what the options must be."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, OptionError, SyncIPCChannelLayer
from asgi_ipc.delivery.loop_listener import LoopListener
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.exceptions import StoreUnavailable
from asgi_ipc.layers import candidate as candidates
from asgi_ipc.layers.local_machine import LocalMachine
from conformance import forks
from tests.tools.holders import answering, stop_outside
from tests.tools.machines import eventually, new_server, run
from tests.tools.relays import (
    DEDICATED,
    RELAY,
    RelayThread,
    engine_beside,
    report,
    shown_states,
    vacate,
)

SITE = """
import asyncio, sys
from asgi_ipc import IPCChannelLayer
from asgi_ipc.layers import candidate

candidate.SERVES = 0.0
async def main():
    layer = IPCChannelLayer("site", engine="mmap", engine_options={"directory": sys.argv[1]},
                            relay="redis://127.0.0.1:9", channel_memory=1 << 20,
                            group_memory=1 << 20)
    print("serves", flush=True)
    await layer.receive(await layer.new_channel())
asyncio.run(main())
"""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[dict[str, Any]]:
    made: dict[str, Any] = {
        "prefix": "site",
        "engine": "mmap",
        "engine_options": {"directory": str(tmp_path)},
        "channel_memory": 1 << 20,
        "group_memory": 1 << 20,
    }
    yield made
    SyncIPCChannelLayer(**made).destroy()
    assert list(tmp_path.iterdir()) == []


def open_layer(config: dict[str, Any], url: str) -> IPCChannelLayer:
    """Open a layer whose receivers look often, which is when a process may begin to relay."""
    layer = IPCChannelLayer(**config, relay=url)
    layer._core.demux.look_again = 0.1
    return layer


def _relays_here(layer: IPCChannelLayer) -> bool:
    candidate = layer._core.demux.companions[candidates.Candidate]
    return isinstance(candidate, candidates.Candidate) and candidate.thread is not None


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process relays as soon as a receiver waits in it."""
    monkeypatch.setattr(candidates, "SERVES", 0.0)


@pytest.mark.parametrize(
    ("relay", "relay_options", "told"),
    [
        (5, None, "relay is 5"),
        ("", None, "URL of a server"),
        ("gopher://x", None, "gopher"),
        ("memory://x", 5, "must be a dict"),
        ("memory://x", {"backlog": 5}, "2 MiB"),
        ("memory://x", {"backlog": True}, "backlog"),
        ("memory://x", {"backlog": 1 << 40}, "more than channel_memory"),
        ("memory://x", {"timeoud": 5}, "did you mean 'timeout'"),
        ("memory://x", {"keys": ["short"]}, "64 hexadecimal digits"),
        (None, {"timeout": 5}, "relay is not"),
        ("rediss://u:s3cr3t@x?ssl_cert_reqs=none", None, r"'ca_file'.*'check_hostname'"),
        ("rediss://x?db=1&ssl_ca_certs=/x.pem", None, r"'ssl_ca_certs'.*'ca_file'"),
        ("nats://x?timeout=5", None, r"relay_options\['timeout'\]"),
    ],
)
def test_wrong_options_are_refused_by_name(relay: Any, relay_options: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told) as caught:
        IPCChannelLayer(engine="memory", relay=relay, relay_options=relay_options)
    assert "s3cr3t" not in str(caught.value)


def test_an_engine_without_what_a_relay_needs_is_refused() -> None:
    class Plain(MemoryEngine):
        capabilities = MemoryEngine.capabilities._replace(roles=False, inspects=False)

    with pytest.raises(OptionError, match=r"lacks roles, inspects.*'posix'"):
        IPCChannelLayer(engine=Plain, relay="memory://x")


def test_credentials_are_not_shown() -> None:
    with pytest.raises(OptionError) as caught:
        IPCChannelLayer(engine="memory", relay="memory://user:secret@x", relay_options={"a": 1})
    assert "secret" not in str(caught.value)


def test_two_servers_for_one_store_are_refused() -> None:
    layer = IPCChannelLayer("two", engine="memory", relay="memory://x")
    with pytest.raises(OptionError, match=r"memory://y.*memory://x"):
        IPCChannelLayer("two", engine="memory", relay="memory://y")
    layer.sync.close()


def test_nothing_of_relays_is_imported_without_the_option() -> None:
    code = (
        "import sys, asgi_ipc; layer = asgi_ipc.SyncIPCChannelLayer('no', engine='memory');"
        "layer.send('a', {}); layer.close();"
        "assert not [m for m in sys.modules if m.startswith('asgi_ipc.relay')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_process_relays_once_a_receiver_has_waited_and_until_its_layer_is_closed(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "SERVES", 0.5)
    url, server = new_server()

    async def main() -> None:
        layer = open_layer(config, url)
        engine = layer._core.demux.engine
        await layer.send("a", {})
        await layer.receive("a")
        await asyncio.sleep(0.7)
        assert not engine.is_held(RELAY), "it sends and receives, and does not wait"
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: server.connections == 1)
        assert engine.is_held(RELAY)
        waiting.cancel()
        await layer.close()
        assert server.connections == 0
        assert "asgi_ipc relay" not in [thread.name for thread in threading.enumerate()]
        # It is opened again, and relays again.
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: server.connections == 1)
        waiting.cancel()
        await layer.close()

    run(main)


def seldom_looking(config: dict[str, Any], url: str) -> IPCChannelLayer:
    """Open a layer that does nothing by itself within the time of a test unless it is woken."""
    layer = IPCChannelLayer(**config, relay=url)
    layer._core.demux.look_again = 1000.0
    return layer


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process looks for the role only when it is woken."""
    monkeypatch.setattr(candidates, "_LOOK", 1000.0)


def test_a_process_relays_soon_after_a_first_receiver_waits(config: dict[str, Any]) -> None:
    """A machine is deaf until it does: it must not wait for a periodic check."""
    url, server = new_server()

    async def main() -> None:
        layer = seldom_looking(config, url)
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: server.connections == 1)
        waiting.cancel()
        await layer.close()

    run(main)


@pytest.mark.parametrize("found", [10, 100])
@pytest.mark.parametrize("kind", ["ordinary", "process-specific"])
def test_a_process_relays_although_its_receivers_always_find_messages(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: str, found: int
) -> None:
    """Else the machine of a site that is overloaded would be deaf for as long."""
    url, server = new_server()

    async def main() -> None:
        layer = open_layer(config, url)
        channel = "a" if kind == "ordinary" else await layer.new_channel()

        def waits(listener: object) -> None:
            raise AssertionError("a receiver waits")

        async def work() -> None:
            while True:
                for _ in range(found):
                    await layer.send(channel, {})
                for _ in range(found):
                    await layer.receive(channel)
                await asyncio.sleep(0.02)

        monkeypatch.setattr(LoopListener, "_waiter", waits)
        working = asyncio.create_task(work())
        await eventually(lambda: working.done() or server.connections == 1)
        assert not working.done()
        working.cancel()
        await layer.close()

    run(main)


@pytest.mark.parametrize("between", ["nothing", "receivers are away", "its loop ends"])
def test_a_process_relays_although_its_loop_is_overloaded_and_looks_late(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """But a process that asks something in passing, again and again, does not."""
    layer = IPCChannelLayer(**config, relay=new_server()[0])
    demux = layer._core.demux
    candidate = demux.companions[candidates.Candidate]
    assert isinstance(candidate, candidates.Candidate)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bells = [demux.engine.bell(), demux.engine.bell()]
    began: list[object] = []
    monkeypatch.setattr(candidate, "_begin", began.append)
    candidate.tick(True, bells[0])
    if between == "receivers are away":
        now += 1.0
        candidate.tick(False, bells[0])
    now += 10.0
    candidate.tick(True, bells[between == "its loop ends"])
    assert bool(began) is (between == "nothing")
    for bell in bells:
        bell.close()
    asyncio.run(layer.close())


@pytest.mark.usefixtures("soon", "no_looks")
def test_a_relay_that_ends_in_order_wakes_a_process_that_takes_over(config: dict[str, Any]) -> None:
    url, server = new_server()

    async def main() -> None:
        first = engine_beside(config)
        assert first.hold(RELAY)
        layer = seldom_looking(config, url)
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: _heeds(layer))
        machine = LocalMachine(layer._core.demux, layer._core.options)
        machine.engine = first
        relay = RelayThread(machine, layer._core.options.relay)  # type: ignore[arg-type]
        relay.start()
        await eventually(lambda: server.connections == 1)
        assert not _relays_here(layer)
        relay.stop()
        await eventually(lambda: _relays_here(layer) and server.connections == 1)
        first.close()
        waiting.cancel()
        await layer.close()

    run(main)


@pytest.mark.usefixtures("soon")
def test_a_process_takes_over_from_one_that_wakes_nobody_before_the_periodic_check(
    config: dict[str, Any],
) -> None:
    """As one that is killed: uvicorn ends its workers by the signal that they got."""

    async def main() -> None:
        held = engine_beside(config)
        assert held.hold(RELAY)
        layer = seldom_looking(config, new_server()[0])
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: _heeds(layer))
        held.release(RELAY)
        await eventually(lambda: _relays_here(layer))
        held.close()
        waiting.cancel()
        await layer.close()

    run(main)


@pytest.mark.usefixtures("soon", "no_looks")
@pytest.mark.parametrize("how", ["its receiver left", "it closed its layer"])
def test_a_process_that_is_woken_and_serves_no_more_wakes_the_next(
    config: dict[str, Any], how: str
) -> None:
    url, _ = new_server()

    async def main() -> None:
        held = engine_beside(config)
        assert held.hold(RELAY)
        # In this process all layers on a store share what listens, so the other has another engine.
        other = IPCChannelLayer(
            "site", engine=engine_beside(config), relay=url, **_sizes_of(config)
        )
        other._core.demux.look_again = 1000.0
        leaving = asyncio.create_task(other.receive("a"))
        await eventually(lambda: _heeds(other))
        layer = seldom_looking(config, url)
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: _heeds(layer))
        leaving.cancel()
        await asyncio.sleep(0)
        held.release(RELAY)
        vacate(held)
        if how == "it closed its layer":
            other.sync.close()
        await eventually(lambda: _relays_here(layer))
        waiting.cancel()
        await layer.close()
        await other.close()
        other._core.options.engine.close()
        held.close()

    run(main)


def _heeds(layer: IPCChannelLayer) -> bool:
    candidate = layer._core.demux.companions[candidates.Candidate]
    return isinstance(candidate, candidates.Candidate) and bool(candidate._armed)


def _sizes_of(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("channel_memory", "group_memory")}


@pytest.mark.usefixtures("soon")
def test_a_process_that_can_start_no_thread_says_so_once_and_pauses(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R10."""
    tried: list[None] = []

    def start(thread: RelayThread) -> None:
        tried.append(None)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(RelayThread, "start", start)
    monkeypatch.setattr(candidates, "_REST", 0.0)

    async def main() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        layer = open_layer(config, new_server()[0])
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: tried)
        await asyncio.sleep(0.3)
        assert not complaints
        assert len(tried) == 1, "the next look is later"
        assert not layer._core.demux.engine.is_held(RELAY)
        waiting.cancel()
        await layer.close()

    run(main)
    assert sum("can't start new thread" in (each.exc_text or "") for each in caplog.records) == 1


@pytest.mark.usefixtures("soon")
def test_a_process_that_is_interrupted_as_it_begins_to_relay_keeps_no_role(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler raises."""
    machines, failed = LocalMachine, [ZeroDivisionError]

    def interrupted(*arguments: Any) -> LocalMachine:
        if failed:
            raise failed.pop()
        return machines(*arguments)

    monkeypatch.setattr(candidates, "LocalMachine", interrupted)
    url, server = new_server()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: None)
        layer = open_layer(config, url)
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: server.connections == 1)
        waiting.cancel()
        await layer.close()

    run(main)


@pytest.mark.usefixtures("soon")
def test_a_process_that_is_interrupted_as_its_relay_has_begun_keeps_it(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler raises."""
    start, started = RelayThread.start, list[RelayThread]()

    def interrupted(thread: RelayThread) -> None:
        start(thread)
        started.append(thread)
        raise ZeroDivisionError

    monkeypatch.setattr(RelayThread, "start", interrupted)
    url, server = new_server()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: None)
        layer = open_layer(config, url)
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: server.connections == 1)
        assert layer._core.demux.engine.is_held(RELAY)
        waiting.cancel()
        await layer.close()
        assert [each.is_alive() for each in started] == [False], "it was told to end"

    run(main)


@pytest.mark.usefixtures("soon")
def test_a_signal_handler_may_close_the_layer_while_its_process_begins_to_relay(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = LocalMachine
    url, server = new_server()

    async def main() -> None:
        layer = open_layer(config, url)
        engine = engine_beside(config)

        def interrupted(*arguments: Any) -> LocalMachine:
            layer.sync.close()
            return machines(*arguments)

        monkeypatch.setattr(candidates, "LocalMachine", interrupted)
        with pytest.raises(StoreUnavailable):
            await layer.receive("a")
        assert not engine.is_held(RELAY)
        assert server.connections == 0
        engine.close()

    run(main)


def test_a_loop_arms_its_bell_while_that_of_another_thread_disarms_its_own(
    config: dict[str, Any],
) -> None:
    layer = open_layer(config, new_server()[0])
    demux = layer._core.demux
    candidate: Any = demux.companions[candidates.Candidate]
    one, other = demux.engine.bell(), demux.engine.bell()

    class Closed:
        def fileno(self) -> int:
            candidate._disarm(other)
            return -1

    candidate._arm(other)
    candidate._armed = {0: Closed(), **candidate._armed}
    candidate._arm(one)
    assert list(candidate._armed.values()) == [one]
    layer.sync.close()


@pytest.mark.usefixtures("soon")
def test_two_stores_in_the_memory_of_one_process_are_joined_too() -> None:
    """As a test of a site may want them."""
    url, _ = new_server()

    async def main() -> None:
        layers = []
        for name in ("one", "two"):
            engine = MemoryEngine(name, channel_memory=1 << 20, group_memory=1 << 20)
            layers.append(IPCChannelLayer("site", engine=engine, relay=url))
            layers[-1]._core.demux.look_again = 0.1
        channels = [await layer.new_channel() for layer in layers]
        waiting = [
            asyncio.create_task(layer.receive(channel))
            for layer, channel in zip(layers, channels, strict=True)
        ]
        engines = [layer._core.demux.engine for layer in layers]
        await eventually(lambda: all(shown_states(engine) == ["heard"] for engine in engines))
        await layers[0].send(channels[1], {"n": 1})
        assert await waiting[1] == {"n": 1}
        waiting[0].cancel()
        for layer in layers:
            await layer.destroy()

    run(main)


@pytest.mark.usefixtures("soon")
def test_a_command_does_not_relay(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_ipc.layers.options.may_relay", False)
    url, server = new_server()

    async def main() -> None:
        layer = open_layer(config, url)
        waiting = asyncio.create_task(layer.receive("a"))
        await asyncio.sleep(0.5)
        assert server.connections == 0
        waiting.cancel()
        await layer.close()

    run(main)


@pytest.mark.usefixtures("soon")
def test_a_process_steps_back_for_a_dedicated_relay_and_goes_on_after_it(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asgi_ipc")
    url, server = new_server()

    async def main() -> None:
        layer = open_layer(config, url)
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: told().count("connected") == 1)
        engine = engine_beside(config)
        assert engine.hold(DEDICATED)
        await eventually(lambda: engine.hold(RELAY))
        await eventually(lambda: server.connections == 0)
        engine.close()
        await eventually(lambda: told().count("connected") == 2)
        waiting.cancel()
        await layer.close()

    def told() -> list[str]:
        which = f"relay {url}: "
        return [line.removeprefix(which) for line in caplog.messages if line.startswith(which)]

    run(main)
    assert told() == [
        "this process relays for its machine",
        "connected",
        "this process relays no more, as a relay process of its own takes over",
        "this process relays for its machine",
        "connected",
        "this process relays no more, as it closes its layer or ends",
    ]


def test_a_process_that_ends_without_closing_its_layer_ends_its_relay_in_order(
    config: dict[str, Any],
) -> None:
    """As the processes of a site do: Channels closes no layer."""
    code = SITE.replace(
        "await layer.receive(await layer.new_channel())",
        "waits = asyncio.create_task(layer.receive(await layer.new_channel()))\n"
        "    while report.read(layer._core.demux.engine) is None: await asyncio.sleep(0.01)",
    ).replace("import candidate", "import candidate\nfrom tests.tools.relays import report")
    directory = config["engine_options"]["directory"]
    ended = subprocess.run(
        [sys.executable, "-c", code, directory], capture_output=True, timeout=60, text=True
    )
    assert (ended.returncode, ended.stdout) == (0, "serves\n"), ended.stderr
    engine = engine_beside(config)
    last = report.read(engine)
    assert last is not None
    assert last.content["state"] == "ended"
    engine.close()


@pytest.mark.usefixtures("soon")
def test_another_process_takes_over_when_the_relay_is_killed(config: dict[str, Any]) -> None:
    directory = config["engine_options"]["directory"]
    first = subprocess.Popen(
        [sys.executable, "-c", SITE, directory], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )

    async def main() -> None:
        layer = open_layer(config, "redis://127.0.0.1:9")
        engine = layer._core.demux.engine
        await eventually(lambda: engine.is_held(RELAY))
        # Its relay has just begun, and often holds a lock of the store.
        stop_outside(first.pid, answering(engine))
        waiting = asyncio.create_task(layer.receive("a"))
        await asyncio.sleep(0.3)
        assert not engine.hold(RELAY), "a stopped process keeps the role"
        first.kill()
        await eventually(lambda: _relays_here(layer))
        waiting.cancel()
        await layer.close()

    assert first.stdout is not None
    try:
        assert first.stdout.readline() == b"serves\n"
        run(main)
    finally:
        first.kill()
        first.wait()
        first.stdout.close()


@pytest.mark.usefixtures("soon")
def test_a_forked_child_does_not_relay_for_its_parent(config: dict[str, Any]) -> None:
    url, server = new_server()

    async def main() -> None:
        layer = open_layer(config, url)
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: server.connections == 1)

        def child() -> None:
            engine = layer._core.demux.engine
            assert engine.is_held(RELAY)
            assert not engine.hold(RELAY)
            layer.sync.group_send("room", {"n": 1})
            layer.sync.close()

        forks.in_child(child)
        assert layer._core.demux.engine.hold(RELAY), "still its own"
        waiting.cancel()
        await layer.close()

    run(main)
