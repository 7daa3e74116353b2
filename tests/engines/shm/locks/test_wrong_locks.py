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

from tests.tools.leftovers import remove_stores_below
from tests.tools.wrong_locks import (
    WRONG_LOCKS,
    WrongLock,
)

ROOT = Path(__file__).parents[4]
#: Seconds after which a test with a fault is taken to hang, counted from its beginning: without it,
#: each takes three at most.
HANGS = 6.0
#: Seconds that the process has to come to a test.
STARTS = 120.0
#: Between two looks; a machine that pauses costs a test no more of its time.
TURN = 0.05


def hangs(process: subprocess.Popen[bytes], begun: Path) -> bool:
    """Whether a test that notes when it begins does not end; False when the process has ended."""
    number, turns, waited = "", 0, 0
    while True:
        try:
            process.wait(TURN)
            return False
        except subprocess.TimeoutExpired:
            turns, waited = turns + 1, waited + 1
        now = begun.read_text() if begun.exists() else ""
        if now != number:
            number, turns = now, 0
        assert number or waited * TURN < STARTS, "no test has begun"
        if number and turns * TURN >= HANGS:
            return True


@pytest.mark.parametrize("wrong", WRONG_LOCKS, ids=lambda wrong: wrong.plant.__name__)
def test_a_wrong_lock_is_caught(wrong: WrongLock, tmp_path: Path) -> None:
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
    stores = tmp_path / "stores"
    command += ["-q", "-x", f"--basetemp={stores}", "-k", name, module]
    begun = tmp_path / "begun"
    environment = os.environ | {"WRONG_LOCK": wrong.plant.__name__, "WRONG_LOCK_BEGUN": str(begun)}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            if hangs(process, begun):
                return  # What hangs is caught too.
            code = process.wait()
        finally:
            # The children that it forked hang with it, and are of its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            remove_stores_below(stores)
        said.seek(0)
        text = said.read()
    assert code == 1, text[-3000:]
    assert " failed" in text
