"""Every store in the default directories, whatever its state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.cli.listing import listed
from asgi_ipc.cli.orphans import Orphan
from asgi_ipc.engines.shm.heap import layout
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from tests.cli.conftest import Commands, MakeLayer
from tests.tools.layers import engine_of
from tests.tools.stores import KIB, in_child, record
from tests.tools.users import NOBODY, as_nobody, needs_root, public_path

__all__ = ["public_path"]

KEYS = {
    "prefix", "engine", "directory", "user", "processes", "stale", "orphaned", "state", "messages",
    "memberships", "channel_bytes_used", "channel_bytes_reserved", "channel_bytes_total",
    "group_bytes_used", "group_bytes_reserved", "group_bytes_total", "age", "format", "memory",
    "problem", "relay",
}  # fmt: skip


def by_prefix(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert all(set(each) == KEYS for each in entries)
    return {each["prefix"]: each for each in entries}


def test_each_store_is_told_with_its_state(
    command: Commands, make_layer: MakeLayer, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = make_layer("used")
    used.send("work", {"type": "a"})
    used.group_add("news", "work")
    make_layer("stale", "posix").close()
    make_layer("foreign", "sysv").close()
    damaged = make_layer("damaged")
    words = engine_of(damaged).session.channels.words
    words[layout.STATE] = 77
    folder = next(parent.glob("asgi_ipc-*"))
    (folder / "junk").mkdir(mode=0o700)
    (folder / "junk" / "lock").write_text("a shopping list")
    (folder / "junk" / "lock").chmod(0o600)
    (folder / "nothing").mkdir(mode=0o700)
    gone = "its folder is gone", "", "/dev/shm/asgi_ipc-0/lost"
    lost, locks = Orphan("posix", "/asgi_ipc.0.c", *gone), Orphan("locks", "/dev/shm/sem.0", *gone)
    monkeypatch.setattr("asgi_ipc.cli.listing.find_orphans", lambda: [locks, lost])
    with monkeypatch.context() as patch:
        patch.setattr("asgi_ipc.cli.listing.VERSION", layout.VERSION + 1)
        assert by_prefix(command("list", "--json").json())["foreign"]["state"] == "unusable"
    found = by_prefix(command("list", "--json").json())
    shown = command("list").out
    words[layout.STATE] = layout.IDLE
    assert {prefix: each["state"] for prefix, each in found.items()} == {
        "used": "in use", "stale": "stale", "foreign": "stale", "damaged": "damaged",
        "junk": "no access", "lost": "orphaned",
    }  # fmt: skip
    about = found["used"]
    assert (about["engine"], about["processes"], about["stale"]) == ("mmap", 1, False)
    assert (about["messages"], about["memberships"]) == (1, 1)
    assert about["directory"] == str(folder)
    assert about["channel_bytes_used"] <= about["channel_bytes_reserved"] <= 512 * 1024
    assert (about["channel_bytes_total"], about["group_bytes_total"]) == (512 * 1024, 256 * 1024)
    assert 0 <= about["age"] < 600
    assert (found["stale"]["processes"], found["stale"]["stale"]) == (0, True)
    # One row, and one sentence, for all that is left of a store.
    assert found["lost"]["engine"] == "posix"
    assert found["lost"]["memory"] == ["/asgi_ipc.0.c", "/dev/shm/sem.0"]
    assert shown.count("its folder is gone") == 1
    assert "not a lock file" in found["junk"]["problem"]
    assert "the state of the channels is 77" in shown
    for path in (folder / "junk" / "lock", folder / "junk", folder / "nothing"):
        path.unlink() if path.name == "lock" else path.rmdir()


@needs_root
def test_root_sees_the_stores_of_others_and_they_that_there_are_some_of_root(
    command: Commands, public_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = public_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setattr(MmapEngine, "default_parent", classmethod(lambda cls: str(shared)))
    monkeypatch.setattr("asgi_ipc.cli.finding._default_parents", lambda: [str(shared)])
    monkeypatch.setattr("asgi_ipc.cli.listing.find_orphans", list)
    sizes: dict[str, Any] = {"channel_memory": 512 * KIB, "group_memory": 256 * KIB}
    mine = MmapEngine("mine", **sizes)

    def make() -> None:
        engine = MmapEngine("theirs", **sizes)
        engine.push([record(engine, b"work")])
        engine.close()
        (folder,) = [each.entry for each in listed() if each.entry.prefix != "theirs"]
        assert (folder.prefix, folder.state) == (None, "no access")
        assert "belongs to user 0" in str(folder.problem)

    as_nobody(make)
    found = by_prefix(command("list", "--json").json())
    mine.destroy()
    as_nobody(lambda: MmapEngine("theirs", **sizes).destroy())
    assert set(found) == {"mine", "theirs"}
    about = found["theirs"]
    assert (about["engine"], about["state"], about["messages"]) == ("mmap", "stale", 1)
    assert str(NOBODY) in about["user"]


#: ``list`` in a Python that no user but root can read.
PRIVATE_PYTHON = """
import os, sys
from asgi_ipc.cli import finding, listing, main

class Private:
    def find_spec(self, name, path=None, target=None):
        if os.geteuid():
            raise ModuleNotFoundError(f"no access to {name}", name=name)

sys.meta_path.insert(0, Private())
finding._default_parents = lambda: [sys.argv[1]]
listing.find_orphans = list
sys.exit(main.run(["list", "--json"]))
"""


@needs_root
def test_root_sees_the_stores_of_others_although_these_may_not_read_its_python(
    public_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = public_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setattr(PosixEngine, "default_parent", classmethod(lambda cls: str(shared)))
    sizes: dict[str, Any] = {"channel_memory": 512 * KIB, "group_memory": 256 * KIB}
    as_nobody(lambda: PosixEngine("theirs", **sizes).close())
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE_PYTHON, str(shared)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    as_nobody(lambda: PosixEngine("theirs", **sizes).destroy())
    (about,) = json.loads(done.stdout)
    assert (about["prefix"], about["state"], about["problem"]) == ("theirs", "stale", None)


def test_a_process_that_holds_the_lock_delays_no_list(make_layer: MakeLayer) -> None:
    layer = make_layer()
    engine: Any = engine_of(layer)

    def other() -> None:
        (found,) = listed()
        assert found.entry.processes == 1

    def inside() -> None:
        with engine.session.channels:
            in_child(other, 60)

    engine.session.store.lock_file.section.run(inside)


def test_an_empty_folder_has_no_stores(command: Commands, parent: Path, tmp_path: Path) -> None:
    assert command("list").out == "no stores in the default directories\n"
    assert command("list", "--directory", str(tmp_path)).out == f"no stores in {str(tmp_path)!r}\n"
    assert command("list", "--json").json() == []
