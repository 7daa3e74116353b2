"""CPython as it is installed here, in each version, also without a global lock."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .base import REQUIREMENTS, Machine, Native, NotHere, Platform, site, virtual_environment

_VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
_TELL = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2], sys.implementation.name, "
_TELL += "sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"


def platforms() -> Iterator[Platform]:
    """See `Kind.platforms`."""
    for version in _VERSIONS:
        if version in ("3.14", "3.15") and not _find(version, False):
            continue  # `debian_cpython` has them
        yield Platform(f"CPython {version}", partial(_set_up, version, False))
    for version in ("3.13", "3.14"):
        if version == "3.14" or _find(version, True):
            yield Platform(f"CPython {version}, free-threaded", partial(_set_up, version, True))


def _set_up(version: str, free_threaded: bool, cache: Path) -> Machine:
    python = _find(version, free_threaded)
    if python is None:
        raise NotHere(f"no python{version}{'t' if free_threaded else ''} is installed")
    folder = cache / f"venv-{version}{'t' if free_threaded else ''}"
    # The package sysv_ipc would have it take the lock again.
    without_lock = ("PYTHON_GIL=0",) if free_threaded else ()
    return Native(virtual_environment(python, folder, *REQUIREMENTS), site(cache), *without_lock)


def _find(version: str, free_threaded: bool) -> str | None:
    """Return an interpreter of this version that runs, in PATH or as pyenv has them."""
    name = f"python{version}{'t' if free_threaded else ''}"
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    built = sorted(pyenv.glob(f"{version}.*/bin/{name}"))
    for python in [*map(str, built), *filter(None, [shutil.which(name)])]:
        done = subprocess.run(
            [python, "-c", _TELL], capture_output=True, text=True, timeout=60, check=False
        )
        if done.stdout.split() == [version, "cpython", str(int(free_threaded))]:
            return python
    return None
