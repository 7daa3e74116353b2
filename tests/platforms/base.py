"""What a platform is."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

ROOT = Path(__file__).resolve().parent.parent.parent
#: Modules of the conformance suite for machines on which all of it takes too long.
PART = ("test_segment", "test_queues", "test_tables", "test_crash")


class NotHere(Exception):
    """This machine can't play the platform, and why."""


class Machine(Protocol):
    """A platform that was set up."""

    #: Where it sees the checkout, and a folder from which asgi_ipc and its suite are imported.
    checkout: str
    site: str

    def command(self, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """Return the command of this machine that runs its Python with those arguments."""


class Platform(NamedTuple):
    """A platform to try: its name in the table, how to set it up, and what is expected of it."""

    name: str
    #: Called with the cache folder; raises `NotHere`.
    set_up: SetUp
    #: Engines to run the suite on; None for all that work.
    engines: tuple[str, ...] | None = None
    #: Modules of the suite; none for all.
    part: tuple[str, ...] = ()
    #: Part of the error with which a store must be refused there, "" if it must work.
    refused: str = ""
    #: How many times longer than here it may take.
    patience: int = 1


class SetUp(Protocol):
    """Sets a platform up, or says why it can't."""

    def __call__(self, cache: Path) -> Machine:
        """Return the machine. Raises `NotHere`."""


class Kind(Protocol):
    """A module of this package that knows some platforms."""

    def platforms(self) -> Iterator[Platform]:
        """Return those of its kind, whether they are here or not."""


class Native:
    """A Python of this very system."""

    def __init__(self, python: str, site: Path, *settings: str) -> None:
        """``settings`` are of the environment, such as "NAME=value"."""
        self._python = python
        self._settings = settings
        self.site = str(site)
        self.checkout = str(ROOT)

    def command(self, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """See `Machine.command`."""
        return ["env", *self._settings, *(f"{key}={value}" for key, value in environment.items()),
                self._python, *arguments]  # fmt: skip


@functools.cache
def site(cache: Path) -> Path:
    """Return a folder that holds asgi_ipc as it is now, with the suite where a wheel has it.

    It is this run's own, and removed when that ends.
    """
    folder = Path(tempfile.mkdtemp(prefix="site-", dir=cache))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    nothing_compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "asgi_ipc", folder / "asgi_ipc", ignore=nothing_compiled)
    suite = folder / "asgi_ipc" / "conformance"
    shutil.copytree(ROOT / "conformance", suite, ignore=nothing_compiled)
    return folder


def run(command: Sequence[str], seconds: float = 600) -> str:
    """Run a step of setting up and return what it printed. Raises `NotHere` if it fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
    except OSError as error:
        raise NotHere(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NotHere(f"{command[0]} took more than {seconds:g} seconds") from error
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        said = lines[-1].strip()[:100] if lines else f"exit status {done.returncode}"
        raise NotHere(f"{os.path.basename(command[0])}: {said}")
    return done.stdout


def virtual_environment(python: str, folder: Path, *requirements: str) -> str:
    """Return the Python of a virtual environment with those packages, made if need be."""
    ready, inside = folder / ".ready", str(folder / "bin" / "python")
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        run([python, "-m", "venv", str(folder)])
        install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run([inside, *install, *requirements], 900)
        ready.touch()
    return inside


#: What asgi_ipc and its suite need, besides themselves.
REQUIREMENTS = ("msgpack>=1.0.5", "click>=8.1", "sysv_ipc>=1.1", "pytest>=8.0", "pytest-xdist>=3.5")
