"""Python on musl, which only a system made with musl brings."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .base import REQUIREMENTS, Machine, Native, NotHere, Platform, site, virtual_environment


def platforms() -> Iterator[Platform]:
    """See `Kind.platforms`."""
    yield Platform("CPython on musl", _set_up)


def _set_up(cache: Path) -> Machine:
    python = shutil.which("python3")
    if python is None:
        raise NotHere("no python3 in PATH")
    linked = subprocess.run(["ldd", python], capture_output=True, text=True, check=False).stdout
    if "musl" not in linked:
        raise NotHere("this system is made with another C library; Debian packages musl, but no "
                      "Python for it: run it on Alpine")  # fmt: skip
    return Native(virtual_environment(python, cache / "venv-musl", *REQUIREMENTS), site(cache))
