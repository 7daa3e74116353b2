"""Calling commands in this process, with default directories of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.cli.main import StoreChoice, run
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.stores import KIB


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed as JSON."""
        return json.loads(self.out)


class Commands:
    """Calls commands. ``settings`` are those of a site, if any."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, settings: StoreChoice | None = None) -> Ended:
        self._capsys.readouterr()
        status = run(arguments, settings)
        return Ended(status, *self._capsys.readouterr())


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Commands:
    """Calls a command, and returns how it ended."""
    return Commands(capsys)


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which all built-in engines make their default directories."""
    for engine in (PosixEngine, SysVEngine, MmapEngine):
        monkeypatch.setattr(engine, "default_parent", classmethod(lambda cls: str(tmp_path)))
    # Orphans of other tests, or of this user's sites, are none of these tests' business.
    monkeypatch.setattr("asgi_ipc.cli.listing.find_orphans", list)
    return tmp_path


MakeLayer = Callable[..., SyncIPCChannelLayer]


@pytest.fixture
def make_layer(parent: Path) -> Iterator[MakeLayer]:
    """Makes layers in the default directories, and destroys their stores."""
    made: list[SyncIPCChannelLayer] = []

    def make(prefix: str = "site", engine: str = "mmap", **options: Any) -> SyncIPCChannelLayer:
        sizes = {"channel_memory": 512 * KIB, "group_memory": 256 * KIB}
        made.append(SyncIPCChannelLayer(prefix, engine=engine, **(sizes | options)))
        return made[-1]

    yield make
    for layer in made:
        layer.destroy()
