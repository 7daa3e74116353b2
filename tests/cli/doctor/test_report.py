"""The doctor: what it says of the machine, of the engines and of the store of a site."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.__main__ import main
from asgi_ipc.cli.commands.doctor import command
from asgi_ipc.cli.doctor.text import as_text
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.doctor_runs import (
    doctor,
    of,
    report,
)
from tests.tools.stores import (
    KIB,
)

# ---- what it says


def test_it_says_in_words_which_engines_work() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asgi_ipc", "doctor"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for part in ("CPython", "sysv_ipc", "shmmax", "fcntl record lock", "posix (chosen)", "sysv"):
        assert part in done.stdout
    assert done.stdout.endswith("Engine posix works here.\n")
    assert max(map(len, done.stdout.splitlines())) < 160


KEYS = {
    "format", "asgi_ipc", "engine", "engine_options", "prefix", "channel_memory", "group_memory",
    "works", "system", "packages", "limits", "directories", "primitives", "engines", "store",
}  # fmt: skip
PRIMITIVES = {
    "clock", "boot_identity", "full_file_system", "shared_memory", "record_lock",
    "record_lock_killed", "semaphore", "flock", "flock_killed", "liveness", "wake_up",
    "reservation", "memory_limit",
}  # fmt: skip


def test_the_keys_of_the_report_are_stable_and_all_is_well_here() -> None:
    found = report()
    assert found["format"] == 2
    assert set(found) == KEYS
    assert {each["name"] for each in found["primitives"]} == PRIMITIVES
    for each in found["primitives"]:
        assert set(each) == {"name", "title", "where", "needed", "works", "detail", "advice"}
        assert each["works"] is True or each["name"] == "full_file_system", each
    for each in found["engines"]:
        assert set(each) == {"name", "lock", "works", "detail", "advice"}
        if each["name"] in ("memory", "mmap", "posix", "sysv"):
            assert each["works"] is True, each
    for each in found["directories"]:
        assert set(each) == {
            "path", "type", "exists", "free", "total", "read_only", "engines",
        }  # fmt: skip
    assert set(found["store"]) == {
        "prefix", "directory", "statistics", "lock", "relay", "works", "detail", "advice",
    }  # fmt: skip
    assert found["system"]["python"] == sys.version.split()[0]
    assert found["limits"]["open_files"] is None or found["limits"]["open_files"] > 0


def test_the_exit_status_is_that_of_the_chosen_engine() -> None:
    before = "sys.modules['_posixshmem'] = None"
    found = report(before=before, status=1)
    assert "choose engine 'mmap'" in of(found, "posix")["detail"]
    assert of(found, "mmap")["works"] is True
    report("--engine", "mmap", before=before)
    done = doctor(before=before)
    assert done.returncode == 1
    assert "FAILS  posix (chosen): this Python was built without POSIX shared memory" in done.stdout
    assert done.stdout.endswith("Engine posix does not work here.\n")


def test_an_engine_that_is_not_there_does_not_work() -> None:
    found = report("--engine", "posiks", status=1)
    assert "did you mean 'posix'" in of(found, "posiks")["detail"]


def test_a_wrong_option_is_named_and_no_value_gets_into_a_bug_report() -> None:
    done = doctor("--json", "--engine-option", "password=hunter2")
    assert done.returncode == 1
    assert "hunter2" not in done.stdout
    found = json.loads(done.stdout)
    assert found["engine_options"] == ["password"]
    assert "no option 'password'" in of(found, "posix")["detail"]
    assert doctor("--engine-option", "nothing").returncode == 2


class Foreign(MemoryEngine):
    """An engine that is not registered."""


def test_an_engine_of_another_package_is_tried_by_its_path() -> None:
    found = report("--engine", "tests.cli.doctor.test_report:Foreign")
    assert "within one process" in of(found, "tests.cli.doctor.test_report:Foreign")["detail"]


def test_a_directory_given_as_an_option_is_where_it_looks(tmp_path: Path) -> None:
    new = tmp_path / "new"
    found = report("--engine", "mmap", "--engine-option", f"directory={new}")
    assert str(new) in [each["path"] for each in found["directories"]]
    assert {each["where"] for each in found["primitives"]} >= {str(new)}
    assert list(tmp_path.iterdir()) == []


# ---- the store of a site


@pytest.mark.parametrize("engine", [MmapEngine, PosixEngine, SysVEngine])
def test_a_store_that_is_there_is_looked_at_and_not_changed(
    engine: type[MmapEngine], tmp_path: Path
) -> None:
    mine = engine("site", channel_memory=512 * KIB, group_memory=256 * KIB, directory=tmp_path)
    try:
        mine.push([Record(b"a", b"precious", mine.clock() + 10**12, 10)])
        arguments = ("--engine", engine.name, "--engine-option", f"directory={tmp_path}")
        found = report(*arguments, "--prefix", "site")["store"]
        assert found["works"] is True
        assert found["statistics"]["messages_pending"] == 1
        assert found["directory"] == str(tmp_path / "site")
        assert mine.pop(b"a")[0].payload == b"precious"
        assert mine.statistics()["processes"] == 1
        assert "there is none" in report(*arguments, "--prefix", "other")["store"]["detail"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]
    finally:
        mine.destroy()


def test_a_store_that_can_not_be_used_fails_and_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir(mode=0o700)
    lock = tmp_path / "site" / "lock"
    lock.write_text("a shopping list")
    lock.chmod(0o600)
    arguments = ["--engine", "mmap", "--engine-option", f"directory={tmp_path}"]
    found = report(*arguments, "--prefix", "site", status=1)
    assert of(found, "mmap")["works"] is True
    assert "not a lock file of asgi_ipc" in found["store"]["detail"]
    verdict = "Engine mmap works here, but the store of prefix 'site' can't be used.\n"
    assert as_text(found).endswith(verdict)
    assert lock.read_text() == "a shopping list"


# ---- the command line


def test_the_sizes_are_those_of_the_layers() -> None:
    parameters = inspect.signature(IPCChannelLayer).parameters
    defaults = {each.name: each.default for each in command.params}
    for name in ("channel_memory", "group_memory"):
        assert defaults[name] == parameters[name].default


def test_the_prefix_is_an_argument_or_an_option(tmp_path: Path) -> None:
    arguments = ("--engine", "mmap", "--directory", str(tmp_path))
    for named in (["site"], ["--prefix", "site"]):
        assert report(*named, *arguments)["store"]["directory"] == str(tmp_path / "site")
    assert main(["doctor", "one", "--prefix", "other"]) == 2
