"""Code that Python runs in the middle of an engine's methods, and that calls the engine: E25."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from asgi_ipc.engines.base import Engine
from asgi_ipc.exceptions import Reentered

from .tools import ENOUGH, deadline, pop, push, record

#: The methods that are interrupted.
_CALLS: dict[str, Callable[[Engine], object]] = {
    "push": lambda engine: push(engine, b"q", [b"x"]),
    "pop": lambda engine: engine.pop(b"q"),
    "restore": lambda engine: _put_back(engine),
    "put": lambda engine: engine.put(b"t", b"m", deadline(engine)),
    "members": lambda engine: engine.members(b"t"),
    "remove": lambda engine: engine.remove(b"t", b"m"),
    "statistics": lambda engine: engine.statistics(),
    "flush": lambda engine: engine.flush(),
}


def _put_back(engine: Engine) -> None:
    for each in engine.pop(b"q"):
        engine.restore(b"q", each)


@pytest.mark.clause("E25")
@pytest.mark.parametrize("name", _CALLS)
def test_a_call_in_the_middle_of_another_does_its_work_or_says_that_it_did_not(
    engine: Engine, name: str
) -> None:
    """Interrupts before every Python line of the method; an engine in another language has none."""
    stored: list[bytes] = []
    refused = 0
    unexpected: list[BaseException] = []

    def between(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal refused
        number = b"%d" % (len(stored) + refused)
        inside = engine.inside()
        try:
            if not engine.push([record(engine, b"between", number)]):
                stored.append(number)
            engine.statistics()
        except Reentered as error:
            refused += 1
            if not inside:
                unexpected.append(error)
        except BaseException as error:
            unexpected.append(error)
        return between

    def interrupted() -> None:
        push(engine, b"q", [b"1"])
        sys.settrace(between)
        try:
            _CALLS[name](engine)
        except BaseException as error:
            unexpected.append(error)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(ENOUGH)
    assert not thread.is_alive(), "it waits for itself"
    assert unexpected == []
    assert not engine.inside()
    found = pop(engine, b"between", len(stored) + refused + 1)
    if name == "flush":
        assert set(found) <= set(stored)
    else:
        assert found == stored
