"""Who is measured, and on which machine: layers that are opened with ``machine`` and ``relays``."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from ..peers import Peer, redis_core, redis_pubsub
from ..peers.base import CAPACITY, Layer
from ..place import Place

#: Names of layers; how a machine relays, and not at all.
PROCESS, THREAD, ALONE = "process", "thread", "alone"
#: Seconds for machines to hear each other.
_JOINED = 20.0
_TICK = os.sysconf("SC_CLK_TCK")


class Relayed:
    """A layer on a machine with a relay, which this process may have to provide."""

    def __init__(self, layer: Any, relay: subprocess.Popen[bytes] | None) -> None:
        self._layer, self.relay = layer, relay
        for name in ("send", "receive", "new_channel", "group_add", "group_discard", "group_send"):
            setattr(self, name, getattr(layer, name))

    async def joined(self, others: int, groups: int = 0) -> None:
        """Wait until the machine's relay hears so many other machines, and shards of groups."""
        from asgi_ipc.relay.report import read

        engine = self._layer._core.demux.engine
        deadline = time.monotonic() + _JOINED
        while True:
            found = read(engine)
            if found is not None and found.state == "connected":
                told = found.content
                if len(told.get("peers", ())) >= others and told.get("shards", 0) >= groups:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the machines were not joined: {found}")
            await asyncio.sleep(0.05)

    def relay_seconds(self) -> float:
        """CPU time of the relay, if it is a process of its own that this one has started."""
        if self.relay is None:
            return 0.0
        with open(f"/proc/{self.relay.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    async def close(self) -> None:
        await self._layer.close()
        if self.relay is not None:
            self.relay.terminate()
            self.relay.wait(10)


def _open(how: str, place: Place, machine: int = 0, relays: bool = False) -> Layer:
    from asgi_ipc import IPCChannelLayer

    folder = Path(place.directory, f"machine{machine}-{how}")
    folder.mkdir(exist_ok=True)
    options: dict[str, Any] = {
        "engine": "mmap",
        "engine_options": {"directory": str(folder)},
        "capacity": CAPACITY,
    }
    if how == ALONE:
        alone: Layer = IPCChannelLayer(place.prefix, **options)
        return alone
    from asgi_ipc.layers import relaying

    url = f"unix://{place.redis}"
    # At once in the one process, and never in another.
    relaying.SERVES = 0.0 if relays and how == THREAD else float("inf")
    layer = IPCChannelLayer(place.prefix, **options, relay=url)
    relay = _start(place.prefix, folder, url) if relays and how == PROCESS else None
    made: Layer = Relayed(layer, relay)  # type: ignore[assignment]
    return made


def _start(prefix: str, folder: Path, url: str) -> subprocess.Popen[bytes]:
    """Run a relay of the machine's own, as its administrator would."""
    command = [sys.executable, "-m", "asgi_ipc", "relay", prefix, "--engine", "mmap"]
    command += ["--directory", str(folder), "--relay", url]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


async def _close(layer: Any) -> None:
    await layer.close()


def _anywhere(peer: Peer, place: Place, machine: int = 0, relays: bool = False) -> Layer:
    """A layer to which machines are all the same."""
    return peer.open(place)


def ours(how: str, name: str) -> Peer:
    """asgi_ipc with relays that are threads or processes, or alone."""
    return Peer(
        name=name,
        open=partial(_open, how),
        close=_close,
        unavailable=redis_core.unavailable,
        imports="from asgi_ipc import IPCChannelLayer",
        prepare=redis_core.flush,
        clean=redis_core.flush,
    )


def all_peers() -> list[Peer]:
    """All layers, ours first."""
    return [
        ours(PROCESS, OURS),
        ours(THREAD, OURS_THREAD),
        *(
            dataclasses.replace(peer, open=partial(_anywhere, peer))
            for peer in (redis_pubsub.peer(), redis_core.peer())
        ),
    ]


OURS, OURS_THREAD = "asgi_ipc, relay processes", "asgi_ipc, relay threads"
