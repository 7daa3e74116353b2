"""The programs in README.md, each run as it stands, in processes of its own."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.options import NAMES as OPTIONS

README = Path(__file__).resolve().parent.parent / "README.md"
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
    """Runs README's programs from a folder, with a prefix that nobody else uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"readme-{uuid.uuid4().hex[:12]}"
        self.programs: list[Program] = []

    def start(self, name: str, *arguments: str) -> Program:
        file = self.folder / name
        code, changes = re.subn('prefix="[a-z]+"', f'prefix="{self.prefix}"', programs()[name])
        assert changes == 1
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
    """The Python blocks of README by the name in their first line."""
    blocks = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", README.read_text(), re.M | re.S)
    return dict(blocks)


def test_the_asyncio_programs_of_the_readme_talk(shell: Shell) -> None:
    listeners = [shell.start("listen.py") for _ in range(2)]
    for listener in listeners:
        assert listener.line() == "listening"
    assert shell.start("tell.py", "Good morning", "Good night").end() == []
    for listener in listeners:
        assert listener.end() == ["heard: Good morning", "heard: Good night"]


def test_the_synchronous_programs_of_the_readme_talk(shell: Shell) -> None:
    workers = [shell.start("work.py") for _ in range(2)]
    for worker in workers:
        assert worker.line() == "waiting for orders"
    for _ in range(3):
        assert shell.start("order.py").end() == ["total: 12"]


def test_every_python_block_of_the_readme_compiles() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    assert len(blocks) >= 7
    for block in blocks:
        compile(block, str(README), "exec")


def test_every_option_has_a_heading() -> None:
    headings = re.findall(r"^### `(\w+)`$", README.read_text(), re.M)
    assert headings == list(OPTIONS)


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in README.parent.glob("*.md"):
        text = document.read_text()
        anchors = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", text, re.M)
        }
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in anchors, (document.name, target)
            else:
                assert os.path.exists(document.parent / target), (document.name, target)


def test_every_path_that_contributing_names_is_there() -> None:
    text = (README.parent / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:asgi_ipc|conformance|tests)/[\w/.]*)`", text):
        assert (README.parent / path).exists(), path
