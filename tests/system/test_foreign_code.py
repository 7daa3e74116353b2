"""Public calls from code that Python runs in the middle of other public calls.

Finalizers and collections, trace functions, handlers of log lines, of warnings and of signals:
nothing hangs, and what they send is sent once. Each in a process of its own; see
`tests.tools.foreign_code`.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_ipc.engines import available
from tests.tools.foreign_code import (
    WAYS,
)
from tests.tools.samples import each_value

_REPOSITORY = Path(__file__).parents[2]
#: Seconds until a run is taken to hang. It takes two, and with ``CASES=all`` four.
_WATCHDOG = 120


# The engines in shared memory have the same code in each way; in one of them all ways are tried.
_CASES = list(itertools.product(["memory", "posix", "blocking", "sqlite"], WAYS))
_CASES += each_value(["sysv", "mmap"], list(WAYS))


@pytest.mark.parametrize(("engine", "way"), _CASES)
def test_calls_in_the_middle_of_calls_neither_hang_nor_lose_anything(engine: str, way: str) -> None:
    why = available().get(engine)
    if why:
        pytest.skip(why)
    command = [sys.executable, "-W", "ignore", "-m", "tests.tools.foreign_code", engine, way]
    ended = subprocess.run(
        command, cwd=_REPOSITORY, capture_output=True, text=True, timeout=_WATCHDOG, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
