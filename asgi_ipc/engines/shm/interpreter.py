"""Whether this interpreter can share memory with other processes at all."""

from __future__ import annotations

import _thread
import struct
import sys
from importlib import import_module

#: Bytes of a pointer. The locks of a semaphore, and whether a store of 8 bytes is whole or two
#: halves, depend on it.
WORD_BYTES = struct.calcsize("P")


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
