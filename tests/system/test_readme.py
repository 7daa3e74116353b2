"""README.md and the pages for users: their programs and commands run, their tables are true."""

from __future__ import annotations

import asyncio
import inspect
import queue
import re
import shlex
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, SyncIPCChannelLayer
from tests.tools import limits
from tests.tools.documents import DOCS, README, USERS, blocks

PATIENCE = 120.0


class Program:
    """A running Python program, and what it printed."""

    def __init__(self, file: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(file), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self) -> str:
        return self._lines.get(timeout=PATIENCE)

    def end(self) -> list[str]:
        """Wait for it to end well; the lines not yet seen."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        assert code == 0, lines
        return lines

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))


class Shell:
    """Runs the documents' programs from a folder, with a prefix of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"readme-{uuid.uuid4().hex[:12]}"
        self.programs: list[Program] = []

    def start(self, name: str, *arguments: str) -> Program:
        file = self.folder / name
        code, changes = re.subn('prefix="[a-z]+"', f'prefix="{self.prefix}"', programs()[name])
        assert changes == 1, name
        file.write_text(code)
        self.programs.append(Program(file, *arguments))
        return self.programs[-1]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    for program in shell.programs:
        program.kill()
    SyncIPCChannelLayer(prefix=shell.prefix).destroy()


def programs() -> dict[str, str]:
    """The Python blocks of the pages that hold whole programs, by the name in their first line."""
    return {
        name: code
        for page in ("quickstart.md", "without-django.md")
        for name, code in re.findall(
            r"^```python\n# (\S+\.py)\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S
        )
    }


def test_the_asyncio_programs_of_the_documents_talk(shell: Shell) -> None:
    listeners = [shell.start("listen.py") for _ in range(2)]
    for listener in listeners:
        assert listener.line() == "listening"
    assert shell.start("tell.py", "Good morning", "Good night").end() == []
    for listener in listeners:
        assert listener.end() == ["heard: Good morning", "heard: Good night"]


def test_the_synchronous_programs_of_the_documents_talk(shell: Shell) -> None:
    workers = [shell.start("work.py") for _ in range(2)]
    for worker in workers:
        assert worker.line() == "waiting for orders"
    for _ in range(3):
        assert shell.start("order.py").end() == ["total: 12"]


def test_the_programs_of_the_quickstart_do_as_they_say(shell: Shell) -> None:
    first, second, third = re.findall(
        r"^\$ asgi-ipc (.*)$", "".join(blocks(DOCS / "quickstart.md", "console")), re.M
    )

    def run(command: str) -> None:
        words = shlex.split(command.replace("quickstart", shell.prefix))
        subprocess.run([sys.executable, "-m", "asgi_ipc", *words], check=True, timeout=PATIENCE)

    worker, listener = shell.start("worker.py"), shell.start("listener.py")
    assert worker.line() == "waiting for numbers"
    assert listener.line() == "listening"
    run(first)
    assert worker.line() == "144"
    run(second)
    assert listener.end() == ["heard: hi"]
    worker.kill()
    run(third)


@pytest.mark.parametrize("page", USERS, ids=lambda page: page.name)
def test_every_python_block_of_a_page_for_users_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", USERS, ids=lambda page: page.name)
def test_every_setting_of_a_layer_on_a_page_is_one_that_a_layer_takes(
    page: Path, tmp_path: Path
) -> None:
    for block in blocks(page, "python"):
        if not block.startswith("# settings.py") or "before" in block.splitlines()[0]:
            continue
        found: dict[str, Any] = {}
        exec(block, found)
        for settings in found.get("CHANNEL_LAYERS", {}).values():
            if settings["BACKEND"] == "asgi_ipc.IPCChannelLayer":
                options = settings.get("CONFIG", {}) | {"engine": "memory", "engine_options": None}
                IPCChannelLayer(**options).sync.close()


def test_the_settings_and_the_snippet_for_django_work_in_django(shell: Shell) -> None:
    pytest.importorskip("channels.layers")
    settings, snippet = blocks(README, "python")
    code = f"""
{settings}
from django.conf import settings
settings.configure(CHANNEL_LAYERS=CHANNEL_LAYERS)
from channels.layers import get_channel_layer
get_channel_layer().sync.group_add("news", "reader")
{snippet}
print(get_channel_layer().sync.receive(["reader"]))
"""
    assert '"mysite"' in code
    file = shell.folder / "site.py"
    file.write_text(code.replace("mysite", shell.prefix))
    shell.programs.append(Program(file))
    assert shell.programs[-1].end() == ["('reader', {'type': 'news.flash', 'text': 'It works'})"]


