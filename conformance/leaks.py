"""Find leaks from outside the engine: what a process holds, and what a store leaves behind.

This module knows no engine: it reads where UNIX shows open descriptors, mapped files, threads,
shared memory and the temporary directory. It does not check what a system does not show.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from .tools import patient

_TRIAL = re.compile(r"/dev/shm/(?:sem\.)?asgi_ipc\.[0-9a-f]{16}\.t").fullmatch


def _places() -> list[Path]:
    """Return the directories in which stores lie."""
    found = {Path("/dev/shm"), Path(tempfile.gettempdir())}
    return sorted(location for location in found if location.is_dir())


def entries_named(word: str) -> list[str]:
    """Return files and directories with the word in their name, at most one directory deep."""
    found = []
    for location in _places():
        # Other processes change these meanwhile, and some directories may not be read.
        for folder in (location, *_list(location)):
            found += [str(path) for path in _list(folder) if word in path.name]
    return found


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    except OSError:
        return []


def _descriptors(process: str = "self") -> dict[int, str]:
    """Return the open descriptors of a process, and their targets."""
    folder = f"/proc/{process}/fd"
    if process == "self" and not os.path.isdir(folder):
        folder = "/dev/fd"
    found = {}
    with contextlib.suppress(OSError):  # This system does not list them.
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # The descriptor that listed them is closed by now.
                if process == "self":
                    os.fstat(int(name))
                found[int(name)] = name if folder == "/dev/fd" else os.readlink(f"{folder}/{name}")
    return found


def _mapped(process: str = "self") -> set[str]:
    """Return the files that are mapped into a process."""
    try:
        lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {fields[5] for line in lines if len(fields := line.split(None, 5)) == 6}


def files_used(process: str = "self") -> set[str]:
    """Return the files in these directories that a process has open or mapped, if visible."""
    locations = tuple(f"{location}/" for location in _places())
    # Python itself may be installed in the temporary directory, and loads modules meanwhile.
    code = tuple(
        f"{location}/" for location in (sys.prefix, sys.base_prefix, *sys.path) if location
    )
    return {
        name
        for name in {*_descriptors(process).values(), *_mapped(process)}
        # A directory may hold all stores of a user; its entries are found by name.
        if name.startswith(locations) and not name.startswith(code) and not os.path.isdir(name)
    }


def _sysv_segments(creators: Collection[int] = ()) -> set[str]:
    """Return ids of SysV segments: those that one of these processes made, or all."""
    try:
        rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    except OSError:
        return set()
    fields = [row.split() for row in rows]
    return {each[1] for each in fields if not creators or int(each[4]) in creators}


class Snapshot(NamedTuple):
    """What this process holds at one instant."""

    descriptors: dict[int, str]
    threads: set[threading.Thread]
    files: set[str]
    segments: set[str]

    @classmethod
    def take(cls, children: Collection[int] | None = None) -> Snapshot:
        """Record what this process holds, and the segments that it or its children made, or all.

        All segments are recorded to know later which are new: a child may get the process id of a
        process that died long ago and left segments.
        """
        segments = _sysv_segments({os.getpid(), *children} if children is not None else ())
        return cls(_descriptors(), set(threading.enumerate()), files_used(), segments)


def left_behind(before: Snapshot, files: set[str], prefix: str, children: list[int]) -> list[str]:
    """Return in words what exists now and did not before; empty if nothing leaked."""
    found: list[str] = []
    for patience in (0, 0.05, 0.2, 0.5, patient(1)):
        # A finished thread or a garbage cycle is no leak, but may take a moment to disappear.
        if patience:
            time.sleep(patience)
            gc.collect()
        found = _differences(before, files, prefix, children)
        if not found:
            break
    return found


def _differences(before: Snapshot, files: set[str], prefix: str, children: list[int]) -> list[str]:
    now = Snapshot.take(children)
    found = [
        f"descriptor {number}: {target}"
        for number, target in now.descriptors.items()
        if before.descriptors.get(number) != target
    ]
    found += [f"thread: {thread.name}" for thread in now.threads - before.threads]
    # A file that was open here and may still have a name.
    # A process may be killed while it tries whether semaphores can be made, which leaves one of 64
    # bytes that no store has. `check --orphans` finds it.
    used = sorted(name for name in files - before.files if not _TRIAL(name))
    found += [f"file: {name}" for name in used if os.path.exists(name)]
    found += [f"file: {name}" for name in entries_named(prefix)]
    found += [f"SysV segment: {number}" for number in now.segments - before.segments]
    return sorted(set(found))
