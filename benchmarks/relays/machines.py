"""Who is measured, and on which machine: layers that are opened with ``machine`` and ``relays``."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..peers import Peer, redis_core, redis_pubsub
from ..peers.base import CAPACITY, Layer
from ..peers.ours import destroy_store
from ..place import Place
from ..processes import Bench

#: Names of layers; how a machine relays, and not at all.
PROCESS, THREAD, ALONE = "process", "thread", "alone"
#: Seconds for machines to hear each other.
_JOINED = 20.0
#: Seconds within which a relay has written down what it has counted.
_COUNTED = 3.0
#: What Linux' ``prctl`` is told, so that a process ends with the one that started it.
_PDEATHSIG = 1


class Relayed:
    """A layer on a machine with a relay, which this process may have to provide."""

    def __init__(self, layer: Any, relay: subprocess.Popen[bytes] | None) -> None:
        self._layer, self.relay = layer, relay
        for name in ("send", "receive", "new_channel", "group_add", "group_discard", "group_send"):
            setattr(self, name, getattr(layer, name))

    async def joined(self, others: int, groups: int = 0) -> None:
        """Wait until the machine's relay hears so many other machines, and shards of groups."""
        deadline = time.monotonic() + _JOINED
        while True:
            told = self._told()
            if len(told.get("peers", ())) >= others and told.get("shards", 0) >= groups:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the machines were not joined: {told}")
            await asyncio.sleep(0.05)

    async def counts(self, name: str, least: int) -> dict[str, int]:
        """What the machine's relay has counted, once that is so much of one thing or no more."""
        deadline = time.monotonic() + _COUNTED
        while True:
            counts: dict[str, int] = self._told().get("counts", {})
            if counts.get(name, 0) >= least or time.monotonic() > deadline:
                return counts
            await asyncio.sleep(0.05)

    def _told(self) -> dict[str, Any]:
        """What the relay says of itself, if it is connected."""
        from asgi_ipc.relay.report import read

        found = read(self._layer._core.demux.engine)
        return found.content if found is not None and found.state == "connected" else {}

    def relay_seconds(self) -> float | None:
        """CPU time of the relay, if it is a process of its own that this one has started."""
        if self.relay is None:
            return None
        # Linux' number of the clock: /proc would tell it in steps of 10 ms.
        return time.clock_gettime(~self.relay.pid << 3 | 2)

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
    from asgi_ipc.layers import candidate

    url = f"unix://{place.redis}"
    # At once in the one process, and never in another.
    candidate.SERVES = 0.0 if relays and how == THREAD else float("inf")
    layer = IPCChannelLayer(place.prefix, **options, relay=url)
    relay = _start(place.prefix, folder, url) if relays and how == PROCESS else None
    made: Layer = Relayed(layer, relay)  # type: ignore[assignment]
    return made


def _start(prefix: str, folder: Path, url: str) -> subprocess.Popen[bytes]:
    """Run a relay of the machine's own, as its administrator would."""
    command = [sys.executable, "-m", "asgi_ipc", "relay", prefix, "--engine", "mmap"]
    command += ["--directory", str(folder), "--relay", url]
    # A case that fails kills this process.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)


def _end_with_parent() -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PDEATHSIG, signal.SIGTERM)


class ServerUse(NamedTuple):
    """What a server has used since it began: seconds of CPU, and bytes that it got and sent."""

    cpu: float
    heard: float
    said: float

    def less(self, other: ServerUse) -> ServerUse:
        """The difference."""
        return ServerUse(*(a - b for a, b in zip(self, other, strict=True)))


def server_use(bench: Bench) -> ServerUse:
    """What the server of a case has used."""
    from redis import Redis

    with Redis(unix_socket_path=bench.place.redis) as client:
        told = {**client.info("cpu"), **client.info("stats")}
    cpu = float(told["used_cpu_user"] + told["used_cpu_sys"])
    return ServerUse(cpu, told["total_net_input_bytes"], told["total_net_output_bytes"])


async def joined(layer: Any, others: int, groups: int = 0) -> None:
    """Wait until a layer's machine hears so many others, and shards of groups, if it has to."""
    if isinstance(layer, Relayed):
        await layer.joined(others, groups)


def relay_cpu_of(layer: Any) -> float | None:
    """CPU time of the relay process that this one has started, in seconds; None without one."""
    return layer.relay_seconds() if isinstance(layer, Relayed) else None


def cpu_of(layer: Any) -> float:
    """CPU time of this process and of the relay that it has started, in seconds."""
    return time.process_time() + (relay_cpu_of(layer) or 0.0)


async def _close(layer: Any) -> None:
    await layer.close()


def _clean(place: Place) -> None:
    """Remove the stores of all machines, whose locks are not in their folders alone."""
    redis_core.flush(place)
    for folder in Path(place.directory).glob("machine*"):
        destroy_store("mmap", place, directory=str(folder))


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
        clean=_clean,
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
