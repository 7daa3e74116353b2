"""Facts about the machine. Nothing is tried and nothing is made."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .attempt import attempt

_PACKAGES = ("asgi_ipc", "msgpack", "posix_ipc", "sysv_ipc", "channels", "django")
#: Name in the report, and what Linux and the BSDs (macOS among them) call it.
_KERNEL = {
    "shmmax": ("kernel/shmmax", "kern.sysv.shmmax", "kern.ipc.shmmax", "kern.shminfo.shmmax"),
    "shmall": ("kernel/shmall", "kern.sysv.shmall", "kern.ipc.shmall", "kern.shminfo.shmall"),
    "shmmni": ("kernel/shmmni", "kern.sysv.shmmni", "kern.ipc.shmmni", "kern.shminfo.shmmni"),
    "open_files_of_all": ("fs/file-max", "kern.maxfiles"),
}
_RESOURCES = {
    "open_files": resource.RLIMIT_NOFILE,
    "file_size": resource.RLIMIT_FSIZE,
    "address_space": resource.RLIMIT_AS,
}


def system() -> dict[str, Any]:
    """System, Python and C library."""
    library = " ".join(part for part in platform.libc_ver() if part)
    return {
        "platform": platform.platform(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "byte_order": sys.byteorder,
        "bits": sys.maxsize.bit_length() + 1,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "libc": library or "unknown",
        "user": os.geteuid(),
        "group": os.getegid(),
        "processors": os.cpu_count(),
    }


def packages() -> dict[str, str | None]:
    """Version of each package that may play a part; None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def limits() -> dict[str, int | None]:
    """Limits of this process and of the kernel; None for no limit, or one that can't be read."""
    found: dict[str, int | None] = {}
    for name, number in _RESOURCES.items():
        soft = resource.getrlimit(number)[0]
        found[name] = None if soft == resource.RLIM_INFINITY else soft
    for name, (path, *keys) in _KERNEL.items():
        found[name] = _sysctl(path, keys)
    return found


def _sysctl(path: str, keys: list[str]) -> int | None:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/sys/{path}") as file:
        return int(file.read())
    for key in keys:
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            command = ["sysctl", "-n", key]
            done = subprocess.run(command, capture_output=True, check=True, timeout=10)
            return int(done.stdout)
    return None


def look_at(folder: str) -> dict[str, Any]:
    """Type and space of the file system that holds a folder, or would hold it."""
    nothing = {"type": None, "exists": None, "free": None, "total": None, "read_only": None}
    # A mount whose server has gone makes whoever looks at it wait for ever.
    result = attempt(lambda: json.dumps(_file_system(folder)))
    return {"path": folder} | nothing | (json.loads(result["detail"]) if result["works"] else {})


def _file_system(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    there = folder
    while not os.path.isdir(there) and os.path.dirname(there) != there:
        there = os.path.dirname(there)
    found["exists"] = there == folder
    with contextlib.suppress(OSError):
        status = os.statvfs(there)
        found["free"] = status.f_bavail * status.f_frsize
        found["total"] = status.f_blocks * status.f_frsize
        found["read_only"] = bool(status.f_flag & os.ST_RDONLY)
    found["type"] = _type(os.path.realpath(there))
    return found


def _type(folder: str) -> str | None:
    """The type of the file system with the longest mount point above a folder."""
    best, found = "", None
    with contextlib.suppress(OSError), open("/proc/self/mountinfo") as file:
        for line in file:
            # mount point is the fifth word, the type follows a lone dash
            before, _, after = line.partition(" - ")
            point = before.split()[4].encode().decode("unicode_escape")
            inside = folder == point or folder.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, found = point, after.split()[0]
    return found
