"""Bells of a store: a signal reaches the bell's own reader, and never waits for another thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asgi_ipc.engines import bell as bells
from asgi_ipc.engines.bell import ANY
from asgi_ipc.engines.shm.bells import Signaller
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from tests.tools.hostile import OWNER, as_user, ground, home, members_store, shared
from tests.tools.stopped import Stopped
from tests.tools.stores import (
    record,
)
from tests.tools.users import (
    needs_root,
)

__all__ = ["ground", "home", "shared"]


@needs_root
@pytest.mark.parametrize("what", ["file", "another FIFO", "hard link", "symlink", "directory"])
def test_what_was_put_in_place_of_a_bell_is_not_written_to(
    kind: type[SharedMemoryEngine], what: str, shared: Path, home: Path
) -> None:
    fifo = home / "fifo"
    os.mkfifo(fifo, 0o600)
    os.chown(fifo, OWNER, OWNER)

    def scenario() -> None:
        reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        sender, receiver = members_store(shared, kind), members_store(shared, kind)
        bell = receiver.bell()
        receiver.pop(b"a", 1, bell)
        os.unlink(bell.path)
        if what == "file":
            Path(bell.path).write_text("precious")
        elif what == "another FIFO":
            os.mkfifo(bell.path, 0o600)
        elif what == "hard link":
            os.link(fifo, bell.path)
        elif what == "symlink":
            os.symlink(fifo, bell.path)
        else:
            os.mkdir(bell.path)
        assert sender.push([record(sender, b"a")]) == []
        sender.flush()
        with pytest.raises(BlockingIOError):
            os.read(reader, 10)
        assert what != "file" or Path(bell.path).read_text() == "precious"
        bell.close()
        if what == "directory":
            os.rmdir(bell.path)
        sender.close()
        receiver.destroy()

    as_user(OWNER, scenario)


@needs_root
def test_a_bell_whose_ends_would_be_two_fifos_is_made_again(
    kind: type[SharedMemoryEngine], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped: list[str] = []
    real = StoreDirectory.open_file

    def open_file(self: StoreDirectory, name: str, flags: int, mode: int = 0) -> int:
        if name.startswith("bell.") and flags == os.O_WRONLY and not swapped:
            swapped.append(name)
            os.unlink(shared / "store" / name)
            os.mkfifo(shared / "store" / name, 0o660)
            # It has a reader, so that it can be opened for writing.
            swapped.append(str(os.open(shared / "store" / name, os.O_RDWR)))
        return real(self, name, flags, mode)

    def scenario() -> None:
        engine = members_store(shared, kind)
        monkeypatch.setattr(StoreDirectory, "open_file", open_file)
        bell = engine.bell()
        assert len(swapped) == 2
        assert bell.number == 2
        bell.signal()
        assert os.read(bell.fileno(), 10) == ANY
        bell.close()
        engine.destroy()

    as_user(OWNER, scenario)


@pytest.mark.parametrize("then", ["signal", "close"])
def test_signalling_others_does_not_wait_for_another_thread_that_signals(then: str) -> None:
    reader, writer = os.pipe()
    signaller = Signaller()

    def opened(_: int) -> int:
        stopped.here()
        return os.dup(writer)

    stopped = Stopped(lambda: signaller.signal(1, opened))
    with stopped:
        if then == "signal":
            assert signaller.signal(1, opened)
            assert os.read(reader, 100) == bells.ANY
        else:
            signaller.close()
    assert os.read(reader, 100) == bells.ANY
    assert len(signaller._writers) == (then == "signal")
    signaller.close()
    assert not signaller._writers
    os.close(reader)
    os.close(writer)
