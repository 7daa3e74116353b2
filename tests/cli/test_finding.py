"""Finding a store by its prefix alone, and what is said if there is none, or more than one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.cli.choice import StoreChoice
from asgi_ipc.cli.finding import NoSuchStore, locate
from asgi_ipc.cli.main import COMMANDS
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.exceptions import StoreUnavailable
from tests.cli.conftest import Commands, MakeLayer


class Distant(MemoryEngine):
    """An engine of another package that other processes reach, and that can't only join."""

    capabilities = MemoryEngine.capabilities._replace(crosses_processes=True)


class Joining(Distant):
    """One that can."""

    @classmethod
    def of_existing(cls, prefix: str, **options: Any) -> Joining:
        """Join a store that is there."""
        if prefix != "site":
            raise StoreUnavailable(f"no server knows {prefix!r}")
        return cls(prefix, **options)


@pytest.mark.parametrize("engine", ["mmap", "posix", "sysv"])
def test_a_prefix_is_enough_whatever_the_engine(engine: str, make_layer: MakeLayer) -> None:
    make_layer("site", engine)
    site = locate(StoreChoice("site"))
    assert (site.factory.name, site.options) == (engine, {})
    assert locate(StoreChoice("site", engine)).location == site.location


def test_a_directory_and_its_group_are_enough(make_layer: MakeLayer, tmp_path: Path) -> None:
    named = {"directory": str(tmp_path / "own"), "group": os.getegid()}
    make_layer("site", "mmap", engine_options=named)
    assert locate(StoreChoice("site", None, {"directory": named["directory"]})).options == named
    make_layer("shared", "mmap", engine_options={"group": os.getegid()})
    assert locate(StoreChoice("shared")).options == {"group": os.getegid()}
    assert locate(StoreChoice("shared", None, {"group": os.getegid()})).prefix == "shared"


def test_what_is_similar_is_named(command: Commands, make_layer: MakeLayer) -> None:
    make_layer("mysite")
    assert "similar prefixes: 'mysite'" in command("stats", "mysit").err
    assert "similar prefixes: 'mysite'" in command("stats", "my").err
    assert "similar prefixes" not in command("stats", "quite-another").err
    assert "made by engine 'mmap'" in command("ping", "mysite", "--engine", "posix").out


#: What each command that takes PREFIX needs behind it.
BEHIND: dict[str, list[str]] = {
    "stats": [], "channels": [], "groups": [], "processes": [], "peek": ["c"], "send": ["c", "{}"],
    "group-send": ["g", "{}"], "tail": ["g"], "ping": [], "flush": ["--yes"], "remove": ["--yes"],
    "drain": [], "relays": [], "check": [], "metrics": [],
}  # fmt: skip


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("where", [[], ["--engine", "mmap"], ["--engine", "posix"]])
def test_no_command_makes_a_store(
    name: str, where: list[str], command: Commands, parent: Path
) -> None:
    # The relay waits for a store, and top needs a terminal.
    assert set(COMMANDS) - set(BEHIND) == {"list", "relay", "doctor", "completion", "top"}
    for directory in ([], ["--directory", str(parent / "none")]):
        ended = command(name, "site", *BEHIND[name], *where, *directory)
        assert ended.status == (1 if name == "ping" else 2)
        assert "no store of prefix 'site'" in ended.out + ended.err
    assert list(parent.iterdir()) == []


def test_two_stores_of_one_prefix_are_both_named(
    make_layer: MakeLayer, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_layer("site")
    other = parent / "other"
    other.mkdir()
    monkeypatch.setattr(PosixEngine, "default_parent", classmethod(lambda cls: str(other)))
    with pytest.raises(NoSuchStore, match=r"there is one of engine 'mmap' at"):
        locate(StoreChoice("site", "posix"))
    make_layer("site", "posix")
    with pytest.raises(StoreUnavailable, match=r"2 stores.*--engine, or with --directory"):
        locate(StoreChoice("site"))
    assert locate(StoreChoice("site", "posix")).location.directory.startswith(str(other))


def test_another_users_store_is_named_with_the_reason(
    command: Commands, make_layer: MakeLayer, parent: Path
) -> None:
    theirs = parent / "asgi_ipc-54321" / "site"
    theirs.mkdir(parents=True)
    (theirs / "lock").touch()
    assert "belongs to user" in command("stats", "site").err
    assert "run this as that user" in command("stats", "site").err
    make_layer("site")
    ended = command("stats", "site")
    assert ended.status == 0
    # Nobody but root may look into others' folders, so only root has two to choose from.
    is_told = f"there is another at '{theirs}', which belongs to user" in ended.err
    assert is_told == (os.geteuid() == 0)
    shutil.rmtree(theirs.parent)


def test_a_wrong_engine_or_directory_says_where_the_store_is(
    command: Commands, make_layer: MakeLayer, parent: Path
) -> None:
    make_layer("site")
    own = str(parent / f"asgi_ipc-{os.geteuid()}")
    said = command("stats", "site", "--directory", own, "--engine", "sysv").err
    assert "made by engine 'mmap', not 'sysv'" in said
    assert command("stats", "site", "--directory", own).status == 0
    assert "there is one of engine 'mmap' at" in command("stats", "site", "--directory", "/").err
    assert "must be an absolute path" in command("stats", "site", "--directory", "here").err
    file = parent / "file"
    file.touch()
    said = command("stats", "site", "--directory", str(file)).err
    assert f"there is no directory '{file}'" in said
    assert "other users" not in said


def test_an_engine_that_is_not_over_shared_memory_joins_by_its_own_means(
    command: Commands,
) -> None:
    assert "inside one process" in command("stats", "site", "--engine", "memory").err
    path = f"{__name__}:"
    assert "can't join a store without" in command("stats", "x", "--engine", f"{path}Distant").err
    assert "no server knows 'x'" in command("stats", "x", "--engine", f"{path}Joining").err
    assert command("stats", "site", "--engine", f"{path}Joining").status == 0
    refused = command("flush", "site", "--engine", f"{path}Joining", "--engine-option", "a=1")
    assert "no option 'a'" in refused.err
    assert "nothing to check" in command("check", "site", "--engine", f"{path}Joining").err


def test_a_store_of_an_engine_that_can_not_work_here_is_named_with_the_reason(
    command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_layer("site", "sysv").close()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sysv_ipc", None)
        (entry,) = command("list", "--json").json()
        assert (entry["state"], "pip install" in entry["problem"]) == ("unusable", True)
        for name in ("stats", "check", "remove", "ping"):
            ended = command(name, "site")
            assert "pip install" in ended.out + ended.err
        ended = command("remove", "--stale", "--yes")
        assert (ended.status, "pip install" in ended.out) == (1, True)
        assert command("check", "--orphans").status in (0, 1)


def test_a_lock_file_that_names_no_engine_here_is_not_imported(
    command: Commands, make_layer: MakeLayer, parent: Path
) -> None:
    make_layer("site")
    lock = next(parent.glob("*/site/lock"))
    kept = lock.read_bytes()
    lock.write_bytes(kept.replace(b"mmap", b"os:x"))
    said = command("stats", "site").err
    lock.write_bytes(kept)
    assert "was made by engine 'os:x', which is not registered here" in said
