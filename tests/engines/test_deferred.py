"""What never waits for another thread: code that interrupts it may wait for ours."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.delivery.drop_log import DropLog
from asgi_ipc.engines import bell as bells
from asgi_ipc.engines import deferred
from asgi_ipc.engines.bell import PipeBell
from asgi_ipc.engines.guards import Descriptors
from asgi_ipc.engines.shm.bells import Signaller
from tests.tools.doubles import (
    PATIENCE,
    fresh,
    watchdog,
)
from tests.tools.stores import (
    open_store,
)

__all__ = ["watchdog"]


class Stopped:
    """A thread that is stopped in the middle of a call, as if other code waited there."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._inside, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=call, daemon=True)

    def here(self, *_: object) -> None:
        """What is to be called where the thread stops."""
        if threading.current_thread() is self._thread:
            self._inside.set()
            self._go_on.wait(PATIENCE)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._inside.wait(PATIENCE)

    def __exit__(self, *_: object) -> None:
        assert self._thread.is_alive()
        self._go_on.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def stopping(stop: Callable[[], Stopped], function: Callable[..., Any]) -> Callable[..., Any]:
    def stopped(*arguments: Any, **named: Any) -> Any:
        stop().here()
        return function(*arguments, **named)

    return stopped


@pytest.fixture(params=["pipe", "FIFO"])
def bell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "pipe":
        yield PipeBell()
        return
    engine = open_store(tmp_path)
    yield engine.bell()
    engine.destroy()


@pytest.mark.parametrize("call", ["ring", "clear"])
def test_a_bell_does_not_wait_for_another_thread_in_the_middle_of_it(
    bell: Any, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.read, os.write
    stopped = Stopped(getattr(bell, call))
    monkeypatch.setattr(os, "read", stopping(lambda: stopped, read))
    monkeypatch.setattr(os, "write", stopping(lambda: stopped, write))
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


@pytest.mark.parametrize("then", ["ring", "close"])
def test_signalling_others_does_not_wait_for_another_thread_that_signals(then: str) -> None:
    reader, writer = os.pipe()
    signaller = Signaller()

    def opened(_: int) -> int:
        stopped.here()
        return os.dup(writer)

    stopped = Stopped(lambda: signaller.signal(1, opened))
    with stopped:
        if then == "ring":
            assert signaller.signal(1, opened)
            assert os.read(reader, 100) == bells.ANY
        else:
            signaller.close()
    assert os.read(reader, 100) == bells.ANY
    assert len(signaller._writers) == (then == "ring")
    signaller.close()
    assert not signaller._writers
    os.close(reader)
    os.close(writer)


def test_noting_a_drop_does_not_wait_for_another_thread_that_notes_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def clock() -> float:
        stopped.here()
        return 0.0

    drops = DropLog(clock)

    def note() -> None:
        drops.dropped("a", 2, "{}".format)
        deferred.carry_out()

    stopped = Stopped(note)
    with stopped:
        drops.dropped("a", 3, "{}".format)
        drops.sum_up(ending=True)
        deferred.carry_out()
    assert sum(int(line) for line in caplog.messages) == 5


def test_what_a_thread_sends_comes_after_what_a_loop_does_for_it() -> None:
    layer = SyncIPCChannelLayer(fresh(), engine="memory")

    def slow() -> None:
        stopped.here()
        layer.send("c", {"n": 1})

    deferred.leave(slow)
    stopped = Stopped(deferred.carry_out_all)
    threading.Timer(0.2, lambda: stopped._go_on.set()).start()
    stopped._thread.start()
    assert stopped._inside.wait(PATIENCE)
    layer.send("c", {"n": 2})
    assert layer.receive(["c"]) == ("c", {"n": 1})
    assert layer.receive(["c"]) == ("c", {"n": 2})
    stopped._thread.join(PATIENCE)
    layer.close()


def test_who_waits_for_what_a_loop_does_for_it_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deferred, "_PATIENCE", 0.05)
    layer = SyncIPCChannelLayer(fresh(), engine="memory")
    deferred.leave(lambda: stopped.here())
    stopped = Stopped(deferred.carry_out_all)
    with stopped:
        layer.send("c", {"n": 1})
        assert layer.receive(["c"]) == (None, None)
    assert layer.receive(["c"]) == ("c", {"n": 1})
    layer.close()


def test_what_is_left_while_the_last_is_carried_out_is_done() -> None:
    done = []

    def first() -> None:
        done.append(1)
        deferred.leave(lambda: done.append(2))
        deferred.carry_out()
        assert done == [1]

    deferred.leave(first)
    deferred.carry_out()
    assert done == [1, 2]
    assert not deferred.left
