"""CPython of 32 bits: every engine that crosses processes must be refused, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base import Machine, Platform
from .chroots import unpack


def platforms() -> Iterator[Platform]:
    """See `Kind.platforms`."""
    yield Platform("CPython on i386", _set_up, refused="64-bit")


def _set_up(cache: Path) -> Machine:
    packages = ("python3", "python3-click", "python3-msgpack", "python3-sysv-ipc")
    return unpack(cache, "trixie", "i386", packages)
