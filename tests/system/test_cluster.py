"""The chat on two machines, each a network, a store and workers of its own, as `make run-cluster`.

What is written on one is read on the other, in a browser too, while the network fails for a moment
and a relay is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from tests.tools.chat_site import PATIENCE, ROOT, Site
from tests.tools.chromium import Browser, installed
from tests.tools.holders import stop_outside
from tests.tools.machines import eventually
from tests.tools.namespaces import unshared

CHAT = ROOT / "examples" / "chat"
RUN = str(CHAT / "cluster.py")
PROGRAMS = ("ip", "nsenter", "setpriv")
SERVERS = ("redis-server", "valkey-server", "nats-server")
ROOM = "cluster"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Cluster]:
    if os.geteuid():
        pytest.skip("making namespaces with a network needs root")
    unshared("--net", "--mount", "--ipc")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not found: {', '.join(missing)}")
    if not any(map(shutil.which, SERVERS)):
        pytest.skip(f"no server here ({', '.join(SERVERS)})")
    site = Cluster(tmp_path)
    with site:
        yield site


class Cluster(Site):
    """Two machines; a context manager that ends them whatever happens."""

    def __init__(self, temporary: Path) -> None:
        super().__init__("posix", temporary, 2, ("env", "MACHINES=2", sys.executable, RUN))

    @property
    def prefix(self) -> str:
        return self.wait_for(r" relays (chat-\d+)$")[1]

    def page(self, machine: int) -> str:
        return self.wait_for(rf"machine {machine}: (http://[\d.:]+)/$")[1]

    def network(self, command: str) -> None:
        """Run a command on the network between the machines."""
        pid = self.wait_for(r"nsenter -t (\d+) --net ip")[1]
        enter = ["nsenter", f"--target={pid}", "--net", *command.split()]
        subprocess.run(enter, check=True, timeout=PATIENCE)

    async def relay(self, machine: int) -> dict[str, Any]:
        """What `asgi-ipc relays` says on a machine; empty if it has no relay yet."""
        done = await asyncio.to_thread(self.command, machine, "relays", "--json")
        found: dict[str, Any] = json.loads(done.stdout or b"{}")
        return found

    def answers(self, machine: int) -> bool:
        """Whether the locks of a machine's store are given."""
        return self.command(machine, "ping").returncode == 0

    def command(self, machine: int, name: str, *options: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command of `asgi-ipc` on the store of a machine."""
        enter = self.wait_for(rf"machine {machine}'s relay: (nsenter .* --ipc) ")[1].split()
        command = [*enter, sys.executable, "-m", "asgi_ipc", name, self.prefix, *options]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE)

    async def relay_that(
        self, machine: int, is_wanted: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Wait until the relay of a machine is as wanted; what it says."""
        until = time.monotonic() + PATIENCE
        while not is_wanted(found := await self.relay(machine)):
            assert time.monotonic() < until, found
            await asyncio.sleep(0.2)
        return found


class Window:
    """A browser's connection to the room, and the numbers that it was told."""

    def __init__(self, socket: ClientConnection, pid: int) -> None:
        self._socket = socket
        #: The process that it is connected to.
        self.pid = pid
        #: By the name of the speaker.
        self.heard: dict[str, list[int]] = {"near": [0], "far": [0]}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, page: str, avoid: int = 0) -> Window:
        """Connect to a process of a machine, other than one."""
        url = f"{page.replace('http', 'ws', 1)}/ws/room/{ROOM}/?avoid={avoid}"
        while True:
            socket = await connect(url, origin=Origin(page))
            try:
                welcome = json.loads(await socket.recv())
            except ConnectionClosed:  # By the process that was to be avoided.
                continue
            return cls(socket, welcome["pid"])

    async def _read(self) -> None:
        async for frame in self._socket:
            said = json.loads(frame)
            if said["kind"] == "message" and said["text"].isdecimal():
                self.heard[said["name"]].append(int(said["text"]))

    async def say(self, name: str, text: object) -> None:
        await self._socket.send(json.dumps({"name": name, "text": str(text)}))

    async def close(self) -> None:
        await self._socket.close()
        await self._reading


