"""System calls that fail when a test says so.

The modules of the store call the system through `os`, `posix`, `fcntl`, `mmap`, `_posixshmem` and
`sysv_ipc`, and nothing else. While a `Faults` is active, those functions are counted, and
the n-th call raises; the call is not made.
"""

from __future__ import annotations

import _posixshmem
import contextlib
import errno
import fcntl
import mmap
import os
import posix
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import sysv_ipc

import asgi_ipc

_PACKAGE = os.path.dirname(asgi_ipc.__file__) + os.sep

#: What is wrapped, by module.
CALLS: dict[Any, tuple[str, ...]] = {
    os: (
        "chmod", "chown", "close", "dup2", "fchmod", "fchown", "fstat", "ftruncate", "listdir",
        "lstat", "mkdir", "mkfifo", "open", "posix_fallocate", "pread", "pwrite", "read",
        "rmdir", "statvfs", "unlink", "write",
    ),
    posix: ("read", "write"),
    fcntl: ("fcntl", "flock", "lockf"),
    mmap: ("mmap",),
    _posixshmem: ("shm_open", "shm_unlink"),
    sysv_ipc: ("SharedMemory", "remove_shared_memory"),
}  # fmt: skip

#: Where releasing something is concerned there is nothing to be done about a failure.
NEVER_FAILS = {"close"}

ERRORS = (
    errno.ENOSPC,
    errno.EACCES,
    errno.EINTR,
    errno.EMFILE,
    errno.ENOLCK,
    errno.EAGAIN,
    errno.EDEADLK,
    errno.EIO,
)


def _lines_of_ours() -> Iterator[tuple[str, int]]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back


class Faults:
    """Counts the calls made, and lets one of them fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        #: By what lines of the package each call came about.
        self.ways: list[tuple[Any, ...]] = []
        self._fail_at = -1
        self._error = 0
        self._active = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for module, names in CALLS.items():
            for name in names:
                original = getattr(module, name)
                patch.setattr(module, name, self._wrapped(name, original))

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._active and name not in NEVER_FAILS:
                self.calls.append(name)
                self.ways.append((name, *_lines_of_ours()))
                if len(self.calls) - 1 == self._fail_at:
                    raise self._as_raised(name, args)
            return original(*args, **kwargs)

        return call

    def _as_raised(self, name: str, args: tuple[Any, ...]) -> BaseException:
        text = os.strerror(self._error)
        if name.endswith(("SharedMemory", "shared_memory")):
            if self._error == errno.EACCES:
                refused: BaseException = sysv_ipc.PermissionsError(text)
                return refused
            if self._error == errno.ENOSPC and name == "SharedMemory":
                return MemoryError(text)
        return OSError(self._error, text)

    @contextlib.contextmanager
    def failing(self, at: int, error: int) -> Iterator[None]:
        """Let call number ``at`` fail; with -1 only count."""
        self.calls.clear()
        self.ways.clear()
        self._fail_at, self._error, self._active = at, error, True
        try:
            yield
        finally:
            self._active = False

    @property
    def happened(self) -> bool:
        """Whether there was such a call."""
        return len(self.calls) > self._fail_at >= 0
