"""The doctor on systems unlike this one: it reports what they lack, and stops at nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asgi_ipc.cli.doctor import cgroups
from asgi_ipc.cli.doctor.memory import try_memory
from asgi_ipc.engines.shm import file_systems, machine
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from tests.tools.disks import COPYING, as_root, on_disk
from tests.tools.doctor_runs import (
    doctor,
    of,
    report,
)

# ---- modules and programs that are missing

MISSING = {
    "RLIMIT_AS, as on OpenBSD": "import resource; del resource.RLIMIT_AS",
    "the module resource": "sys.modules['resource'] = None",
    "the module ctypes": "sys.modules['ctypes'] = None",
    "the module _multiprocessing": "sys.modules['_multiprocessing'] = None",
    "SemLock": "import _multiprocessing; del _multiprocessing.SemLock",
    "posix_fallocate, as on macOS": "import os; del os.posix_fallocate",
    "the module zlib": "sys.modules['zlib'] = None",
    "sched_getaffinity, as on macOS": "import os; del os.sched_getaffinity",
    "the right to ask the scheduler": """
import os
def refused(*_):
    raise PermissionError(1, "Operation not permitted")
os.sched_getaffinity = os.sched_yield = refused
""",
    "the locks of open files": "import fcntl; del fcntl.F_OFD_SETLK",
}
NO_PROC = """
import builtins
real = open
def open_(path, *arguments, **options):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", path)
    return real(path, *arguments, **options)
