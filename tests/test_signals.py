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

from asgi_ipc import StoreUnavailable, SyncIPCChannelLayer

from .doubles import PATIENCE, WATCHDOG, watchdog
from .layers import drain, engine_of, options
from .stores import assert_sound, wait

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
def test_a_signal_handler_that_uses_the_store_inside_the_store_is_refused(
    options: dict[str, Any],
) -> None:
    layer = SyncIPCChannelLayer(**options)
    outcomes: collections.Counter[str] = collections.Counter()

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            layer.send("signals", {"n": 0})
            outcomes.update(["sent"])
        except StoreUnavailable as error:
            outcomes.update([str(error)[:36]])

    before = signal.signal(signal.SIGALRM, handler)
    dice = random.Random(2)
    try:
        with another_process(options) as is_let_in:
            sent: list[int] = []
            until = time.monotonic() + PATIENCE
            while len(outcomes) < 2 and time.monotonic() < until:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 100e-6))
                sent.append(len(sent))
                layer.send("a", {"n": sent[-1]})
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert outcomes.keys() == {"sent", "a signal handler or a __del__ method used"[:36]}
            assert is_let_in()
        assert drain(layer, "a") == sent
        assert len(drain(layer, "signals")) == outcomes["sent"]
        assert_sound(engine_of(layer))
    finally:
        signal.signal(signal.SIGALRM, before)
        layer.close()
