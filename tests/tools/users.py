"""What the tests with other users have in common."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.forks import in_child

# What a store loads at its first use. Another user may not read where Python lies.
for _name in ("grp", "pwd", "_posixshmem", "sysv_ipc"):
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)

__all__ = ["NAMES_WORKER", "NOBODY", "as_nobody", "needs_root", "public_path", "users_of_worker"]

#: Of a user, and of a group, that nothing belongs to.
NOBODY = 65534
#: The variable in which pytest-xdist tells a process of tests its name: gw0, gw1 and so on.
NAMES_WORKER = "PYTEST_XDIST_WORKER"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def users_of_worker(*numbers: int) -> tuple[int, ...]:
    """Numbers of users and groups that no test has that runs at the same time.

    Tests look at all that a user has, and remove it.
    """
    worker = int(os.environ.get(NAMES_WORKER, "gw0")[2:])
    return tuple(number + 10 * worker for number in numbers)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that other users can pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(function: Callable[[], object]) -> None:
    """Run it in a child that is another user, of no group of ours."""

    def changed() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        function()

    in_child(changed)
