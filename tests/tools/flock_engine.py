"""Engines on a machine without fcntl record locks: importing this switches them off."""

from __future__ import annotations

from asgi_ipc.engines.shm.locks import fcntl_locks
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine


def _fail(path: str, descriptor: int) -> str:
    return "switched off"


fcntl_locks.record_locks_fail = _fail

__all__ = ["MmapEngine", "PosixEngine", "SysVEngine"]
