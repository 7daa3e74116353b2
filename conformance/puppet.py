"""A real process that executes a test's commands, and can be killed at any step."""

from __future__ import annotations

import ast
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .leaks import files_used
from .tools import ENOUGH, patient

#: Longest wait for an answer, in seconds; only a test that fails waits so long.
PATIENCE = 2 * ENOUGH
_ACTOR = "asgi_ipc.conformance.actor"


class PuppetError(Exception):
    """The process raised an exception; the text begins with its name."""


class Puppet:
    """Controls a process that runs ``actor.py``: a line of Python literals out, a line back."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        # The engine under test may lie on a path that only this process was given; and
        # no directory may precede it, as the directory of a script would.
        code = f"import sys; sys.path[:] = {sys.path!r}; from {_ACTOR} import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, repr(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._buffer = b""
        #: Files that it used; none may be left when its store is removed.
        self.files: set[str] = set()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def call(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """Send a command, wait, and return its result."""
        self.start(command, *args, **kwargs)
        return self.result()

    def start(self, command: str, *args: Any, **kwargs: Any) -> None:
        """Send a command without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(repr((command, args, kwargs)).encode() + b"\n")

    def result(self) -> Any:
        """Wait for the result of the last command."""
        kind, value = ast.literal_eval(self.line())
        if kind == "error":
            raise PuppetError(value)
        return value

    def line(self) -> str:
        """Wait for one line of output."""
        assert self._process.stdout is not None
        patience = patient(PATIENCE)
        until = time.monotonic() + patience
        while b"\n" not in self._buffer:
            poll = select.poll()
            poll.register(self._process.stdout, select.POLLIN)
            if not poll.poll(max(0, int(1000 * (until - time.monotonic())))):
                self.kill()
                raise AssertionError(f"process {self.pid} gave no answer in {patience:g} s")
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                raise AssertionError(f"process {self.pid} ended: {self._process.wait()}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def kill(self) -> list[str]:
        """Kill it with SIGKILL; return the lines that it had still printed."""
        # Stopped first, to see what it holds; afterwards that can't be found out.
        self._process.send_signal(signal.SIGSTOP)
        for _ in range(100):
            if self._is_stopped():
                break
            time.sleep(0.001)
        self.files |= files_used(str(self.pid))
        self._process.send_signal(signal.SIGKILL)
        return self._rest()

    def _is_stopped(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return True  # Not visible on this system, or gone.

    def end(self) -> list[str]:
        """Let it end by itself, killing it if it does not; return the lines left."""
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self.files |= files_used(str(self.pid))
        self._process.stdin.close()
        try:
            self._process.wait(patient(ENOUGH))
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._rest()

    def _rest(self) -> list[str]:
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        if not self._process.stdout.closed:
            self._buffer += self._process.stdout.read()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        lines, self._buffer = self._buffer.decode().splitlines(), b""
        return lines
