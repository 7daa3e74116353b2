"""Several "machines" in one process: stores in folders of their own, joined by a relay each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asgi_ipc import IPCChannelLayer
from asgi_ipc.layers.relaying import Candidate, LocalMachine
from asgi_ipc.relay.memory import MemoryServer
from asgi_ipc.relay.report import read
from asgi_ipc.relay.thread import RelayThread
from asgi_ipc.relay.way_out import RELAY

#: Seconds; only a test that fails waits so long.
ENOUGH = 20.0
_servers = itertools.count()


class Machine:
    """One machine: a store, a layer on it as its site's process has, and perhaps its relay."""

    def __init__(self, folder: Path, url: str, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.options: dict[str, Any] = {
            "prefix": "site",
            "engine": "mmap",
            "engine_options": {"directory": str(folder)},
            "channel_memory": 4 << 20,
            "group_memory": 1 << 20,
            "relay": url,
            **options,
        }
        self.layer = IPCChannelLayer(**self.options)
        self.relay: RelayThread | None = None

    @property
    def demux(self) -> Any:
        return self.layer._core.demux

    @property
    def engine(self) -> Any:
        return self.demux.engine

    @property
    def node(self) -> bytes:
        node: bytes = self.engine.identity[:5]
        return node

    def begin(self) -> None:
        """Relay in a thread, as a process does once it serves."""
        assert self.engine.hold(RELAY)
        (candidate,) = (each for each in self.demux.companions if isinstance(each, Candidate))
        machine = LocalMachine(self.demux, candidate._options)
        self.relay = candidate._thread = RelayThread(machine, candidate._relay)
        self.relay.start()

    def end(self) -> None:
        """Relay no more."""
        assert self.relay is not None
        self.relay.stop()
        assert not self.relay.is_alive()

    def report(self) -> dict[str, Any]:
        found = read(self.engine)
        return {} if found is None else found.content | {"state": found.state}

    def count(self, name: str) -> int:
        counts: dict[str, int] = self.relay_now.counts
        return counts[name]

    @property
    def relay_now(self) -> Any:
        """The relay that runs in this process."""
        assert self.relay is not None
        return self.relay.relay

    def knows(self, *others: Machine) -> bool:
        """Whether it is connected, and has heard all these."""
        relay = self.relay.relay if self.relay is not None else None
        return (
            relay is not None
            and relay.state == "connected"
            and {other.node for other in others} <= set(relay.peers.known)
        )

    def hears(self, group: str) -> bool:
        from asgi_ipc.relay.frames import shard_of

        return shard_of(group.encode()) in self.relay_now._shards


async def eventually(condition: Callable[[], object], seconds: float = ENOUGH) -> None:
    """Wait for a condition."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not condition():
        assert loop.time() < until, "it did not become true"
        await asyncio.sleep(0.01)


def new_server() -> tuple[str, MemoryServer]:
    """Return the URL of a server in this process that no test has used, and the server."""
    name = f"server{next(_servers)}"
    return f"memory://{name}", MemoryServer.named(name)


async def join(*machines: Machine) -> None:
    """Let machines relay, and wait until all know each other."""
    for machine in machines:
        machine.begin()
    for machine in machines:
        others = [other for other in machines if other is not machine]
        await eventually(lambda m=machine, o=others: m.knows(*o))  # type: ignore[misc]
