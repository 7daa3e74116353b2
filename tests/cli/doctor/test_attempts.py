"""The doctor's attempts: it survives whatever they do, and leaves nothing of them."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.cli import attempt as attempts
from asgi_ipc.cli.attempt import Failed, NotTried, attempt
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from tests.tools.doctor_runs import (
    of,
    report,
)
from tests.tools.namespaces import (
    ROOT,
    run_on,
)

# ---- attempts


def crash() -> str:
    faulthandler.disable()  # pytest's, which would tell the world about it
    os.kill(os.getpid(), signal.SIGBUS)
    return ""


def hang() -> str:
    time.sleep(60)
    return ""


def give_up() -> str:
    raise Failed("broken", "repair it")


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
    # At its end once no process has the other side any more.
    assert select.select([reader], [], [], 20)[0], "it lives on"
    assert os.read(reader, 1) == b""
    os.close(reader)


# ---- engines that take others along


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
    path = f"tests.cli.doctor.test_attempts:{name}"
    for patience in (2, 30):  # On a busy machine the others may need more.
        before = f"from asgi_ipc.cli import attempt; attempt.PATIENCE = {patience}"
        found = report("--engine", path, before=before, status=1)
        if said in of(found, path)["detail"] and of(found, "posix")["works"]:
            break
    assert said in of(found, path)["detail"]
    assert of(found, "posix")["works"] is True
    assert os.listdir("/dev/shm") == os.listdir("/tmp") == []


@pytest.mark.parametrize(
    ("name", "said"), [("Crashing", "crashed with SIGSEGV"), ("Hanging", "no answer within")]
)
def test_an_engine_that_crashes_or_hangs_stops_no_other_and_leaves_nothing(
    name: str, said: str
) -> None:
    fresh = "mount -t tmpfs none /dev/shm; mount -t tmpfs none /tmp; unset TMPDIR"
    run_on(fresh, check_taken_along, name, said)


def test_ended_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "asgi_ipc", "doctor"),
            *("--engine", "tests.cli.doctor.test_attempts:Hanging"),
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
