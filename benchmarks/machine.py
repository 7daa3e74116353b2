"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

_PACKAGES = ("asgi_ipc", "channels", "channels_redis", "redis", "hiredis", "channels-lite")


def description(redis: str) -> dict[str, Any]:
    """Machine and versions."""
    versions = {"Python": platform.python_version(), **_versions()}
    if redis:
        versions["server"] = redis
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions,
    }


def load() -> float | None:
    """How many processes wanted a core in the last minute; None where that is not told."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
