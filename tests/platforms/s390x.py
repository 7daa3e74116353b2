"""CPython on s390x, of the other byte order, under user-mode emulation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from .base import PART, Machine, NotHere, Platform
from .chroots import unpack

#: How a program for s390x begins, which of these bits count, and what runs it. The F has the
#: emulator opened at once, so that it is found within the other system.
_MAGIC = r"\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff"


def platforms() -> Iterator[Platform]:
    """See `Kind.platforms`."""
    yield Platform("CPython on s390x (big-endian, emulated)", _set_up, ("mmap",), PART, patience=4)


def _set_up(cache: Path) -> Machine:
    emulator = shutil.which("qemu-s390x-static")
    if emulator is None:
        raise NotHere("qemu-s390x-static is not installed (package qemu-user-static)")
    packages = ("python3", "python3-click", "python3-msgpack", "python3-sysv-ipc", "python3-pytest",
                "python3-pytest-xdist")  # fmt: skip
    register = f":asgi_ipc-s390x:M::{_MAGIC}:{_MASK}:{emulator}:F"
    return unpack(cache, "sid", "s390x", packages, register=register)
