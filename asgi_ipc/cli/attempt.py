"""Call a function in a process of its own, so that neither a crash nor a hang ends the command."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from asgi_ipc.engines.shm.errors import remedy_for

#: Seconds that an attempt may take.
PATIENCE = 15.0


class Failed(Exception):
    """What was tried does not work; ``advice`` says what to do about it."""

    def __init__(self, detail: str, advice: str = "") -> None:
        super().__init__(detail)
        self.advice = advice


class NotTried(Exception):
    """It can't be tried here; the text says why."""


def attempt(
    check: Callable[[], str | None],
    if_it_hangs: str = "the system hangs; look at the kernel's log (dmesg)",
    patience: float | None = None,
) -> dict[str, Any]:
    """Call ``check`` in a forked process, and return a dict of what became of it.

    ``works`` is True, False or None (could not be tried), ``detail`` is what ``check`` returned or
    why it failed, ``advice`` what to do. Blocks for at most about ``patience`` seconds, or
    `PATIENCE`, and then kills the process and all that it has started.
    """
    patience = PATIENCE if patience is None else patience
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _carry_out(check, writer)
    os.close(writer)
    try:
        told = _line(reader, time.monotonic() + patience)
    finally:
        os.close(reader)
        # It, and whatever it started.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        status = _ended(child)
    if told:
        works, detail, advice = json.loads(told)
        return {"works": works, "detail": detail, "advice": advice}
    if told is None:
        return _failure(f"gave no answer within {patience:g} seconds", if_it_hangs)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    how = f"crashed with {signal.Signals(number).name}" if number else "ended without an answer"
    return _failure(how, "look at the kernel's log, and report it as a bug of asgi_ipc")


def _ended(child: int) -> int:
    """Return a process's status; 0 if not even SIGKILL ends it, as it waits for a device."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.0005)
    return 0


def _failure(detail: str, advice: str) -> dict[str, Any]:
    return {"works": False, "detail": detail, "advice": advice}


def _carry_out(check: Callable[[], str | None], writer: int) -> NoReturn:
    try:
        # A group of its own, so that all of it can be ended.
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        answer: list[Any]
        try:
            answer = [True, check() or "", ""]
        except NotTried as error:
            answer = [None, str(error), ""]
        except Failed as error:
            answer = [False, str(error), error.advice]
        except BaseException as error:
            answer = [False, f"{type(error).__name__}: {error}", remedy_for(error, "")]
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def _line(descriptor: int, deadline: float) -> bytes | None:
    """Read one line; empty if the other end was closed before, None if it takes too long."""
    data = b""
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return None
        more = os.read(descriptor, 65536)
        if not more:
            return b""
        data += more
    return data


class Other:
    """Within an attempt, a second process that does ``work(other)``; both sides tell and hear.

    A ``with`` block ends it.
    """

    def __init__(self, work: Callable[[Other], None]) -> None:
        self._socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._socket.close()
                self._socket = theirs
                work(self)
                os._exit(0)
            except BaseException as error:
                self.tell(f"{type(error).__name__}: {error}")
            finally:
                os._exit(1)
        theirs.close()

    def tell(self, word: str) -> None:
        """Send the other side a line."""
        with contextlib.suppress(OSError):
            self._socket.sendall(word.replace("\n", " ").encode() + b"\n")

    def hear(self) -> str:
        """Return the next line of the other process; `Failed` if it has ended or says nothing."""
        data = b""
        self._socket.settimeout(PATIENCE / 2)
        while not data.endswith(b"\n"):
            try:
                more = self._socket.recv(1)
            except TimeoutError:
                raise Failed("the other process does not answer") from None
            if not more:
                raise Failed("the other process ended too early")
            data += more
        return data.decode().rstrip("\n")

    def expect(self, word: str) -> None:
        """Wait for this line; `Failed` with what was heard instead."""
        heard = self.hear()
        if heard != word:
            raise Failed(f"in the other process: {heard}")

    def kill(self) -> None:
        """Kill the other process, and wait for its end."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._socket.close()
