"""Forked children: start them, wait for them, or have them killed at a chosen opcode."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import CodeType

from .opcodes import trace_nothing, trace_opcodes

#: Longest wait for a child, in seconds; only a test that fails waits so long.
PATIENCE = 120.0


def killed_at(
    operation: Callable[[], object],
    opcode: int,
    prepare: Callable[[], object] = lambda: None,
    seconds: float = PATIENCE,
    counts: Callable[[CodeType, int], bool] = lambda code, offset: True,
) -> bool:
    """Run an operation in a forked child that SIGKILLs itself before its opcode-th opcode.

    ``prepare`` runs there before the counting, and only opcodes of which ``counts`` is true are
    counted. Returns True if it was killed, False if it ended.
    """
    child = os.fork()
    if not child:
        seen = 0

        def count(code: CodeType, offset: int) -> None:
            nonlocal seen
            seen += counts(code, offset)
            if seen == opcode:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            # A collection would run finalizers, whose opcodes are none of the operation's.
            gc.disable()
            prepare()
            trace_opcodes(count)
            operation()
            trace_nothing()
            status = 0
        except BaseException:
            trace_nothing()
            traceback.print_exc()
        finally:
            os._exit(status)
    status = wait(child, seconds)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def wait(child: int, seconds: float = PATIENCE) -> int:
    """Return the exit status of a child; kill a child that hangs, and fail the test."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > deadline:
            break
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the child was still running after {seconds} seconds")


def in_child(function: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Run a function in a forked child; fail the test if the function fails."""
    assert wait(start(function), seconds) == 0


def start(function: Callable[[], object]) -> int:
    """Fork a child that runs a function, and return its process id; it exits with 1 on failure."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
