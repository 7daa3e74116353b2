"""The memory that Linux allows this process's control groups."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

#: Replaced by tests.
PROC = "/proc/self"
#: How version 1 says that there is no limit: a number about as large as there are.
_NO_LIMIT = 1 << 60


def memory_limit() -> int | None:
    """Return the least memory limit of the groups that this process is in; None for none.

    The kernel kills a process of the group at that limit, and counts the pages of /dev/shm and
    of System V memory for the group whose process took them first.
    """
    limits = []
    for folder, file in _folders():
        with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, file)) as text:
            limits.append(int(text.read()))  # "max" is none
    least = min(limits, default=_NO_LIMIT)
    return least if least < _NO_LIMIT else None


def _folders() -> Iterator[tuple[str, str]]:
    """The folder of each group above this process, and the file in it that says its limit."""
    for group, kind, file in _groups():
        for root, point in _mounts(kind):
            # Within a container the mount shows a part of the tree, and may be named otherwise.
            below = os.path.relpath(group, root)
            folder = point if below.startswith("..") else os.path.normpath(f"{point}/{below}")
            while folder.startswith(point):
                yield folder, file
                folder = os.path.dirname(folder)


def _groups() -> Iterator[tuple[str, str, str]]:
    with contextlib.suppress(OSError), open(f"{PROC}/cgroup") as lines:
        for line in lines:
            # "0::/path" in version 2, "4:memory:/path" in version 1
            _, controllers, group = line.rstrip("\n").split(":", 2)
            if not controllers:
                yield group, "cgroup2", "memory.max"
            elif "memory" in controllers.split(","):
                yield group, "cgroup", "memory.limit_in_bytes"


def _mounts(kind: str) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError), open(f"{PROC}/mountinfo") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            type_, _, options = after.split(maxsplit=2)
            if type_ == kind and (kind == "cgroup2" or "memory" in options.strip().split(",")):
                root, point = before.split()[3:5]
                yield root, point