class Talk:
    """Two windows on each machine, one of which writes what all read."""

    def __init__(self, near: tuple[Window, Window], far: tuple[Window, Window]) -> None:
        self.windows = (*near, *far)
        self.writers = {"near": near[0], "far": far[0]}
        self.readers = {"near": near[1], "far": far[1]}
        #: The number of the last message, on both machines.
        self.sent = 0

    async def go_on(self, times: int = 1, pause: float = 0.0) -> None:
        for _ in range(times):
            self.sent += 1
            for name, writer in self.writers.items():
                await writer.say(name, self.sent)
            await asyncio.sleep(pause)

    def last(self, speaker: str, reader: str) -> int:
        """The last number that a machine has heard of one."""
        return self.readers[reader].heard[speaker][-1]

    def between(self) -> tuple[int, int]:
        """The last numbers that each machine has heard of the other."""
        return self.last("near", "far"), self.last("far", "near")

    async def is_heard(self) -> None:
        """Wait until each machine has heard its own last message, and all before it."""
        for here in ("near", "far"):
            await eventually(lambda here=here: self.last(here, here) == self.sent)  # type: ignore[misc]
            heard = self.readers[here].heard[here]
            assert heard == list(range(self.sent + 1)), "on one machine nothing is lost"


def shows(page: str, said: threading.Event, text: str) -> None:
    """Open a machine's page in the room, set the event, and wait until it shows a text."""
    program = installed()
    if program is None:  # What the windows read is what the page shows.
        said.set()
        return
    with Browser(program) as browser:
        browser.go(f"{page}/#{ROOM}")
        browser.wait("document.querySelectorAll('.state .pid').length === 2")
        said.set()
        browser.wait(
            f"[...document.querySelectorAll('.text')].some(t => t.textContent == {text!r})"
        )


def test_machines_read_what_others_write_each_message_once_and_nothing_is_left(
    site: Cluster,
) -> None:
    async def main() -> None:
        pages = [site.page(n) for n in (1, 2)]
        # Before any page is open only the background worker has a receiver that waits.
        relay, _ = await asyncio.gather(
            *(site.relay_that(n, lambda told: bool(told.get("machines"))) for n in (2, 1))
        )
        opened = threading.Event()
        on_page = asyncio.create_task(asyncio.to_thread(shows, pages[1], opened, "Good morning!"))
        try:
            writers = [await Window.open(page) for page in pages]
            readers = [
                await Window.open(page, writer.pid)
                for page, writer in zip(pages, writers, strict=True)
            ]
            talk = Talk((writers[0], readers[0]), (writers[1], readers[1]))
            # A machine hears the room a moment after its first window is there.
            while not all(talk.between()):
                await talk.go_on(pause=0.05)
            first = talk.sent + 1
            await asyncio.to_thread(opened.wait)
            await writers[0].say("somebody", "Good morning!")
            await on_page

            site.network("ip link set machine2 down")
            await talk.go_on(20)
            await talk.is_heard()
            assert max(talk.between()) < first, "no message crosses a network that is down"
            site.network("ip link set machine2 up")
            await eventually(lambda: talk.between() == (talk.sent, talk.sent))

            # Stopped first, so that there is something that it has not passed on.
            await asyncio.to_thread(stop_outside, relay["pid"], lambda: site.answers(2))
            await talk.go_on(5, pause=0.01)
            await talk.is_heard()
            os.kill(relay["pid"], signal.SIGKILL)
            killed_at = talk.sent
            while min(talk.between()) <= killed_at:
                await talk.go_on(pause=0.02)
            await talk.is_heard()
            await eventually(lambda: talk.between() == (talk.sent, talk.sent))
            for window in talk.windows:
                for heard in window.heard.values():
                    assert heard == sorted(set(heard)), "nothing comes twice"
            lost = set(range(first, talk.sent + 1)) - set(readers[1].heard["near"])
            assert set(range(killed_at - 4, killed_at + 1)) <= lost
            assert min(lost) > killed_at - 5, "a network that is down loses nothing"
            after = await site.relay_that(2, lambda told: _gaps(told) >= len(lost))
            assert after["pid"] != relay["pid"]
            for window in talk.windows:
                await window.close()
        finally:
            opened.set()

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert site.stop(signal.SIGINT) == 0, site.output
    assert site.processes() == set()
    assert site.leftovers() == set()
    assert "machine" not in _links()


def test_without_root_it_says_so() -> None:
    pretend = (
        f"import os, runpy; os.geteuid = lambda: 1; runpy.run_path({RUN!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(CHAT)!r}); {pretend}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    expected = "needs root" if sys.platform == "linux" else "namespaces of Linux"
    assert (done.returncode, done.stderr) == (1, "")
    assert expected in done.stdout


def _gaps(told: dict[str, Any]) -> int:
    gaps: int = told.get("counts", {}).get("gaps", 0)
    return gaps


def _links() -> str:
    return subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
