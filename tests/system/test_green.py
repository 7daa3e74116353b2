"""The layers under gevent and eventlet, which put green threads in place of threads."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_ipc.engines import available

_REPOSITORY = Path(__file__).parents[2]
_WATCHDOG = 120


@pytest.mark.parametrize("engine", ["memory", "posix"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_green_thread_that_waits_lets_the_others_run(library: str, engine: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    why = available()[engine]
    if why:
        pytest.skip(why)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.tools.green", library, engine],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        timeout=_WATCHDOG,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
