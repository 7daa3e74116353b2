"""docs/tutorial.md and docs/celery.md: built as they say, in a project that Django starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_ipc.conformance.tools import Port

from asgi_ipc import SyncIPCChannelLayer
from tests.tools.documents import DOCS, blocks

pytest.importorskip("channels")
pytest.importorskip("uvicorn")
websockets = pytest.importorskip("websockets")

PATIENCE = 120.0


class Site:
    """The project of the tutorial, with a prefix of its own."""

    def __init__(self, folder: Path) -> None:
        self.prefix = f"tutorial-{uuid.uuid4().hex[:12]}"
        self._started: list[subprocess.Popen[bytes]] = []
        command = [sys.executable, "-m", "django", "startproject", "mysite"]
        subprocess.run(command, cwd=folder, check=True, timeout=PATIENCE)
        self.folder = folder / "mysite"
        for page in ("tutorial.md", "celery.md"):
            for block in blocks(DOCS / page, "python"):
                self._write(block)

    def _write(self, block: str) -> None:
        """Write or append a block as its first line and the text about it say."""
        found = re.match(r"# (mysite/\w+\.py)(, at the end)?\n", block)
        if found:
            file = self.folder / found[1]
            appended = found[2] or file.name == "settings.py"
            code = (file.read_text() if appended else "") + block
            file.write_text(code.replace('"prefix": "mysite"', f'"prefix": "{self.prefix}"'))

    def start(self, *command: str) -> None:
        environment = os.environ | {"DJANGO_SETTINGS_MODULE": "mysite.settings"}
        words = [sys.executable, "-W", "ignore", *command]
        self._started.append(
            subprocess.Popen(words, cwd=self.folder, env=environment, start_new_session=True)
        )

    def shell(self, *code: str) -> None:
        """Run what the tutorial has users type."""
        done = subprocess.run(
            [sys.executable, "manage.py", "shell"],
            cwd=self.folder,
            input="\n".join(code),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr

    def end(self) -> None:
        for process in self._started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        SyncIPCChannelLayer(self.prefix).destroy()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.end()


@pytest.fixture
def port() -> Iterator[int]:
    with contextlib.closing(Port()) as kept:
        yield kept.number


async def connected(port: int) -> list[Any]:
    """Connect until both processes have a client, which a greeting to all of them tells."""
    clients: list[Any] = []
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            clients.append(await websockets.connect(f"ws://127.0.0.1:{port}/ws/"))
        except OSError:
            await asyncio.sleep(0.1)
            continue
        await clients[0].send("hello")
        if len({said["delivered_by"] for said in await heard(clients)}) == 2:
            return clients
    raise AssertionError("only one process has served clients")


async def heard(clients: list[Any]) -> list[dict[str, object]]:
    """What each client receives next."""
    return [json.loads(await asyncio.wait_for(each.recv(), PATIENCE)) for each in clients]


def test_the_chat_of_the_tutorial_crosses_processes_and_is_reached_from_elsewhere(
    site: Site, port: int
) -> None:
    said = [
        code.partition("\n")[2]
        for code in blocks(DOCS / "tutorial.md", "python")
        if code.startswith("# in the shell")
    ]
    commands = "".join(blocks(DOCS / "tutorial.md", "console"))
    (server,) = re.findall(r"^\$ (uvicorn .*)$", commands, re.M)
    (worker,) = re.findall(r"^\$ python (manage.py runworker .*)$", commands, re.M)
    site.start("-m", *server.split(), "--port", str(port), "--log-level", "warning")
    site.start(*worker.split())

    async def main() -> None:
        clients = await connected(port)
        site.shell(said[0])
        assert {each["text"] for each in await heard(clients)} == {"Dinner!"}
        site.shell(*said[0].splitlines()[:1], said[1])
        assert {each["text"] for each in await heard(clients)} == {"DINNER IS GETTING COLD"}
        for client in clients:
            await client.close()

    asyncio.run(main())


def test_the_task_of_the_document_sends_its_progress(site: Site) -> None:
    # Celery itself is not installed; the task is a function to us.
    (site.folder / "celery.py").write_text("def shared_task(function): return function\n")
    layer = SyncIPCChannelLayer(site.prefix)
    channel = layer.new_channel("report?")
    layer.group_add("room.lobby", "lobby")
    site.shell(
        "from mysite.tasks import report",
        "from mysite.progress import progress",
        f"report([3, 4], {channel!r})",
        f"progress({channel!r}, 3)",
    )
    done = [layer.receive([channel])[1] for _ in range(3)]
    assert [message and message["done"] for message in done] == [1, 2, 3]
    assert layer.receive(["lobby"])[1] == {"type": "room.said", "text": "7", "sent_by": 0}
    layer.close()
