"""What the tests with other users have in common."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.forks import in_child

__all__ = ["NOBODY", "as_nobody", "needs_root", "public_path"]

#: Of a user, and of a group, that nothing belongs to.
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


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
