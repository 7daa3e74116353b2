"""Calls that never wait for another thread, in whatever code they are made."""

from __future__ import annotations

import os
import posix
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines import deferred
from asgi_ipc.engines.bell import PipeBell
from asgi_ipc.engines.guards import Descriptors
from tests.tools.doubles import (
    PATIENCE,
    fresh,
    watchdog,
)
from tests.tools.stopped import Stopped, stopping
from tests.tools.stores import (
    open_store,
)

__all__ = ["watchdog"]


@pytest.fixture(params=["pipe", "FIFO"])
def bell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "pipe":
        yield PipeBell()
        return
    engine = open_store(tmp_path)
    yield engine.bell()
    engine.destroy()


@pytest.mark.parametrize("call", ["signal", "clear"])
def test_a_bell_does_not_wait_for_another_thread_in_the_middle_of_it(
    bell: Any, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = posix.read, posix.write
    stopped = Stopped(getattr(bell, call))
    monkeypatch.setattr(posix, "read", stopping(lambda: stopped, read))
    monkeypatch.setattr(posix, "write", stopping(lambda: stopped, write))
    descriptor = bell.fileno()
    with stopped:
        bell.signal()
        bell.clear()
        bell.close()
        assert bell.fileno() == -1
        os.fstat(descriptor)  # The other thread still uses it.
        bell.signal()
        bell.clear()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


def test_descriptors_are_closed_once_whatever_interrupts() -> None:
    descriptors = Descriptors()
    descriptors.set(*os.pipe())

    def close_and_raise(*_: int) -> None:
        descriptors.close()
        os.fstat(descriptors._pair[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descriptors.use(close_and_raise, None)
    for descriptor in descriptors._pair:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)
    other = os.dup(0)  # It may have the number that has just become free.
    descriptors.close()
    assert descriptors.use(lambda *_: 1, 2) == 2
    os.fstat(other)
    os.close(other)


def test_what_a_loop_does_for_a_thread_comes_before_what_the_thread_sends_next() -> None:
    layer = SyncIPCChannelLayer(fresh(), engine="memory")

    def slow() -> None:
        stopped.here()
        layer.send("c", {"n": 1})

    deferred.defer(slow)
    stopped = Stopped(deferred.run_all_deferred)
    threading.Timer(0.2, lambda: stopped.go_on.set()).start()
    stopped.thread.start()
    assert stopped.inside.wait(PATIENCE)
    layer.send("c", {"n": 2})
    assert layer.receive(["c"]) == ("c", {"n": 1})
    assert layer.receive(["c"]) == ("c", {"n": 2})
    stopped.thread.join(PATIENCE)
    layer.close()


def test_a_thread_does_not_wait_forever_for_what_a_loop_does_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deferred, "_PATIENCE", 0.05)
    layer = SyncIPCChannelLayer(fresh(), engine="memory")
    deferred.defer(lambda: stopped.here())
    stopped = Stopped(deferred.run_all_deferred)
    with stopped:
        layer.send("c", {"n": 1})
        assert layer.receive(["c"]) == (None, None)
    assert layer.receive(["c"]) == ("c", {"n": 1})
    layer.close()


def test_what_is_left_while_the_last_is_carried_out_is_done() -> None:
    done = []

    def first() -> None:
        done.append(1)
        deferred.defer(lambda: done.append(2))
        deferred.run_deferred()
        assert done == [1]

    deferred.defer(first)
    deferred.run_deferred()
    assert done == [1, 2]
    assert not deferred.pending
