"""Machines that lack something: each gives a working engine, or an error that says what to do.

Where this machine can play the lack, in namespaces, it does; the rest is patched in. What runs
inside is a function of a module of tests whose name begins with a verb; it is given to a new
interpreter by name.
"""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.posix import PosixEngine
from asgi_ipc.engines.shm.sysv import SysVEngine
from tests.tools.stores import (
    in_child,
)

ENGINES = {"mmap": MmapEngine, "posix": PosixEngine, "sysv": SysVEngine}
every_engine = pytest.mark.parametrize("engine", sorted(ENGINES))


def a_prefix() -> str:
    """One that no other test has, as some stores lie where everybody's do."""
    return f"awkward-{secrets.token_hex(4)}"


def works(engine: str, **options: Any) -> None:
    """A message goes from one process to another, and nothing is left of it."""
    prefix = a_prefix()
    layer = SyncIPCChannelLayer(prefix=prefix, engine=engine, engine_options=options)
    try:

        def other() -> None:
            mine = SyncIPCChannelLayer(prefix=prefix, engine=engine, engine_options=options)
            mine.send("a", {"type": "hello"})
            mine.close()

        in_child(other)
        received = layer.receive(["a"], block=True, timeout=120)
        assert received == ("a", {"type": "hello"}), received
    finally:
        layer.destroy()


def refuses(error: type[Exception], engine: str, *parts: str, **options: Any) -> None:
    """The engine can't be opened, and says each of these about it."""
    with pytest.raises(error) as caught:
        SyncIPCChannelLayer(prefix=a_prefix(), engine=engine, engine_options=options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
