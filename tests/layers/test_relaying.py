"""The option relay: who relays (R7), and what the options must be."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, OptionError, SyncIPCChannelLayer
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.layers import relaying
from conformance import forks
from tests.tools.machines import eventually, new_server, run
from tests.tools.relays import DEDICATED, RELAY, engine_beside

SITE = """
import asyncio, sys
from asgi_ipc import IPCChannelLayer
from asgi_ipc.layers import relaying

relaying.SERVES = 0.0
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
    candidate = layer._core.demux.companions[relaying.Candidate]
    return isinstance(candidate, relaying.Candidate) and candidate.thread is not None


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process relays as soon as a receiver waits in it."""
    monkeypatch.setattr(relaying, "SERVES", 0.0)


@pytest.mark.parametrize(
    ("relay", "relay_options", "told"),
    [
        (5, None, "relay is 5"),
        ("", None, "URL of a server"),
        ("gopher://x", None, "gopher"),
        ("memory://x", 5, "must be a dict"),
        ("memory://x", {"backlog": 5}, "2 MiB"),
        ("memory://x", {"backlog": True}, "backlog"),
        ("memory://x", {"timeoud": 5}, "did you mean 'timeout'"),
        ("memory://x", {"keys": ["short"]}, "64 hexadecimal digits"),
        (None, {"timeout": 5}, "relay is not"),
    ],
)
def test_wrong_options_are_refused_by_name(relay: Any, relay_options: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        IPCChannelLayer(engine="memory", relay=relay, relay_options=relay_options)


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
    monkeypatch.setattr(relaying, "SERVES", 0.5)
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
        await eventually(lambda: all(map(_relays_here, layers)))
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
    config: dict[str, Any],
) -> None:
    url, server = new_server()

    async def main() -> None:
        layer = open_layer(config, url)
        waiting = asyncio.create_task(layer.receive("a"))
        await eventually(lambda: server.connections == 1)
        engine = engine_beside(config)
        assert engine.hold(DEDICATED)
        await eventually(lambda: engine.hold(RELAY))
        await eventually(lambda: server.connections == 0)
        engine.close()
        await eventually(lambda: server.connections == 1)
        waiting.cancel()
        await layer.close()

    run(main)


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
        waiting = asyncio.create_task(layer.receive("a"))
        os.kill(first.pid, signal.SIGSTOP)
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