builtins.open = open_
"""


@pytest.mark.parametrize("what", MISSING)
def test_a_system_without_something_optional_works_and_nothing_fails(what: str) -> None:
    found = report(before=MISSING[what])
    for each in found["primitives"]:
        assert each["works"] is not False or not each["needed"], each
    assert of(found, "posix")["works"] is True
    text = doctor(before=MISSING[what]).stdout
    assert "FAILS" not in text, text


def test_without_proc_it_says_what_becomes_of_a_reboot_and_all_else_works() -> None:
    found = report(before=NO_PROC)
    failed = [each for each in found["primitives"] if each["works"] is False]
    assert [each["name"] for each in failed] == ["boot_identity"]
    assert "reboot" in failed[0]["advice"]


@pytest.mark.parametrize("what", ["the module _multiprocessing", "SemLock"])
def test_without_semaphores_it_says_which_lock_is_taken(what: str) -> None:
    found = report(before=MISSING[what])
    assert of(found, "posix")["lock"] == "fcntl record locks"
    (semaphore,) = [
        each
        for each in found["primitives"]
        if (each["name"], each["where"]) == ("semaphore", "/dev/shm")
    ]
    assert (semaphore["works"], semaphore["needed"]) == (False, False)
    assert "uses record locks" in semaphore["advice"]


def test_without_posix_fallocate_a_full_file_system_is_an_error_as_well() -> None:
    found = report(before=MISSING["posix_fallocate, as on macOS"])
    (full,) = [each for each in found["primitives"] if each["name"] == "full_file_system"]
    assert full["works"] is not False, full


def test_memory_that_can_not_be_had_fails_once() -> None:
    found = report(before="sys.modules['_posixshmem'] = None", status=1)
    failed = [each["name"] for each in found["primitives"] if each["works"] is False]
    assert failed.count("shared_memory") == 1
    assert "memory_limit" not in failed
    assert "reservation" not in failed


def test_what_a_process_ran_out_of_is_named_with_its_limit() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))"
    found = report("--engine", "mmap", before=limit, status=1)
    failed = [each for each in found["primitives"] if each["detail"].count("Too many open files")]
    assert failed
    for each in failed:
        assert "ulimit -n" in each["detail"] + each["advice"], each


def test_programs_are_found_where_cron_has_no_path_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sysctl").write_text("#!/bin/sh\necho $2 on $PATH\n")
    (tmp_path / "sysctl").chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(machine, "_FOLDERS", ("/nowhere", str(tmp_path)))
    said = f"kern.boottime on /usr/bin:/bin:/nowhere:{tmp_path}\n"
    assert machine.sysctl("kern.boottime") == said.encode()
    monkeypatch.setattr(machine, "_FOLDERS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.sysctl("kern.boottime") == b""


def test_the_folders_of_system_programs_are_looked_into() -> None:
    assert {"/sbin", "/usr/sbin"} <= set(machine._FOLDERS)


# ---- the lock that a store really uses


def test_a_named_directory_is_told_to_have_record_locks(tmp_path: Path) -> None:
    arguments = ("--engine", "posix", "--engine-option", f"directory={tmp_path}")
    found = report(*arguments)
    assert of(found, "posix")["lock"] == "fcntl record locks"
    assert of(found, "mmap")["lock"] == "semaphores"
    assert of(found, "memory")["lock"] is None
    here = {each["name"]: each for each in found["primitives"] if each["where"] == str(tmp_path)}
    assert "by fcntl record locks" in here["liveness"]["detail"]
    assert here["semaphore"]["works"] is None
    layer = PosixEngine("asgi", channel_memory=1 << 20, group_memory=1 << 20, directory=tmp_path)
    try:
        store = report(*arguments)["store"]
        assert store["lock"] == "fcntl record locks"
        assert store["detail"] == "it can be used, locked by fcntl record locks"
    finally:
        layer.destroy()


# ---- the directory that is named


def check_named(directory: str) -> None:
    found = report("--engine", "mmap", "--engine-option", f"directory={directory}", status=1)
    assert "can't lie on btrfs" in of(found, "mmap")["detail"]
    memory, reservation = (
        each
        for each in found["primitives"]
        if each["name"] in ("shared_memory", "reservation") and "mmap" in each["title"]
    )
    assert (memory["works"], memory["needed"], reservation["works"]) == (False, True, None)
    assert "can't lie on btrfs" in memory["detail"]
    (folder,) = [each for each in found["directories"] if each["path"] == directory]
    assert folder["type"] == "btrfs"
    # Record locks and FIFOs work there.
    found = report("--engine", "posix", "--engine-option", f"directory={directory}")
    assert os.listdir(directory) == []


@as_root
@pytest.mark.parametrize("disk", COPYING)
def test_the_named_directory_is_tried_and_not_the_one_above(disk: str, tmp_path: Path) -> None:
    on_disk(disk, tmp_path, check_named)


def test_a_directory_that_is_not_there_is_made_for_the_trial_alone(tmp_path: Path) -> None:
    found = report("--engine", "mmap", "--engine-option", f"directory={tmp_path / 'new'}")
    assert of(found, "mmap")["works"] is True
    assert list(tmp_path.iterdir()) == []
    found = report("--engine", "mmap", "--engine-option", f"directory={tmp_path / 'a/b'}", status=1)
    assert list(tmp_path.iterdir()) == []
    assert of(found, "mmap")["works"] is False


# ---- the memory limit of a control group

MOUNTS = "31 23 0:28 {root} {point} rw - {kind} cgroup rw{options}\n"


def play_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, root: str, limits: dict[str, str]
) -> None:
    """A /proc that says /a/b is this process's group, and the groups' limits."""
    point = tmp_path / "groups"
    kind, options = ("cgroup2", "") if version == 2 else ("cgroup", ",cpu,memory")
    (tmp_path / "mountinfo").write_text(
        MOUNTS.format(root="/", point="/nowhere", kind="cgroup", options=",cpu")
        + MOUNTS.format(root=root, point=point, kind=kind, options=options)
    )
    group = "0::/a/b\n" if version == 2 else "7:pids:/z\n4:cpu,memory:/a/b\n0::/\n"
    (tmp_path / "cgroup").write_text(group)
    for name, limit in limits.items():
        folder = point / name
        folder.mkdir(parents=True, exist_ok=True)
        file = "memory.max" if version == 2 else "memory.limit_in_bytes"
        (folder / file).write_text(f"{limit}\n")
    monkeypatch.setattr(cgroups, "PROC", str(tmp_path))


NONE = {1: "9223372036854771712", 2: "max"}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("root", "limits", "least"),
    [
        ("/", {"a/b": "60000000"}, 60_000_000),
        ("/", {"a": "50000000", "a/b": "60000000"}, 50_000_000),
        ("/", {"a": "50000000", "a/b": ""}, 50_000_000),
        # As a container shows it: its own group is the root of the mount.
        ("/a/b", {".": "70000000"}, 70_000_000),
        ("/docker/1", {".": "70000000"}, 70_000_000),
        ("/", {"a": "", "a/b": ""}, None),
        ("/", {"other": "1000"}, None),
    ],
)
def test_the_least_limit_above_a_process_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    root: str,
    limits: dict[str, str],
    least: int | None,
) -> None:
    said = {name: limit or NONE[version] for name, limit in limits.items()}
    play_groups(tmp_path, monkeypatch, version, root, said)
    assert cgroups.memory_limit() == least


def limit_of(engine: type[PosixEngine] | type[MmapEngine], **options: object) -> dict[str, object]:
    sizes = {"channel_memory": 100 << 20, "group_memory": 20 << 20}
    tried = try_memory(engine.name, engine, options, sizes, True)
    (found,) = [each for each in tried if each["name"] == "memory_limit"]
    return found


def test_a_limit_below_the_size_of_the_store_is_told_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_groups(tmp_path, monkeypatch, 2, "/", {"a/b": str(60 << 20)})
    found = limit_of(PosixEngine)
    assert found["works"] is False
    assert "62,914,560 bytes, and the store may take 125,829,120" in str(found["detail"])
    assert "--memory" in str(found["advice"])
    play_groups(tmp_path, monkeypatch, 2, "/", {"a/b": str(300 << 20)})
    assert limit_of(PosixEngine)["works"] is True
    # Pages of a disk are written back, and no process is killed for them.
    play_groups(tmp_path, monkeypatch, 2, "/", {"a/b": str(60 << 20)})
    monkeypatch.setattr(
        file_systems, "mount_of", lambda descriptor: file_systems.Mount("ext4", "/")
    )
    assert "on a disk" in str(limit_of(MmapEngine, directory=tmp_path / "d")["detail"])
