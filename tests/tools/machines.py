"""Several "machines" in one process: stores in folders of their own, joined by a relay each."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from asgi_ipc import IPCChannelLayer
from asgi_ipc.engines.base import Refused
from asgi_ipc.layers.candidate import Candidate
from asgi_ipc.layers.local_machine import LocalMachine
from asgi_ipc.relay.failures import Failures
from asgi_ipc.relay.frames import shard_of
from asgi_ipc.relay.memory import MemoryServer
from asgi_ipc.relay.options import RelayOptions
from asgi_ipc.relay.report import read, write
from asgi_ipc.relay.thread import RelayThread
from asgi_ipc.relay.way_out import RELAY
from tests.tools.doubles import PATIENCE, WATCHDOG
from tests.tools.doubles import eventually as eventually  # Many tests of machines wait so.

#: Seconds; only a test that fails waits so long.
ENOUGH = PATIENCE
#: Seconds in which a relay ends on a busy machine: less than tests let servers take.
_GOODBYE = 30.0
_servers = itertools.count()


class Machine:
    """One machine: a store, a layer on it as its site's process has, and perhaps its relay."""

    def __init__(self, folder: Path, url: str, **options: Any) -> None:
        """``clock`` is the engine's, if given; the other options are those of the layer."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        winds = {"clock": options.pop("clock")} if "clock" in options else {}
        self.options: dict[str, Any] = {
            "prefix": "site",
            "engine": "mmap",
            "engine_options": {"directory": str(folder), **winds},
            "channel_memory": 4 << 20,
            "group_memory": 1 << 20,
            "relay": url,
            **options,
        }
        self.layer = IPCChannelLayer(**self.options)
        self.relay: RelayThread | None = None

    async def member(self, *groups: str) -> str:
        """Return a new channel of this machine that is in some groups, which it hears."""
        channel = await self.layer.new_channel()
        for group in groups:
            await self.layer.group_add(group, channel)
            await eventually(partial(self.hears, group))
        return channel

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

    @property
    def relay_options(self) -> RelayOptions:
        """How its relay works."""
        options: RelayOptions = self.demux.companions[Candidate].relay
        return options

    def start(self, failures: Failures | None = None) -> RelayThread:
        """Relay in a thread, as a process does once it serves."""
        assert self.engine.hold(RELAY)
        candidate = self.candidate
        machine = LocalMachine(self.demux, candidate.options)
        self.relay = candidate.thread = RelayThread(machine, candidate.relay, failures)
        self.relay.start()
        return self.relay

    def begin(self) -> None:
        """Relay in a thread, and wait until that has begun."""
        self.start()
        assert self.relay is not None
        until = time.monotonic() + ENOUGH
        while self.relay.relay is None and time.monotonic() < until:
            time.sleep(0.001)

    @property
    def candidate(self) -> Candidate:
        """This process as one that may relay."""
        found: Candidate = self.demux.companions[Candidate]
        return found

    def loses_its_keys(self) -> None:
        """Be a process without keys; comes before `begin`."""
        candidate = self.candidate
        used = candidate.relay.used._replace(keys=())
        candidate.relay = candidate.relay._replace(sealer=None, used=used)

    def as_another_process(self, **options: Any) -> Machine:
        """Return this machine as another process of its site sees it; close its ``engine``."""
        other: Machine = object.__new__(Machine)
        other.folder, other.relay = self.folder, None
        engine = type(self.engine).of_existing(
            "site", channel_memory=4 << 20, group_memory=1 << 20, directory=str(self.folder)
        )
        given = {key: self.options[key] for key in ("prefix", "relay")}
        other.options = {**given, **options, "engine": engine}
        other.layer = IPCChannelLayer(**other.options)
        return other

    def refused(self, refused: Refused) -> None:
        """Drop a message to another machine as a store does that refuses it."""
        self.layer._core._count_refused(self.demux, 1, refused)  # type: ignore[attr-defined]

    def dropped(self, reason: str, count: int = 1) -> None:
        """Have its relay drop some frames, and write that down."""
        self.relay_now.counts.dropped(reason, count)
        self.relay_now._reports.write()

    def counted(self, name: str, count: int) -> None:
        """Have its relay count something, and write that down."""
        self.relay_now.counts.add(name, count)
        self.relay_now._reports.write()

    def forgets(self) -> None:
        """Have all that its relay has dropped be of long ago."""
        counts = self.relay_now.counts
        counts._past.clear()
        counts._past.append((0.0, counts.all.copy()))
        self.relay_now._reports.write()

    def reported_last(self, seconds: float) -> None:
        """Have its relay have reported so long ago for the last time."""
        content, clock = self.relay_now.report(), self.engine.clock
        self.relay_now._reports.write = lambda: None
        self.engine.clock = lambda: clock() - round(seconds * 1e9)
        write(self.engine, content)
        self.engine.clock = clock

    def reads(self, oldest: int, newest: int) -> None:
        """Be of a version that reads these formats; comes before `begin`."""
        candidate = self.candidate
        candidate.relay = candidate.relay._replace(formats=(oldest, newest))

    def end(self) -> None:
        """Relay no more."""
        assert self.relay is not None
        self.relay.stop()
        ended(self.relay)

    def encoded(self, message: dict[str, Any]) -> bytes:
        """Return a message as it lies in the store on an ordinary channel."""
        return self.layer._core._encode(message)

    def report(self) -> dict[str, Any]:
        found = read(self.engine)
        return {} if found is None else found.content | {"state": found.state}

    def count(self, name: str) -> int:
        counts: dict[str, int] = self.relay_now.counts.all
        return counts[name]

    @property
    def relay_now(self) -> Any:
        """The relay that runs in this process."""
        assert self.relay is not None
        return self.relay.relay

    @property
    def relay_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of that relay."""
        assert self.relay is not None
        assert self.relay._loop is not None
        return self.relay._loop

    def knows(self, *others: Machine) -> bool:
        """Whether it is connected, and has heard all these."""
        relay = self.relay.relay if self.relay is not None else None
        return (
            relay is not None
            and relay.state == "connected"
            and all(_is_known(relay.peers, other.node) for other in others)
        )

    def hears(self, group: str) -> bool:
        """Whether it hears the messages to a group."""
        return shard_of(group.encode()) in self.relay_now.shards.heard


