"""The bell by which a relay learns of what is for it, where the process is out of descriptors."""

from __future__ import annotations

import errno
import os

import pytest

from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.exceptions import StoreUnavailable
from asgi_ipc.relay.store_bell import StoreBell
from tests.tools.doubles import fresh, run


def refuse(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("call", ["dup", "pipe"])
def test_without_descriptors_the_store_is_unavailable_for_a_while(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        engine = MemoryEngine(fresh(), channel_memory=1 << 20, group_memory=1 << 20)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(StoreUnavailable, match=r"Too many open files.*ulimit -n"):
                StoreBell(engine)
        bell = StoreBell(engine)
        bell.bell.close()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            bell.wake()
        assert bell.bell.fileno() < 0
        bell.wake()
        assert bell.bell.fileno() >= 0
        bell.close()
        engine.close()

    run(main())
