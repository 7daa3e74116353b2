"""The log tells the life of a store: once for each process and store, and not for each layer."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.shm.engine import SharedMemoryEngine
from asgi_ipc.engines.shm.mmap import MmapEngine
from tests.tools.stores import ENGINES, in_child

SECOND = 1_000_000_000
SIZES: dict[str, Any] = {"channel_memory": 1 << 20, "group_memory": 1 << 20}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The first word of each line, and that of the others its level."""
    found = [
        each.getMessage().partition(" the store")[0]
        if each.levelno == logging.INFO
        else each.levelname
        for each in caplog.records
    ]
    caplog.clear()
    return found


@pytest.mark.parametrize("kind", ENGINES)
def test_a_process_tells_what_it_does_to_a_store(
    kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asgi_ipc")
    options: dict[str, Any] = {
        "prefix": "life",
        "engine": kind,
        "engine_options": {"directory": str(tmp_path)},
        **SIZES,
    }
    first, second = SyncIPCChannelLayer(**options), SyncIPCChannelLayer(**options)
    assert told(caplog) == ["made"]
    first.close()
    assert told(caplog) == []
    second.close()
    assert told(caplog) == ["left"]
    engine = kind("life", directory=str(tmp_path), **SIZES)
    assert told(caplog) == ["opened"]
    looking = kind.of_existing("life", directory=str(tmp_path), **SIZES)
    looking.close()
    assert told(caplog) == []
    # Another process removes it.
    other = kind("life", directory=str(tmp_path), **SIZES)
    other.destroy()
    assert told(caplog) == ["opened", "destroyed"]
    engine.statistics()
    assert told(caplog) == ["WARNING", "made"]
    engine.destroy()
    assert told(caplog) == ["destroyed"]


def test_a_forked_child_tells_that_it_joined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = MmapEngine("life", directory=str(tmp_path), **SIZES)

    def child() -> None:
        caplog.set_level(logging.INFO, "asgi_ipc")
        caplog.clear()
        engine.statistics()
        engine.statistics()
        assert told(caplog) == ["a forked child joined"]

    in_child(child)
    engine.destroy()


def test_a_store_of_another_user_with_the_same_prefix_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedMemoryEngine, "default_parent", classmethod(lambda _: str(tmp_path)))
    theirs = tmp_path / "asgi_ipc-54321" / "life"
    theirs.mkdir(parents=True)
    (tmp_path / "asgi_ipc-99999").mkdir()
    engine = MmapEngine("life", **SIZES)
    assert caplog.messages == []
    (theirs / "lock").touch()
    engine.close()
    engine = MmapEngine("life", **SIZES)
    (line,) = caplog.messages
    assert str(theirs) in line
    assert f"of user {os.geteuid()}" in line
    assert "engine_options['group']" in line
    engine.destroy()


def test_a_process_that_only_looks_leaves_expired_messages_to_those_that_log_them(
    tmp_path: Path,
) -> None:
    now = [1000 * SECOND]
    options: dict[str, Any] = {"directory": str(tmp_path), "clock": lambda: now[0], **SIZES}
    engine = MmapEngine("life", **options)
    looking = MmapEngine.of_existing("life", **options)
    told: list[tuple[bytes, int]] = []
    engine.watch_expiry(lambda queue, count: told.append((queue, count)))
    engine.push([Record(b"q", b"x", now[0] + SECOND, 10)])
    # Upkeep follows a pop that finds nothing.
    for each in (looking, engine):
        now[0] += 2 * SECOND
        each.pop(b"other")
    assert told == [(b"q", 1)]
    engine.watch_expiry(None)
    looking.close()
    engine.destroy()
