"""The main job: examples/chat with its several processes, on every engine that can carry it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from websockets.asyncio.client import ClientConnection, connect

from asgi_ipc import SyncIPCChannelLayer
from tests.tools.chat_site import (
    PATIENCE,
    ROOT,
    RUN,
    Site,
    environment,
    sysv_segments,
)
from tests.tools.samples import ALL

ENGINES = ["mmap", "posix", "sysv"]
CLIENTS = 12
T = TypeVar("T")


class Client:
    """One browser window, without the browser."""

    def __init__(self, connection: ClientConnection, pid: int) -> None:
        self.connection = connection
        #: The process it is connected to.
        self.pid = pid

    @classmethod
    async def join(cls, site: Site, room: str) -> Client:
        connection = await connect(
            f"ws://127.0.0.1:{site.port}/ws/room/{room}/",
            origin=site.url,  # type: ignore[arg-type]
            open_timeout=PATIENCE,
        )
        welcome = await hear(connection)
        assert welcome["kind"] == "welcome"
        assert welcome["room"] == room
        return cls(connection, welcome["pid"])

    async def say(self, text: str, name: str = "Ada") -> None:
        await self.connection.send(json.dumps({"name": name, "text": text}))

    async def hear(self) -> dict[str, Any]:
        return await hear(self.connection)


async def hear(connection: ClientConnection) -> dict[str, Any]:
    heard: dict[str, Any] = json.loads(await connection.recv())
    return heard


def within(what: Awaitable[T]) -> T:
    """Run it under a watchdog."""

    async def watched() -> T:
        return await asyncio.wait_for(what, PATIENCE)

    return asyncio.run(watched())


async def join_all(site: Site, room: str) -> list[Client]:
    """A dozen clients, and as many more as it takes until every web process has two."""
    clients: list[Client] = []
    while len(clients) < CLIENTS or not all(
        sum(client.pid == pid for client in clients) > 1 for pid in site.web_pids()
    ):
        if len(clients) >= CLIENTS:
            await asyncio.sleep(0.1)  # A process may still be starting.
        clients.append(await Client.join(site, room))
    return clients


async def look_in(site: Site) -> None:
    client = await Client.join(site, "lobby")
    await client.connection.close()


async def everybody_hears_everybody(site: Site) -> None:
    crowd, elsewhere = await join_all(site, "lobby"), await Client.join(site, "kitchen")
    web = site.web_pids()
    assert {client.pid for client in crowd} == web

    first = crowd[0]
    await first.say("hello")
    heard = [await client.hear() for client in crowd]
    assert {message["text"] for message in heard} == {"hello"}
    assert {message["id"] for message in heard} == {heard[0]["id"]}
    assert {message["sent_by"] for message in heard} == {first.pid}
    assert [message["delivered_by"] for message in heard] == [client.pid for client in crowd]

    # Whatever comes next is the next message: the first came once.
    other = next(client for client in crowd if client.pid != first.pid)
    await other.say("hello yourself", name="Grace")
    for client in crowd:
        assert (await client.hear())["text"] == "hello yourself"

    await other.say("/roll 2d6", name="Grace")
    for client in crowd:
        assert (await client.hear())["text"] == "/roll 2d6"
    for client in crowd:
        answer = await client.hear()
        assert answer["name"] == "assistant"
        assert answer["text"].startswith("Grace rolled ")
        assert answer["sent_by"] == site.background_pid()

    await first.say("/stats")
    for client in crowd:
        await client.hear()
        stats = (await client.hear())["text"]
        assert stats == f"lobby: 2 messages from 2 people so far, {len(crowd)} windows open."

    await elsewhere.say("anybody here?")
    assert (await elsewhere.hear())["text"] == "anybody here?"
    for client in [*crowd, elsewhere]:
        await client.connection.close()


# Other tests here run the site on mmap; on the third it does nothing else.
@pytest.mark.parametrize("engine", ENGINES if ALL else ["posix"])
def test_a_message_reaches_everyone_once_and_ctrl_c_leaves_nothing(
    engine: str, tmp_path: Path
) -> None:
    with Site(engine, tmp_path) as site:
        assert site.url in site.output
        assert f"engine {engine}" in site.output
        with urllib.request.urlopen(site.url, timeout=PATIENCE) as page:
            assert f"engine <b>{engine}</b>" in page.read().decode()
        within(everybody_hears_everybody(site))

        pids = site.processes()
        assert pids == {site.process.pid, site.background_pid(), *site.web_pids()}
        files, segments = site.holdings(pids), sysv_segments(pids)
        assert files, "this test can't see where the store lies"
        assert bool(segments) == (engine == "sysv")

        assert site.stop(signal.SIGINT) == 0, site.output
        assert site.processes() == set()
        assert {path for path in files if path.exists()} == set()
        assert site.leftovers() == set()
        assert sysv_segments(pids) == set()
        assert "Traceback" not in site.output


def test_a_dead_worker_is_started_again_and_sigterm_leaves_nothing(tmp_path: Path) -> None:
    async def talk(site: Site) -> None:
        crowd = await join_all(site, "lobby")
        await crowd[0].say("still here")
        for client in crowd:
            assert (await client.hear())["text"] == "still here"
        await asyncio.gather(*(client.connection.close() for client in crowd))

    with Site("posix", tmp_path) as site:
        within(talk(site))
        victim = min(site.web_pids())
        os.kill(victim, signal.SIGKILL)
        site.wait_for(rf"\(process {victim}\) ended by signal 9; starting it again")
        wait_until(lambda: victim not in site.web_pids())
        within(talk(site))
        os.kill(site.background_pid(), signal.SIGKILL)
        site.wait_for(r"background worker \(process \d+\) ended by signal 9")

        pids = site.processes()
        files = site.holdings(pids)
        assert site.stop(signal.SIGTERM) == 0, site.output
        assert site.processes() == set()
        assert {path for path in files if path.exists()} == set()
        assert site.leftovers() == set()


def test_the_page_can_kill_a_web_process_again_and_again_and_no_other(tmp_path: Path) -> None:
    async def press(site: Site, button: str) -> int:
        client = await Client.join(site, "lobby")
        await client.connection.send(json.dumps({"do": button}))
        if button == "kill":
            await client.connection.wait_closed()
        else:
            await client.hear()
            await client.connection.close()
        return client.pid

    with Site("mmap", tmp_path) as site:
        others = {site.process.pid, site.background_pid()}
        supervisor = SyncIPCChannelLayer(site.prefix, engine="mmap")
        for pid in (*others, 1, os.getpid(), "nonsense", None):
            supervisor.send("supervisor", {"type": "kill", "pid": pid})
        supervisor.send("supervisor", {"something": "else"})
        # More often than a worker may die by itself without that the supervisor gives up.
        for _ in range(6):
            victim = within(press(site, "kill"))
            site.wait_for(rf"\(process {victim}\) ended by signal 9; starting it again")
        within(press(site, "stream"))
        assert others <= site.processes()
        assert "giving up" not in site.output
        assert "Traceback" not in site.output
        supervisor.close()


BUTTONS = """
import asyncio, json
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from chat.asgi import application

