"""The tests of locks, clean-up and processes catch a fault of each kind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.tools.wrong_locks import (
    WRONG_LOCKS,
    WrongLock,
)

ROOT = Path(__file__).parents[4]
#: Seconds after which a test with a fault is taken to hang: without it, each takes three at most.
HANGS = 15


@pytest.mark.parametrize("wrong", WRONG_LOCKS, ids=lambda wrong: wrong.plant.__name__)
def test_a_wrong_lock_is_caught(wrong: WrongLock) -> None:
    module, _, name = wrong.tests.partition("::")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.tools.wrong_locks",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-q", "-x", "-k", name, module]
    environment = os.environ | {"WRONG_LOCK": wrong.plant.__name__}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            code = process.wait(HANGS)
        except subprocess.TimeoutExpired:
            return  # What hangs is caught too.
        finally:
            # The children that it forked hang with it, and are of its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        text = said.read()
    assert code == 1, text[-3000:]
    assert " failed" in text
