"""Exceptions as a signal's handler raises them, at each call in turn."""

from __future__ import annotations

import gc
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["RESUMING", "Interrupted", "Interruption", "interrupted_at"]

#: What asyncio does to resume a task.
RESUMING = frozenset({"call_soon", "_call_soon"})


class Interruption(Exception):
    """As a signal's handler raises it."""


class Interrupted:
    """Whether there was a call to raise in."""

    happened = False


@contextmanager
def interrupted_at(call: int, also: Container[str] = ()) -> Iterator[Interrupted]:
    """Raise in the so manieth call of a function of asgi_ipc, or of one of these names."""
    left, found = call, Interrupted()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        code = frame.f_code
        # What is raised while something is thrown away is reported, and goes no further.
        ours = "asgi_ipc" in code.co_filename and code.co_name not in {"<genexpr>", "__del__"}
        if event == "call" and (ours or code.co_name in also):
            left -= 1
            if left == 0:
                sys.settrace(None)
                found.happened = True
                raise Interruption

    before = sys.gettrace()
    # Nor is anything of earlier rounds to be collected meanwhile.
    gc.disable()
    sys.settrace(trace)
    try:
        yield found
    finally:
        sys.settrace(before)
        gc.enable()
