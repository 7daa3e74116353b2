"""What the tests of the shared-memory store have in common."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from asgi_ipc.engines.base import Record
from asgi_ipc.engines.mmap import MmapEngine
from asgi_ipc.store.check import check
from asgi_ipc.store.engine import SharedMemoryEngine

KIB = 1024


def open_store(
    directory: Path, engine: type[SharedMemoryEngine] = MmapEngine, **options: Any
) -> SharedMemoryEngine:
    """A small store in a directory of the test's own."""
    sizes = {"channel_memory": 512 * KIB, "group_memory": 256 * KIB}
    return engine("store", directory=directory, **(sizes | options))


def record(
    engine: SharedMemoryEngine,
    queue: bytes,
    payload: bytes = b"x" * 100,
    capacity: int = 10**6,
    owner: bytes = b"",
    lifetime: int = 10**12,
) -> Record:
    """A record that lives for ``lifetime`` nanoseconds."""
    return Record(queue, payload, engine.clock() + lifetime, capacity, owner)


def assert_sound(engine: SharedMemoryEngine) -> None:
    """The full check finds nothing."""
    for region in (engine._channels, engine._groups):
        with region as heap:
            assert check(heap) == []


def killed_at(
    operation: Callable[[], object],
    opcode: int,
    prepare: Callable[[], object] = lambda: None,
    seconds: float = 60,
) -> bool:
    """Run an operation in a forked child that SIGKILLs itself before its opcode-th opcode.

    ``prepare`` runs there before the counting. True if it was killed, False if it ended.
    """
    child = os.fork()
    if not child:
        seen = 0

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal seen
            frame.f_trace_opcodes = True
            if event == "opcode":
                seen += 1
                if seen == opcode:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        status = 1
        try:
            prepare()
            sys.settrace(trace)
            operation()
            sys.settrace(None)
            status = 0
        except BaseException:
            sys.settrace(None)
            traceback.print_exc()
        finally:
            os._exit(status)
    status = wait(child, seconds)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def wait(child: int, seconds: float = 60) -> int:
    """The exit status of a child; a child that hangs is killed and fails the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the child was still running after {seconds} seconds")


def in_child(function: Callable[[], object], seconds: float = 60) -> None:
    """Run a function in a forked child; its failure is the test's."""
    child = os.fork()
    if not child:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert wait(child, seconds) == 0
