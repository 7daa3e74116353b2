"""Handlers of signals: one that raises, anywhere in the store, and one that uses the store."""

from __future__ import annotations

import collections
import contextlib
import gc
import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.layers.core import LayerCore
from tests.tools.doubles import (
    PATIENCE,
    WATCHDOG,
    watchdog,
)
from tests.tools.layers import (
    drain,
    engine_of,
    options,
)
from tests.tools.stores import (
    assert_sound,
    wait,
)

__all__ = ["options", "watchdog"]


class Interrupted(BaseException):
    """What the signal's handler raises, as Python does for Ctrl-C."""


#: Whether somebody is there to catch it. A signal may be handled a little later than it came.
interruptible = False


def interrupt(number: int, frame: FrameType | None) -> None:
    if interruptible:
        raise Interrupted


@contextlib.contextmanager
def another_process(options: dict[str, Any]) -> Iterator[Callable[[], bool]]:
    """Yields a function: whether a process that uses the store gets in and out within seconds."""
    ask_out, ask_in = os.pipe()
    say_out, say_in = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.close(ask_in)
            signal.alarm(int(WATCHDOG))
            layer = SyncIPCChannelLayer(**options)
            while os.read(ask_out, 1):
                layer.send("other", {})
                layer.receive(["other"])
                layer.group_add("other", "other")
                layer.group_discard("other", "other")
                os.write(say_in, b"!")
        os._exit(0)
    os.close(ask_out)

    def is_let_in() -> bool:
        os.write(ask_in, b"?")
        if not select.select([say_out], [], [], PATIENCE)[0]:
            return False
        return os.read(say_out, 1) == b"!"

    try:
        yield is_let_in
    finally:
        os.close(ask_in)
        os.kill(child, signal.SIGKILL)
        wait(child)
        os.close(say_out)
        os.close(say_in)


def test_an_exception_from_a_signal_handler_leaves_nobody_blocked(options: dict[str, Any]) -> None:
    dice = random.Random(1)
    layer = SyncIPCChannelLayer(**options)
    received: collections.Counter[int] = collections.Counter()
    tried, sent = set(), set()
    in_receive = interrupts = 0
    global interruptible
    before = signal.signal(signal.SIGALRM, interrupt)
    # The interpreter swallows an exception that arrives in a finalizer or a weak reference's
    # callback, and those of whatever earlier tests left run when garbage is collected.
    gc.collect()
    gc.disable()
    try:
        with another_process(options) as is_let_in:
            for number in range(2_500):
                what = dice.randrange(3)
                try:
                    try:
                        interruptible = True
                        signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 150e-6))
                        if what == 0:
                            tried.add(number)
                            layer.send("a", {"n": number})
                            sent.add(number)
                        elif what == 1:
                            _, message = layer.receive(["a"])
                            if message:
                                received[message["n"]] += 1
                        else:
                            layer.group_add("g", f"c{number % 50}")
                            layer.group_send("g", {})
                            layer.group_discard("g", f"c{number % 50}")
                    finally:
                        interruptible = False
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupted:
                    interruptible = False
                    interrupts += 1
                    in_receive += what == 1
                    assert is_let_in()
        received.update(drain(layer, "a"))
        assert interrupts > 100
        assert max(received.values()) == 1
        assert set(received) <= tried
        # As a kill would: only what the interrupted call had just taken.
        assert len(sent - set(received)) <= in_receive
        assert_sound(engine_of(layer))
    finally:
        gc.enable()
        signal.signal(signal.SIGALRM, before)
        layer.close()


@pytest.mark.parametrize("options", ["posix"], indirect=True)
def test_what_a_signal_handler_sends_inside_the_store_is_sent_after_it(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = SyncIPCChannelLayer(**options)
    sent_later: list[dict[str, Any]] = []
    handled: list[int] = []
    push_late = LayerCore._push_late

    def noted(core: LayerCore, records: dict[str, Any]) -> None:
        push_late(core, records)
        sent_later.append(records)

    monkeypatch.setattr(LayerCore, "_push_late", noted)

    def handler(number: int, frame: FrameType | None) -> None:
        layer.send("signals", {"n": len(handled)})
        handled.append(number)

    before = signal.signal(signal.SIGALRM, handler)
    dice = random.Random(2)
    count = 0
    try:
        until = time.monotonic() + PATIENCE
        while len(sent_later) < 3 and time.monotonic() < until:
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 100e-6))
            layer.send("a", {"n": count})
            assert layer.receive(["a"]) == ("a", {"n": count})
            count += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(sent_later) >= 3
        # A handler that comes while the former one's message waits may overtake it.
        assert sorted(drain(layer, "signals")) == list(range(len(handled)))
        assert_sound(engine_of(layer))
    finally:
        signal.signal(signal.SIGALRM, before)
        layer.close()