async def main():
    headers = [(b"host", b"localhost"), (b"origin", b"http://localhost")]
    browser = WebsocketCommunicator(application, "/ws/room/lobby/", headers)
    assert (await browser.connect(timeout=60))[0]
    await browser.receive_json_from(timeout=60)
    for said in ({"do": "kill"}, {"do": "stream"}, {"do": ["kill"]}, {"do": {}}, ["do"], "do", 1):
        await browser.send_json_to(said)
        print((await browser.receive_json_from(timeout=60))["kind"])
    await browser.disconnect()
    print((await get_channel_layer().global_statistics())["messages_pending"])

asyncio.run(main())
"""


def test_the_buttons_do_nothing_unless_run_py_switches_them_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUTTONS],
        cwd=Path(RUN[1]).parent,
        env=environment(ENGINE="memory", DJANGO_SETTINGS_MODULE="chat.settings"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.split() == ["notice"] * 7 + ["0"], done.stderr


async def status(site: Site, request: str) -> int:
    """How the site answers a request, given without its last line end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(f"{request}\r\n\r\n".replace("PORT", str(site.port)).encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


UPGRADE = (
    "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
    "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
#: What a browser says of the address that it was given, and whether that is one of the site's.
HOSTS = {
    "127.0.0.1:PORT": True,
    "localhost:PORT": True,
    "LOCALHOST:PORT": True,
    "[::1]:PORT": True,
    "evil.example:PORT": False,
    "evil.example": False,
    "localhost.evil.example:PORT": False,
    "127.0.0.1:PORT@evil.example": False,
    "[::1": False,
    "": False,
}
#: What it says of the page that opens a WebSocket to localhost.
ORIGINS = {
    "http://localhost:PORT": True,
    "https://localhost:PORT": True,
    "http://localhost:1": False,
    "http://localhost": False,
    "http://evil.example:PORT": False,
    "http://[": False,
    "null": False,
    "": False,
}


def test_foreign_hosts_and_origins_are_refused(tmp_path: Path) -> None:
    async def ask(site: Site) -> None:
        room = "GET /ws/room/lobby/ HTTP/1.1\r\nHost: "
        for host, ours in HOSTS.items():
            assert await status(site, f"GET / HTTP/1.1\r\nHost: {host}") == (200 if ours else 400)
            request = f"{room}{host}\r\nOrigin: http://{host}{UPGRADE}"
            assert await status(site, request) == (101 if ours else 403), host
        for origin, ours in ORIGINS.items():
            request = f"{room}localhost:PORT\r\nOrigin: {origin}{UPGRADE}"
            assert await status(site, request) == (101 if ours else 403), origin
            figures = request.replace("/ws/room/lobby/", "/ws/figures/")
            assert await status(site, figures) == (101 if ours else 403), origin
        assert await status(site, f"{room}localhost:PORT{UPGRADE}") == 403

    with Site("mmap", tmp_path) as site:
        within(ask(site))
        assert "Traceback" not in site.output


REPORT = """
import django
from django.core.handlers.asgi import ASGIRequest
from django.views.debug import ExceptionReporter

django.setup()
request = ASGIRequest({"method": "GET", "path": "/", "headers": [(b"host", b"evil.example")]}, None)
try:
    request.get_host()
except Exception as error:
    reporter = ExceptionReporter(request, type(error), error, error.__traceback__, is_email=True)
    print("evil.example" in reporter.get_traceback_text())
"""


def test_django_can_report_an_error_of_the_site() -> None:
    """Django 4.2 does so, for no one, before it answers a foreign host with 400."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT],
        cwd=Path(RUN[1]).parent,
        env=environment(ENGINE="memory", DJANGO_SETTINGS_MODULE="chat.settings"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.split() == ["True"], done.stderr


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv", reason="make would set up an environment; use `make test`"
)
def test_make_run_runs_it_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with Site("mmap", tmp_path, workers=3, command=("make", "run")) as site:
        within(look_in(site))
        pids = site.processes()
        files = site.holdings(pids)
        site.stop(signal.SIGINT)  # make itself then says "Interrupt" and fails, as it always does.
        assert site.processes() == set()
        assert {path for path in files if path.exists()} == set()
        assert site.leftovers() == set()


def test_no_process_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    with Site("mmap", tmp_path) as site:
        within(look_in(site))
        files = site.holdings(site.processes())
        site.process.kill()
        wait_until(lambda: not site.processes())
        # Its store stays.
        SyncIPCChannelLayer(site.prefix, engine="mmap").destroy()
        assert {path for path in files if path.exists()} == set()


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def refused(**settings: str) -> str:
    """What run.py says as it declines to start."""
    result = subprocess.run(
        RUN,
        env=environment(**{"PORT": "0", **settings}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == ""
    return result.stdout


def test_the_memory_engine_is_refused() -> None:
    assert "Take posix, sysv or mmap" in refused(ENGINE="memory")


def test_an_unknown_engine_is_refused() -> None:
    assert "no-such-engine" in refused(ENGINE="no-such-engine")


@pytest.mark.parametrize("workers", ["0", "two", "-1"])
def test_a_bad_number_of_workers_is_refused(workers: str) -> None:
    assert f"WORKERS={workers}" in refused(WORKERS=workers)


def test_a_port_in_use_is_refused_and_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Try PORT={port + 1}" in refused(PORT=str(port))
