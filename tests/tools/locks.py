"""Stores with one kind of lock or another."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from asgi_ipc.engines.shm.locks import fcntl_locks


def no_record_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let record locks not work here, so that a new store gets flock."""
    monkeypatch.setattr(fcntl_locks, "record_locks_fail", lambda path, descriptor: "switched off")


def recorded_kind(directory: Path) -> int:
    """The kind of lock that the lock file of the store in a directory names."""
    head = (directory / "store" / "lock").read_bytes()[:18]
    kind: int = struct.unpack("<14sHH", head)[2]
    return kind
