"""Fixtures for the tests of the store of shared memory."""

from __future__ import annotations

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    """A clock to open a store with."""
    return Clock()


@pytest.fixture(params=[PosixEngine, SysVEngine, MmapEngine])
def kind(request: pytest.FixtureRequest) -> type[SharedMemoryEngine]:
    """Each engine's class in turn."""
    found: type[SharedMemoryEngine] = request.param
    return found
