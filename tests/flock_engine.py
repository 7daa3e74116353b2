"""Engines on a machine without fcntl record locks: importing this switches them off."""

from __future__ import annotations

from asgi_ipc.engines.mmap import MmapEngine
from asgi_ipc.engines.posix import PosixEngine
from asgi_ipc.engines.sysv import SysVEngine
from asgi_ipc.store import record_locks


def _fail(path: str, descriptor: int) -> str:
    return "switched off"


record_locks.record_locks_fail = _fail

__all__ = ["MmapEngine", "PosixEngine", "SysVEngine"]
