"""A process forked from one whose thread relays: R7, and the connections stay the parent's."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_ipc.conformance.wires.servers import Redis, Server

from asgi_ipc.relay import memory
from asgi_ipc.relay.memory import MemoryServer
from tests.relay.conftest import PASSWORD
from tests.tools.certificates import Files
from tests.tools.machines import ENOUGH, Machine, Site, eventually, join, received, run
from tests.tools.stores import in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
#: Forks a child that works and then waits to be killed, and returns its number.
Fork = Callable[[Callable[[], object]], int]
_terminals: list[int] = []


def _end_of(work: Callable[[], object]) -> None:
    """Be a forked child: work, then wait to be killed."""
    status = 1
    try:
        work()
        time.sleep(10 * ENOUGH)
        status = 0
    finally:
        os._exit(status)


def by_fork(work: Callable[[], object]) -> int:
    pid = os.fork()
    if not pid:
        _end_of(work)
    return pid


def by_forkpty(work: Callable[[], object]) -> int:
    pid, terminal = os.forkpty()
    if not pid:
        _end_of(work)
    _terminals.append(terminal)  # Once it is closed, the child is told to end.
    return pid


def by_multiprocessing(work: Callable[[], object]) -> int:
    process = multiprocessing.get_context("fork").Process(target=_end_of, args=(work,))
    process.start()
    assert process.pid is not None
    return process.pid


@pytest.fixture
def children() -> Iterator[list[int]]:
    made: list[int] = []
    yield made
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    while _terminals:
        os.close(_terminals.pop())


def forked(fork: Fork, children: list[int], work: Callable[[], object]) -> int:
    """Return a child once it has done its work."""
    reader, writer = os.pipe()

    def told() -> None:
        work()
        os.write(writer, b".")

    children.append(fork(told))
    os.close(writer)
    with os.fdopen(reader, "rb") as end:
        assert end.read(1) == b".", "its work failed"
    return children[-1]


def descriptors(pid: int | str) -> dict[str, int]:
    """Return what a process has open, as the kernel names it; all epolls and such are alike."""
    folder = f"/proc/{pid}/fd"
    found: dict[str, int] = {}
    for number in os.listdir(folder):
        try:
            name = os.readlink(f"{folder}/{number}")
        except OSError:
            continue  # That of the listing itself.
        found[name] = found.get(name, 0) + 1
    return found


SERVERS: dict[str, dict[str, Any]] = {
    "redis": {"password": PASSWORD},
    "redis_with_tls": {"ca_file": True},
    "nats": {"username": "us/er", "password": PASSWORD},
    "nats_with_tls": {"ca_file": True, "token": PASSWORD},
}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs the folder /proc/self/fd")
@pytest.mark.parametrize("kind", SERVERS)
def test_a_forked_child_keeps_nothing_of_its_parents_relay(
    kind: str, request: pytest.FixtureRequest, files: Files, tmp_path: Path, children: list[int]
) -> None:
    """And says nothing to the server; R7."""
    server: Server = request.getfixturevalue(kind)
    options = {name: files.ca if its is True else its for name, its in SERVERS[kind].items()}

    async def main() -> None:
        before = descriptors("self")
        one, two = (
            Machine(tmp_path / name, server.url, relay_options=options) for name in ("one", "two")
        )
        try:
            await join(one, two)
            channel = await two.member("room")
            now = descriptors("self")
            # The loop of this thread is inherited as that of any program.
            relays = {name for name in now if name.startswith("socket:") or "bell." in name}
            relays -= set(before)
            assert len([name for name in relays if name.startswith("socket:")]) >= 8
            epolls = before.get("anon_inode:[eventpoll]", 0)

            def check() -> None:
                gc.collect()
                mine = descriptors("self")
                assert not relays & set(mine), mine
                assert mine.get("anon_inode:[eventpoll]", 0) <= epolls

            def check_twice() -> None:
                # What is opened where the relay's was is not closed by the next fork.
                opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
                check()
                in_child(check)
                in_child(lambda: [os.read(each, 1) for each in opened])

            for fork in (by_fork, by_forkpty, by_multiprocessing):
                forked(fork, children, check_twice)
            for number in range(10):
                await one.layer.group_send("room", {"n": number})
            assert await received(two.layer, channel, 9) == list(range(10))
            assert one.knows(two)
            assert two.knows(one)
            assert two.count("gaps") == 0
        finally:
            one.layer.sync.destroy()
            two.layer.sync.destroy()

    run(main)


def test_a_relays_connections_end_with_it_though_a_child_lives_on(
    tmp_path: Path, children: list[int]
) -> None:
    if Redis.missing():
        pytest.skip(f"no Redis server: {Redis.missing()}")
    server = Redis()
    machine = Machine(tmp_path / "one", server.url)

    def connections() -> int:
        clients: bytes = server.call("CLIENT", "LIST")
        return clients.count(b" addr=")

    async def main() -> None:
        # Its own; that on which the server was seen to have started ends a moment later.
        await eventually(lambda: connections() == 1)
        machine.begin()
        await eventually(machine.knows)
        await eventually(lambda: connections() == 3)
        forked(by_fork, children, gc.collect)
        machine.end()
        await eventually(lambda: connections() == 1)

    try:
        run(main)
    finally:
        machine.layer.sync.destroy()
        server.end()


def test_a_forked_child_may_relay_itself(site: Site, children: list[int]) -> None:
    """Over a server in its own memory, although a thread of the parent held that server's lock."""

    async def main() -> None:
        one, _ = await site.joined(2)
        holding, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with memory._servers_lock, site.server.lock:
                holding.set()
                go_on.wait(ENOUGH)

        def relay() -> None:
            assert MemoryServer.named(one.options["relay"].removeprefix("memory://")) is site.server
            assert site.server.connections == 0
            here = Machine(one.folder.with_name("child"), one.options["relay"])
            here.begin()
            asyncio.run(eventually(here.knows))
            assert site.server.connections == 1
            here.end()
            here.layer.sync.destroy()

        thread = threading.Thread(target=hold)
        thread.start()
        holding.wait(ENOUGH)
        try:
            in_child(relay, ENOUGH)
        finally:
            go_on.set()
            thread.join()
        assert site.server.connections == 2

    run(main)
