"""Fixtures for the tests of the store of shared memory."""

from __future__ import annotations

import pytest

from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from tests.tools.clocks import Clock
from tests.tools.stores import ENGINES


@pytest.fixture
def clock() -> Clock:
    """A clock to open a store with."""
    return Clock()


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> type[SharedMemoryEngine]:
    """Each engine's class in turn."""
    found: type[SharedMemoryEngine] = request.param
    return found
