"""The tests of locks, clean-up and processes catch a fault of each kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.wrong_locks import (
    WRONG_LOCKS,
    WrongLock,
)

ROOT = Path(__file__).parents[4]


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
    try:
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return  # What hangs is caught too.
    assert ended.returncode == 1, ended.stdout[-3000:]
    assert " failed" in ended.stdout
