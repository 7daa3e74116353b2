"""Facts about the machine. Nothing is tried and nothing is made."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from asgi_ipc.engines.shm.file_systems import mount_of
from asgi_ipc.engines.shm.machine import sysctl

from ..attempt import attempt
from .cgroups import memory_limit

_PACKAGES = ("asgi_ipc", "msgpack", "sysv_ipc", "channels", "django")
#: Name in the report, and what Linux and the BSDs (macOS among them) call it.
_KERNEL = {
    "shmmax": ("kernel/shmmax", "kern.sysv.shmmax", "kern.ipc.shmmax", "kern.shminfo.shmmax"),
    "shmall": ("kernel/shmall", "kern.sysv.shmall", "kern.ipc.shmall", "kern.shminfo.shmall"),
    "shmmni": ("kernel/shmmni", "kern.sysv.shmmni", "kern.ipc.shmmni", "kern.shminfo.shmmni"),
    "open_files_of_all": ("fs/file-max", "kern.maxfiles"),
}
#: Name in the report, and in the module `resource`. Not every system has all.
_RESOURCES = {
    "open_files": "RLIMIT_NOFILE",
    "file_size": "RLIMIT_FSIZE",
    "address_space": "RLIMIT_AS",
}


def system() -> dict[str, Any]:
    """Report system, Python and C library."""
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
    """Return the version of each package that may play a part; None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def limits() -> dict[str, int | None]:
    """Return limits of this process and the kernel; None for no limit or an unreadable one."""
    found: dict[str, int | None] = {}
    for name, constant in _RESOURCES.items():
        found[name] = _resource(constant)
    found["memory_of_group"] = memory_limit()
    for name, (path, *keys) in _KERNEL.items():
        found[name] = _sysctl(path, keys)
    return found


def _resource(constant: str) -> int | None:
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        soft: int = resource.getrlimit(getattr(resource, constant))[0]
        return None if soft == resource.RLIM_INFINITY else soft
    return None


def _sysctl(path: str, keys: list[str]) -> int | None:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/sys/{path}") as file:
        return int(file.read())
    for key in keys:
        with contextlib.suppress(ValueError):
            return int(sysctl(key))
    return None


def look_at(folder: str) -> dict[str, Any]:
    """Report type and space of the file system that holds a folder, or would hold it."""
    nothing = {"type": None, "exists": None, "free": None, "total": None, "read_only": None}
    # A process that looks at a mount whose server has gone waits without end.
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
    found["type"] = None
    with contextlib.suppress(OSError):
        descriptor = os.open(there, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mount = mount_of(descriptor)
            found["type"] = mount.type if mount else None
        finally:
            os.close(descriptor)
    return found