def _is_known(peers: Any, node: bytes) -> bool:
    peer = peers.known.get(node)
    return peer is not None and (peer.has_answered or not peers.nonce)


class Site:
    """Machines, and the server that joins them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url, self.server = new_server()
        self.machines: list[Machine] = []

    def machine(self, **options: Any) -> Machine:
        folder = self._folder / f"machine{len(self.machines)}"
        self.machines.append(Machine(folder, self.url, **options))
        return self.machines[-1]

    async def joined(self, count: int, **options: Any) -> list[Machine]:
        """Return new machines that relay and know each other."""
        made = [self.machine(**options) for _ in range(count)]
        await join(*made)
        return made

    async def in_a_room(self) -> tuple[Machine, Machine, str]:
        """Return two that relay, and a channel of the second that has heard 0 from the first."""
        one, two = await self.joined(2)
        channel = await two.member("room")
        await one.layer.group_send("room", {"n": 0})
        assert await received(two.layer, channel) == [0]
        return one, two, channel

    def destroy(self) -> None:
        self.server.thaw()
        for machine in self.machines:
            machine.layer.sync.destroy()
            if machine.relay is not None:
                ended(machine.relay)
            assert list(machine.folder.iterdir()) == []
        assert self.server.connections == 0


def ended(relay: RelayThread) -> None:
    """Wait for a relay that is to end, which a process does for two seconds only."""
    until = time.monotonic() + _GOODBYE
    while relay.is_alive():
        assert time.monotonic() < until, "the relay goes on"
        time.sleep(0.001)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine, but not for ever."""

    async def in_time() -> None:
        await asyncio.wait_for(main(), WATCHDOG / 2)

    asyncio.run(in_time())


async def received(layer: IPCChannelLayer, channel: str, last: object = None) -> list[Any]:
    """Return the values under "n" of the messages on a channel, up to ``last`` or the first."""
    found: list[Any] = []
    while True:
        message = await asyncio.wait_for(layer.receive(channel), ENOUGH)
        found.append(message["n"])
        if last is None or message["n"] == last:
            return found


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
