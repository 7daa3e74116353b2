"""The doctor: what it says, that it survives what it finds, and that it leaves nothing."""

from __future__ import annotations

import faulthandler
import fcntl
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.__main__ import main
from asgi_ipc.doctor import DEFAULT_SIZES
from asgi_ipc.doctor import attempt as attempts
from asgi_ipc.doctor.attempt import Failed, NotTried, attempt
from asgi_ipc.doctor.primitives import try_in
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.engines.mmap import MmapEngine
from asgi_ipc.engines.posix import PosixEngine
from asgi_ipc.engines.sysv import SysVEngine
from conformance.leaks import entries_named

from .namespaces import NO_SHM, ROOT, run_on
from .stores import KIB


def left() -> list[str]:
    """What bears the doctor's name, in the folders that it may look into."""
    return entries_named("doctor-")


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = set(left())
    yield
    # Another process of this suite may be at it too, but that cleans up in a moment.
    mine = set(left()) - before
    deadline = time.monotonic() + 120
    while mine & set(left()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not mine & set(left())


def doctor(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run it in a fresh interpreter, after some code."""
    code = f"import sys\n{before}\nfrom asgi_ipc.__main__ import main\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )


def report(*arguments: str, before: str = "", status: int = 0) -> dict[str, Any]:
    done = doctor("--json", *arguments, before=before)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["works"] is (status == 0)
    return found


def of(found: dict[str, Any], engine: str) -> dict[str, Any]:
    (result,) = [each for each in found["engines"] if each["name"] == engine]
    return dict(result)


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
    for part in ("CPython", "posix_ipc", "shmmax", "fcntl record lock", "posix (chosen)", "sysv"):
        assert part in done.stdout
    assert done.stdout.endswith("Engine posix works here.\n")
    assert max(map(len, done.stdout.splitlines())) < 160


KEYS = {
    "format", "asgi_ipc", "engine", "engine_options", "prefix", "channel_memory", "group_memory",
    "works", "system", "packages", "limits", "directories", "primitives", "engines", "store",
}  # fmt: skip
PRIMITIVES = {
    "clock", "boot_identity", "full_file_system", "shared_memory", "record_lock",
    "record_lock_killed", "flock", "flock_killed", "liveness", "wake_up", "reservation",
}  # fmt: skip


def test_the_keys_of_the_report_are_stable_and_all_is_well_here() -> None:
    found = report()
    assert found["format"] == 1
    assert set(found) == KEYS
    assert {each["name"] for each in found["primitives"]} == PRIMITIVES
    for each in found["primitives"]:
        assert set(each) == {"name", "title", "where", "works", "detail", "advice"}
        assert each["works"] is True or each["name"] == "full_file_system", each
    for each in found["engines"]:
        assert set(each) == {"name", "works", "detail", "advice"}
        if each["name"] in ("memory", "mmap", "posix", "sysv"):
            assert each["works"] is True, each
    for each in found["directories"]:
        assert set(each) == {
            "path", "type", "exists", "free", "total", "read_only", "engines",
        }  # fmt: skip
    assert set(found["store"]) == {
        "prefix", "directory", "statistics", "works", "detail", "advice",
    }  # fmt: skip
    assert found["system"]["python"] == sys.version.split()[0]
    assert found["limits"]["open_files"] is None or found["limits"]["open_files"] > 0


def test_it_needs_neither_django_nor_channels_nor_the_packages_of_engines() -> None:
    before = "for name in ('django', 'channels', 'sysv_ipc'): sys.modules[name] = None"
    assert "pip install sysv_ipc" in of(report(before=before), "sysv")["detail"]


def test_the_exit_status_is_that_of_the_chosen_engine() -> None:
    before = "sys.modules['posix_ipc'] = None"
    found = report(before=before, status=1)
    assert "pip install posix_ipc" in of(found, "posix")["detail"]
    assert of(found, "mmap")["works"] is True
    report("--engine", "mmap", before=before)
    done = doctor(before=before)
    assert done.returncode == 1
    assert "FAILS  posix (chosen): the package posix_ipc is not installed" in done.stdout
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


def test_an_engine_of_another_package_is_tried_by_its_path() -> None:
    found = report("--engine", "tests.test_doctor:Foreign")
    assert "within one process" in of(found, "tests.test_doctor:Foreign")["detail"]


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
        assert found["statistics"]["pending"] == 1
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
    assert lock.read_text() == "a shopping list"


# ---- machines that lack something


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
    run_on("mount -t tmpfs -o size=200k none /dev/shm", check_small_shm)


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


def test_a_fifo_that_wakes_nobody_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_ipc.doctor.primitives.PATIENCE", 1)
    monkeypatch.setattr("asgi_ipc.doctor.primitives.ring_once", lambda path: True)
    found = {each["name"]: each for each in try_in(str(tmp_path))}
    assert found["wake_up"]["works"] is False
    assert "not woken" in found["wake_up"]["detail"]


# ---- attempts


def crash() -> str:
    faulthandler.disable()  # pytest's, which would tell the world about it
    os.kill(os.getpid(), signal.SIGBUS)
    return ""


def hang() -> str:
    time.sleep(60)
    return ""


def give_up() -> str:
    raise Failed("broken", "mend it")


def decline() -> str:
    raise NotTried("not here")


def blunder() -> str:
    raise ValueError("nonsense")


def leave() -> str:
    os._exit(0)


@pytest.mark.parametrize(
    ("check", "works", "said"),
    [
        (lambda: "fine", True, "fine"),
        (crash, False, "crashed with SIGBUS"),
        (hang, False, "no answer within 1 seconds"),
        (give_up, False, "broken"),
        (decline, None, "not here"),
        (blunder, False, "ValueError: nonsense"),
        (leave, False, "ended without an answer"),
    ],
)
def test_whatever_an_attempt_does_there_is_an_answer(
    check: Callable[[], str], works: bool | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", 1 if check is hang else 60)
    result = attempt(check)
    assert result["works"] is works
    assert said in result["detail"]
    if works is False and check is not blunder:
        assert result["advice"]


def test_what_an_attempt_has_started_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", 1)
    reader, writer = os.pipe()

    def start_another() -> str:
        if not os.fork():
            time.sleep(60)
        return hang()

    attempt(start_another)
    os.close(writer)
    # At its end once nobody has the other side any more.
    assert select.select([reader], [], [], 20)[0], "it lives on"
    assert os.read(reader, 1) == b""
    os.close(reader)


# ---- engines that take others along


class Foreign(MemoryEngine):
    """An engine that nobody has registered."""


class Crashing(MmapEngine):
    """Ends its process in the middle of its work."""

    def pop(self, *arguments: Any, **options: Any) -> Any:
        """Crash."""
        os.kill(os.getpid(), signal.SIGSEGV)


class Hanging(PosixEngine):
    """Never ends its work."""

    def pop(self, *arguments: Any, **options: Any) -> Any:
        """Hang."""
        time.sleep(60)


def check_taken_along(name: str, said: str) -> None:
    path = f"tests.test_doctor:{name}"
    for patience in (2, 30):  # On a busy machine the others may need more.
        before = f"from asgi_ipc.doctor import attempt; attempt.PATIENCE = {patience}"
        found = report("--engine", path, before=before, status=1)
        if said in of(found, path)["detail"] and of(found, "posix")["works"]:
            break
    assert said in of(found, path)["detail"]
    assert of(found, "posix")["works"] is True
    assert os.listdir("/dev/shm") == os.listdir("/tmp") == []


@pytest.mark.parametrize(
    ("name", "said"), [("Crashing", "crashed with SIGSEGV"), ("Hanging", "no answer within")]
)
def test_an_engine_that_crashes_or_hangs_takes_nobody_along_and_leaves_nothing(
    name: str, said: str
) -> None:
    fresh = "mount -t tmpfs none /dev/shm; mount -t tmpfs none /tmp; unset TMPDIR"
    run_on(fresh, check_taken_along, name, said)


def test_ended_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "asgi_ipc", "doctor", "--engine", "tests.test_doctor:Hanging"),
            # Others try theirs at the same time; in here there is no other.
            *("--engine-option", f"directory={tmp_path / 'here'}"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("here/doctor-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    process.terminate()
    assert process.wait(120) == 128 + signal.SIGTERM
    assert list(tmp_path.glob("*/*")) == []


# ---- the command line


def test_the_sizes_are_those_of_the_layers() -> None:
    parameters = inspect.signature(IPCChannelLayer).parameters
    assert {name: parameters[name].default for name in DEFAULT_SIZES} == DEFAULT_SIZES


def test_the_command_line_tells_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, part in (["--help"], "doctor"), (["doctor", "--help"], "--engine-option"):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert part in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
