"""The tests of docs/testing.md, in a small Django project, by each of the runners."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.tools.documents import DOCS, blocks

PROJECT = {
    # Python starts processes by fork, spawn or forkserver: the live server has to hold with each.
    "manage.py": """
import multiprocessing, os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
if __name__ == "__main__":
    if "--exclude-tag" not in sys.argv:
        multiprocessing.set_start_method("spawn")
    execute_from_command_line(sys.argv)
""",
    "pytest.ini": """
[pytest]
DJANGO_SETTINGS_MODULE = mysite.settings
asyncio_default_fixture_loop_scope = function
filterwarnings =
    error
    ignore::DeprecationWarning
""",
    "mysite/__init__.py": "",
    "mysite/settings.py": """
from pathlib import Path
BASE_DIR = Path(__file__).parent
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["localhost"]
INSTALLED_APPS = ["channels"]
USE_TZ = True
ASGI_APPLICATION = "mysite.asgi.application"
DATABASES = {"default": {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": BASE_DIR / "db",
}}
CHANNEL_LAYERS = {"default": {
    "BACKEND": "asgi_ipc.IPCChannelLayer", "CONFIG": {"prefix": "PREFIX"},
}}
""",
    "mysite/asgi.py": """
import os
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
http = get_asgi_application()

class Chat(AsyncWebsocketConsumer):
    groups = ["chat"]

    async def connect(self):
        await self.accept()
        if self.scope["headers"]:  # From a real client.
            await self.send("welcome")

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send("chat", {"type": "chat.message", "text": text_data})

    async def chat_message(self, event):
        await self.send(event["text"])

websockets = URLRouter([path("ws/chat/", Chat.as_asgi())])
application = ProtocolTypeRouter({"http": http, "websocket": websockets})
""",
}
#: Spoils the store for the other tests if they share it, and is last of its class.
NEIGHBOUR = """
from asgi_ipc.testing import isolate_channel_layers
from channels.layers import get_channel_layer
from django.test import SimpleTestCase

class Neighbour(SimpleTestCase):
    @isolate_channel_layers()
    def test_it_is_alone(self):
        layer = get_channel_layer().sync
        assert layer.receive(["reader"]) == (None, None)
        assert layer.global_statistics()["messages_count"] == 0
        layer.group_add("chat", "somebody")
        layer.send("reader", {"text": "spoilt"})

class Other(Neighbour):
    pass
"""

KILLED = """
import os, signal

def test_killed(channel_layer):
    channel_layer.sync.send("c", {"n": 1})
    with open("prefix", "w") as file:
        file.write(channel_layer.prefix)
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Project:
    """A folder of tests, and what their runs leave."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder = folder
        self.prefix = f"p{secrets.token_hex(6)}"
        for name, text in files.items():
            file = folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text.replace("PREFIX", self.prefix))

    def run(self, *command: str) -> tuple[int, str]:
        """Run Python with these arguments; its exit code and output."""
        kept = ("PATH", "HOME", "LANG")
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env={
                **{key: os.environ[key] for key in kept if key in os.environ},
                "TMPDIR": str(self.folder),
                "PYTHONPATH": str(self.folder),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout

    def left(self, prefix: str = "") -> list[Path]:
        """What is left of its stores, and of the notes about them."""
        places = [Path("/dev/shm"), Path(tempfile.gettempdir()), self.folder]
        found = [path for place in places for path in place.glob(f"*/*{prefix or self.prefix}*")]
        return found + list(self.folder.glob("asgi_ipc-tests*"))


PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    pytest.importorskip("daphne")
    documented: dict[str, str] = {}
    page = DOCS / "testing.md"
    for block in [*blocks(page, "python"), *blocks(page, "ini")]:
        named = re.match(r"# (\S+\.(?:py|ini))\n", block)
        assert named is not None, block
        documented.setdefault(named[1], block)
    assert len(documented) == 7
    # Lines that the document adds to files of the project.
    for name in "mysite/settings.py", "pytest.ini":
        documented[name] = PROJECT[name] + documented[name]
    return Project(tmp_path, {**PROJECT, **documented, "test_neighbour.py": NEIGHBOUR})


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_the_documented_tests_pass_with_pytest(project: Project, workers: tuple[str, ...]) -> None:
    code, said = project.run(*PYTEST, *workers)
    assert code == 0, said
    assert "8 passed" in said, said
    assert project.left() == []


def test_the_documented_tests_pass_with_manage_py(project: Project) -> None:
    parallel = ("--parallel", "2", "--exclude-tag", "live")
    for arguments, tests in ((parallel, 5), (("--tag", "live"), 1)):
        code, said = project.run("manage.py", "test", *arguments)
        assert code == 0, said
        assert f"Ran {tests} test" in said, said
        assert project.left() == []


def test_the_store_of_a_killed_worker_is_gone_at_the_end_of_the_run(tmp_path: Path) -> None:
    files = {"conftest.py": 'pytest_plugins = ["asgi_ipc.testing"]', "test_it.py": KILLED}
    project = Project(tmp_path, files)
    code, said = project.run(*PYTEST, "-n", "1")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "crashed" in said, said
    prefix = (tmp_path / "prefix").read_text()
    assert project.left(prefix) == []


def test_the_store_of_a_killed_run_is_gone_after_the_next(tmp_path: Path) -> None:
    files = {"conftest.py": 'pytest_plugins = ["asgi_ipc.testing"]', "test_it.py": KILLED}
    project = Project(tmp_path, files)
    code, said = project.run(*PYTEST)
    assert code == -signal.SIGKILL, said
    prefix = (tmp_path / "prefix").read_text()
    assert project.left(prefix) != []
    (tmp_path / "test_it.py").write_text("def test_nothing():\n    pass\n")
    code, said = project.run(*PYTEST)
    assert code == 0, said
    assert project.left(prefix) == []
