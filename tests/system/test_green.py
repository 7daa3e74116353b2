"""The layers under gevent and eventlet, which put green threads in place of threads."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines import available
from tests.tools.doubles import PATIENCE, fresh, in_thread, patient

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


@pytest.mark.parametrize("engine", ["memory", "posix"])
def test_no_bell_is_signalled_or_heard_by_what_eventlet_makes_wait(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = available()[engine]
    if why:
        pytest.skip(why)
    layer = patient(SyncIPCChannelLayer(f"{fresh()}-{os.getpid()}", engine=engine))
    got: list[object] = []

    def wait_for(*arguments: object) -> object:
        raise AssertionError("another green thread runs in the middle of a call")

    try:
        layer.receive(["c"], block=True, timeout=0.001)
        with monkeypatch.context() as patch:
            patch.setattr(os, "read", wait_for)
            patch.setattr(os, "write", wait_for)
            for channel in ("c", "x!"):
                receiver = in_thread(
                    lambda name=channel: got.append(layer.receive([name], block=True))
                )
                time.sleep(0.05)
                layer.send(channel, {"n": 1})
                receiver.join(PATIENCE)
        assert got == [("c", {"n": 1}), ("x!", {"n": 1})]
    finally:
        layer.destroy()
