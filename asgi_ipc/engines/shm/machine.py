"""What processes must have in common to share a store: the word, the byte order, the boot."""

from __future__ import annotations

import _thread
import contextlib
import hashlib
import os
import struct
import subprocess
import sys
from importlib import import_module

#: Bytes of a pointer. The locks of a semaphore, and whether a store of 8 bytes is whole or two
#: halves, depend on it.
WORD_BYTES = struct.calcsize("P")
#: Where systems have the programs of administrators.
_FOLDERS = ("/sbin", "/usr/sbin")


def machine() -> int:
    """What processes must have in common to share a store, as a number for the lock file."""
    return WORD_BYTES | (0x100 if sys.byteorder == "big" else 0)


def told(number: int) -> str:
    """Such a number in words."""
    return f"{8 * (number & 0xFF)}-bit {'big' if number & 0x100 else 'little'}-endian"


def unsuitable() -> str | None:
    """None, or why no engine that crosses processes can work here and what to do about it."""
    if WORD_BYTES != 8:
        return (
            f"this is a {8 * WORD_BYTES}-bit Python, which stores 8 bytes in two halves, and a "
            "process killed between them would leave half a change: use a 64-bit Python, or "
            "engine 'memory' within one process"
        )
    if not in_main_interpreter():
        return (
            "this is a sub-interpreter, and the locks that keep processes apart don't keep apart "
            "the interpreters of one process: run the application in the main interpreter (with "
            "mod_wsgi: 'WSGIApplicationGroup %{GLOBAL}', and a daemon process group for each "
            "application), use a process for each (ProcessPoolExecutor in place of "
            "InterpreterPoolExecutor), or engine 'memory' within one interpreter"
        )
    return None


def in_main_interpreter() -> bool:
    """Whether this is the interpreter that its process began with."""
    # From 3.13 on.
    is_main = getattr(_thread, "_is_main_interpreter", None)
    if is_main is not None:
        return bool(is_main())
    try:
        interpreters = import_module("_xxsubinterpreters")
    except ImportError:  # an interpreter, or a build, that knows only one
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


def boot_identity() -> bytes:
    """16 bytes that are the same for all processes with one clock until the machine starts again.

    Zeros where the system can't tell; a file then outlives a restart with what it held.
    """
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return _digest(file.read() + _clock_offset())
    # The time of the boot comes last: some systems move it when the clock is set.
    for name in ("kern.bootsessionuuid", "kern.boot_id", "kern.boottime"):
        said = sysctl(name)
        if said:
            return _digest(said)
    return bytes(16)


def _clock_offset() -> bytes:
    """How far the clock of this process is from the machine's; nothing if it is not.

    By another one, as in a time namespace of Linux, messages would expire at once, or never.
    """
    with contextlib.suppress(OSError), open("/proc/self/timens_offsets", "rb") as file:
        for line in file:
            clock, *offset = line.split()
            if clock == b"monotonic" and any(map(int, offset)):
                return b" ".join(offset)
    return b""


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
