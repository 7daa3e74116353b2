"""The doctor on machines that lack something: it finds what, and names a remedy."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from asgi_ipc.__main__ import main
from asgi_ipc.cli.doctor.primitives import try_in
from tests.tools.doctor_runs import (
    of,
    report,
)
from tests.tools.namespaces import (
    NO_SHM,
    run_on,
)


def test_it_needs_neither_django_nor_channels_nor_the_packages_of_engines() -> None:
    before = "for name in ('django', 'channels', 'sysv_ipc'): sys.modules[name] = None"
    assert "pip install 'asgi_ipc[sysv]>=2'" in of(report(before=before), "sysv")["detail"]


def check_no_shm() -> None:
    found = report(status=1)
    assert "mount" in of(found, "posix")["detail"]
    assert of(found, "mmap")["works"] is True
    assert main(["doctor", "--engine", "sysv"]) == 0


def test_without_dev_shm_it_says_what_to_do() -> None:
    run_on(NO_SHM, check_no_shm)


def check_small_shm() -> None:
    found = report(status=1)
    assert "No space left" in of(found, "posix")["detail"]
    assert "channel_memory" in of(found, "posix")["detail"]
    assert os.listdir("/dev/shm") == []
    assert main(["doctor", "--channel-memory", "300000", "--group-memory", "300000"]) == 0


def test_with_too_little_shared_memory_for_the_layer_it_says_so() -> None:
    run_on("mount -t tmpfs -o size=500k none /dev/shm", check_small_shm)


def check_tiny_shm() -> None:
    found = report(status=1)
    (memory,) = [
        each
        for each in found["primitives"]
        if each["name"] == "shared_memory" and "posix" in each["title"]
    ]
    assert memory["works"] is False
    assert "/dev/shm" in memory["detail"]
    assert os.listdir("/dev/shm") == []
    assert Path("/proc/sysvipc/shm").read_text().count("\n") == 1


def test_with_hardly_any_shared_memory_it_goes_through_all_and_leaves_nothing() -> None:
    run_on("mount -t tmpfs -o size=20k none /dev/shm", check_tiny_shm, kinds=("--mount", "--ipc"))


def check_low_limit() -> None:
    Path("/proc/sys/kernel/shmmax").write_text("20000000")
    found = report("--engine", "sysv", status=1)
    assert "kernel.shmmax=20000000" in of(found, "sysv")["detail"]


def test_system_v_limits_too_low_for_the_layer_are_named() -> None:
    run_on("", check_low_limit, kinds=("--ipc",))


def check_read_only() -> None:
    found = report("--engine", "mmap", status=1)
    assert "temporary folder" in of(found, "mmap")["detail"]
    assert of(found, "posix")["works"] is True


def test_with_a_read_only_temporary_folder_it_says_so() -> None:
    run_on(
        "mount -t tmpfs -o ro none /tmp; mount -t tmpfs -o ro none /var/tmp; unset TMPDIR",
        check_read_only,
    )


def test_locks_that_do_not_work_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "lockf", lambda *arguments: None)
    found = {each["name"]: each for each in try_in(str(tmp_path))}
    assert found["record_lock"]["works"] is False
    assert "two holders" in found["record_lock"]["detail"]
    assert "flock" in found["record_lock"]["advice"]
    for name in ("flock", "flock_killed", "liveness", "wake_up"):
        assert found[name]["works"] is True, found[name]
    assert "by flock" in found["liveness"]["detail"]
    assert list(tmp_path.iterdir()) == []


def test_a_fifo_that_wakes_no_reader_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_ipc.cli.doctor.primitives.PATIENCE", 1)
    monkeypatch.setattr("asgi_ipc.cli.doctor.primitives.signal_once", lambda path: True)
    found = {each["name"]: each for each in try_in(str(tmp_path))}
    assert found["wake_up"]["works"] is False
    assert "did not wake" in found["wake_up"]["detail"]
