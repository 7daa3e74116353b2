"""The worker threads that call an engine which blocks: closing waits for none of them."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from asgi_ipc.delivery.workers import MOST, Workers
from tests.tools.doubles import (
    PATIENCE,
)

_FROZEN_THREADS = """
import asyncio
import threading

from asgi_ipc import IPCChannelLayer
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.delivery.workers import MOST


class Freezing(MemoryEngine):
    capabilities = MemoryEngine.capabilities._replace(blocking=True)

    def push(self, records):
        threading.Event().wait()


async def main():
    layer = IPCChannelLayer(engine=Freezing)
    sends = [asyncio.ensure_future(layer.send("channel", {})) for _ in range(MOST)]
    while len(layer._core.demux.workers()._threads) < MOST:
        await asyncio.sleep(0.01)
    await layer.close()
    print("closed")
    for send in sends:
        send.cancel()


asyncio.run(main())
"""


def test_a_layer_closes_though_all_its_threads_wait_for_an_engine_that_hangs() -> None:
    command = [sys.executable, "-c", _FROZEN_THREADS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (0, "closed\n"), ended.stderr


def test_threads_that_could_not_be_started_count_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers, done = Workers(), threading.Semaphore(0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(MOST):
            with pytest.raises(RuntimeError):
                workers.do(done.release)
    workers.do(done.release)
    assert done.acquire(timeout=PATIENCE)
    workers.stop()


def test_a_call_waits_for_a_thread_that_is_there_if_there_can_be_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers, go_on, done = Workers(), threading.Event(), threading.Event()
    workers.do(lambda: go_on.wait(PATIENCE))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        workers.do(done.set)
    go_on.set()
    assert done.wait(PATIENCE)
    workers.stop()
