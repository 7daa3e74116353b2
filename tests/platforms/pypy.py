"""PyPy, from Debian's newest packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base import Machine, Platform
from .chroots import unpack
from .debian_cpython import PACKAGES, compiled


def platforms() -> Iterator[Platform]:
    """See `Kind.platforms`."""
    yield Platform("PyPy", _set_up, patience=3)


def _set_up(cache: Path) -> Machine:
    python = ("/usr/bin/pypy3",)
    machine = unpack(cache, "sid", "amd64", (*PACKAGES, "pypy3", "pypy3-dev"), python)
    compiled(cache, machine, python)
    return machine
