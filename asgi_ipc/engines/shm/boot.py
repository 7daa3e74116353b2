"""What tells one boot of the machine from the next."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess

#: Where systems have the programs of administrators.
_FOLDERS = ("/sbin", "/usr/sbin")


def boot_identity() -> bytes:
    """16 bytes that are the same for all processes until the machine starts again.

    Zeros where the system can't tell; a file then outlives a restart with what it held.
    """
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return _digest(file.read())
    # The time of the boot comes last: some systems move it when the clock is set.
    for name in ("kern.bootsessionuuid", "kern.boot_id", "kern.boottime"):
        said = sysctl(name)
        if said:
            return _digest(said)
    return bytes(16)


def sysctl(name: str) -> bytes:
    """Return what the system says of one of its variables; nothing if it does not.

    Cron jobs have a PATH without the folder of the program: all processes must find it.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_FOLDERS))
    environment = {**os.environ, "PATH": path}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["sysctl", "-n", name]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=10)
        return done.stdout if done.stdout.strip() else b""
    return b""


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
