"""CPython versions that are not installed, from Debian's newest packages."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from . import cpython
from .base import Machine, Platform, run
from .chroots import Chroot, unpack

#: Debian's, but for the compiled packages that it has for its own default version alone.
PACKAGES = (
    *("python3", "python3-pip", "python3-setuptools", "python3-wheel", "python3-pytest"),
    *("python3-pytest-xdist", "python3-click", "gcc", "libc6-dev"),
)


def platforms() -> Iterator[Platform]:
    """See `Kind.platforms`."""
    for version in ("3.14", "3.15"):
        if not cpython._find(version, False):
            yield Platform(f"CPython {version}", partial(_set_up, version))


def _set_up(version: str, cache: Path) -> Machine:
    packages = (*PACKAGES, f"python{version}", f"python{version}-dev")
    python = f"/usr/bin/python{version}"
    machine = unpack(cache, "sid", "amd64", packages, (python,))
    compiled(cache, machine, (python,))
    return machine


def compiled(cache: Path, machine: Chroot, python: Sequence[str]) -> None:
    """Compile the packages that are in C for a Python, in the system that it runs in."""
    sources, ready = cache / "sources", machine._root / ".compiled"
    if ready.exists():
        return
    if not (sources / ".ready").exists():
        shutil.rmtree(sources, ignore_errors=True)
        download = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
        download += ["--no-build-isolation", "--dest", str(sources)]
        run([sys.executable, *download, "msgpack", "sysv_ipc"])
        (sources / ".ready").touch()
    inside = machine._root / "sources"
    shutil.copytree(sources, inside, dirs_exist_ok=True)
    install = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
               "--break-system-packages", "--find-links=/sources")  # fmt: skip
    target = ("--target=/usr/local/packages",)
    packages = ("sysv_ipc", "msgpack")
    run(machine.command([*install, *target, *packages], {"CC": "gcc"}), 900)
    ready.touch()