def test_the_shell_commands_of_troubleshooting_do_as_they_say(shell: Shell) -> None:
    text = "".join(blocks(DOCS / "troubleshooting.md", "console"))
    commands = re.findall(r"^\$ asgi-ipc (.*?)(?: +#.*)?$", text, re.M)

    def run(command: str) -> tuple[int, str]:
        words = shlex.split(command.replace("mysite", shell.prefix))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "asgi_ipc", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    listing, *shows, doctor, check, check_and_remove, orphans, remove, stale = commands
    # Other tests may have stale stores, or orphans, which are not for this one to remove.
    assert (orphans, stale) == ("remove --orphans", "remove --stale")
    assert run(check)[0] == 2, "there is no store yet"
    layer = SyncIPCChannelLayer(prefix=shell.prefix)
    layer.send("c", {})
    assert shell.prefix in run(listing)[1]
    for show, part in zip(
        shows, ("messages_pending", "CHANNEL", str(layer.client_prefix[:28])), strict=True
    ):
        status, said = run(show)
        assert (status, part in said) == (0, True), said
    assert run(doctor)[0] == 0
    assert run(check) == run(check_and_remove) == (0, "sound\n")
    assert layer.receive(["c"]) == ("c", {})
    layer.close()
    assert run(f"{remove} --yes") == (0, f"removed {shell.prefix}\n")
    assert run(check)[0] == 2


def test_all_methods_and_only_they_are_in_the_table_on_their_side() -> None:
    text = (DOCS / "without-django.md").read_text()
    table = text.partition("\n## All methods\n")[2].partition("\n## ")[0]
    sides: dict[str, set[str]] = {}
    for names, side in re.findall(r"^\| (`.*?) \| (\w+).*? \|", table, re.M):
        for name in re.findall(r"`(\w+)\(", names):
            sides.setdefault(name, set()).add(side)
    for layer, side in ((IPCChannelLayer, "asynchronous"), (SyncIPCChannelLayer, "synchronous")):
        methods = {
            name
            for name, value in inspect.getmembers(layer, inspect.isfunction)
            if not name.startswith("_")
        }
        assert methods == {name for name, where in sides.items() if where & {side, "both"}}


def test_all_statistics_and_only_they_are_in_the_table() -> None:
    table = (DOCS / "statistics.md").read_text().partition("\n## ")[0]
    of_both: set[str] = set()
    of_the_store: set[str] = set()
    for names, meaning in re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.M):
        found = of_the_store if meaning.startswith("store only: ") else of_both
        found.update(re.findall(r"`(\w+)`", names))
    layer = SyncIPCChannelLayer(engine="memory")
    assert set(layer.channel_statistics("c")) == of_both
    assert set(layer.global_statistics()) == of_both | of_the_store
    layer.close()


def option(name: str) -> str:
    """What docs/options.md says of an option."""
    text = (DOCS / "options.md").read_text()
    return text.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]


def test_the_costs_of_process_memory_and_the_default_of_capacity_are_those_of_the_code() -> None:
    one, many = limits.RECORD + limits.REFERENCE, limits.SHARED
    assert f"| one channel | size + {one} |" in option("process_memory")
    assert f"| size + {many} + {limits.REFERENCE}n |" in option("process_memory")
    assert f"means {limits.DEFAULT_CAPACITY} on an ordinary" in " ".join(option("capacity").split())


def test_the_limits_are_those_of_the_code() -> None:
    table = (DOCS / "delivery.md").read_text().partition("\n## Limits\n")[2]
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \| .*? \|$", table, re.M))
    assert rows["processes in a store"] == f"{limits.SLOTS:,}"
    waiting = "receivers waiting in a store, not counting the first on each channel"
    assert rows[waiting] == f"{limits.NODES:,}"
    assert limits.MESSAGE_LIMIT == 1 << 20
    assert rows["a message"].startswith("1 MiB ")
    assert rows["nesting of a message"].startswith(f"{limits.DEPTH_LIMIT} deep")
    assert rows["names of channels and groups"].startswith(f"under {limits.NAME_LIMIT} ")
    assert rows["`prefix`"] == f"{limits.PREFIX_LIMIT} characters"
    assert (limits.SMALLEST_MEMORY, limits.SMALLEST_UNREAD) == (256 << 10, 16 << 20)
    assert limits.LARGEST_MEMORY == 1 << 40
    assert rows["`process_memory`"] == "16 MiB to 1 TiB"
    assert rows["`channel_memory`, `group_memory`"] == "256 KiB to 1 TiB"
    assert rows["prefix given to `new_channel`"] == "33 characters; a synchronous pattern 67"
    layer = IPCChannelLayer(engine="memory")
    layer.sync.new_channel("x" * 66 + "?")
    asyncio.run(layer.new_channel("x" * 33))
    with pytest.raises(TypeError):
        layer.sync.new_channel("x" * 67 + "?")
    with pytest.raises(TypeError):
        asyncio.run(layer.new_channel("x" * 34))
    layer.sync.close()


def test_every_option_has_a_heading() -> None:
    headings = re.findall(r"^## `(\w+)`$", (DOCS / "options.md").read_text(), re.M)
    assert headings == list(limits.OPTIONS)
