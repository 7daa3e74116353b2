"""A Redis server of the benchmark's own: on a socket, without a disk, gone at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

_NAMES = ("redis-server", "valkey-server")
_START = 10.0


def find(tell: Callable[[str], None]) -> tuple[str, str]:
    """The program and ``""``, installed if need be; or ``""`` and why there is none."""
    found = _found()
    if found:
        return found, ""
    apt = shutil.which("apt-get")
    if os.geteuid() != 0 or apt is None:
        return "", "no redis-server found; install Redis or Valkey to have it measured"
    tell("Installing redis-server with apt-get ...")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "redis-server"]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [apt, "-qq", *arguments],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=180,
                check=False,
            )
    found = _found()
    return found, "" if found else "redis-server could not be installed with apt-get"


def _found() -> str:
    return next(filter(None, map(shutil.which, _NAMES)), None) or ""


def version(program: str) -> str:
    """What the program says it is."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return " ".join(told.stdout.split()[:3])


@contextlib.contextmanager
def running(program: str, directory: str) -> Iterator[tuple[str, int]]:
    """Run it; the path of its socket, and its process. Raises RuntimeError if it does not start."""
    socket = os.path.join(directory, "redis.sock")
    options = {
        "port": "0",
        "unixsocket": socket,
        "unixsocketperm": "600",
        "save": "",
        "appendonly": "no",
        "dir": directory,
        "daemonize": "no",
        "logfile": os.path.join(directory, "redis.log"),
    }
    command = [program]
    for name, value in options.items():
        command += [f"--{name}", value]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + _START
            while not os.path.exists(socket):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{program} did not start")
                time.sleep(0.02)
            yield socket, process.pid
        finally:
            process.terminate()
            try:
                process.wait(_START)
            except subprocess.TimeoutExpired:
                process.kill()
