"""The engine: bad options are named with their value, and any thread may close it at any time."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import StoreUnavailable
from asgi_ipc.engines.shm.mmap import MmapEngine
from asgi_ipc.engines.shm.store import Store
from asgi_ipc.exceptions import OptionError
from tests.tools.doubles import in_thread
from tests.tools.stores import (
    assert_meet,
    open_store,
    record,
)


class BytesPath:
    """A path of bytes."""

    def __fspath__(self) -> bytes:
        return b"/tmp"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": 0o666}, r"'mode'\]=0o666: it must be 0o600, or 0o660 with a group"),
        ({"mode": 0o660}, "name it with engine_options\\['group'\\]"),
        ({"mode": 0o600, "group": 0}, "0o600 keeps out group 0"),
        ({"mode": "rw"}, r"'mode'\]='rw': it must be"),
        ({"mode": 384.0}, r"'mode'\]=384.0: it must be"),
        ({"mode": True}, "mode"),
        ({"group": "no such group"}, "no such group"),
        ({"group": ""}, r"'group'\]='': it must be the name or number"),
        ({"group": "a\0b"}, "getent group"),
        ({"group": "\ud800"}, "getent group"),
        ({"group": b"root"}, "getent group"),
        ({"group": True}, "getent group"),
        ({"group": 0.0}, "getent group"),
        ({"group": -1}, "group"),
        ({"group": 2**32 - 1}, "4294967295"),
        ({"clock": 3}, r"'clock'\]=3: it must be callable"),
        ({"clock": None}, "clock"),
        ({"channel_memory": 1000}, "channel_memory=1000"),
    ],
)
def test_a_bad_option_is_named_with_its_value(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        open_store(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o400, 0o060, 0, -1])
def test_a_mode_that_gives_the_group_a_part_of_the_rights_is_refused(
    tmp_path: Path, mode: int
) -> None:
    with pytest.raises(OptionError, match="reads and writes it"):
        open_store(tmp_path, mode=mode, group=os.getgid())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "directory", [5, b"/tmp", "", "a\0b", "/tmp/\ud800", True, ["/tmp"], BytesPath()]
)
def test_a_directory_that_names_no_folder_is_refused(directory: Any) -> None:
    said = re.escape(f"engine_options['directory']={directory!r}: it must be a str or pathlib.Path")
    with pytest.raises(OptionError, match=said):
        open_store(directory)


@pytest.mark.parametrize("directory", ["relative", Path("relative"), ".", "./a/../b"])
def test_a_directory_that_depends_on_the_current_folder_is_refused_and_the_absolute_one_named(
    directory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = str(tmp_path / directory).replace("/a/..", "")
    with pytest.raises(OptionError, match=re.escape(f"name {absolute!r}")):
        open_store(directory)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_the_home_folder_is_named_where_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(OptionError, match=re.escape(f"name '{tmp_path}/stores'")):
        open_store(Path("~/stores"))


def test_a_relative_directory_is_refused_where_the_current_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(OptionError, match="it must be an absolute path"):
        open_store(Path("relative"))


@pytest.mark.parametrize("name", ["", "x" * 17, "ä", "a\nb", "a\0", 5, None])
def test_an_engine_whose_name_does_not_fit_the_lock_file_is_refused(
    name: Any, tmp_path: Path
) -> None:
    class Misnamed(MmapEngine):
        pass

    Misnamed.name = name
    with pytest.raises(TypeError, match=r"Misnamed has the name .* 1 to 16 printable ASCII"):
        open_store(tmp_path, Misnamed)
    assert list(tmp_path.iterdir()) == []


def test_two_engines_with_the_longest_name_share_a_store(tmp_path: Path) -> None:
    class Longest(MmapEngine):
        name = "x" * 16

    first, second = open_store(tmp_path, Longest), open_store(tmp_path, Longest)
    assert_meet(first, second)
    second.close()
    first.destroy()


@pytest.mark.parametrize("call", ["push", "signal", "members"])
def test_what_is_read_without_a_lock_may_be_closed_by_another_thread(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = False

    def close_now(*_: object) -> bool:
        if closing and threading.current_thread() is threading.main_thread():
            in_thread(engine.close).join()
        return True

    engine = open_store(tmp_path, clock=lambda: close_now() and time.monotonic_ns())
    if call == "push":
        # At the regular look after the store, before anything is done.
        records = [record(engine, b"a")]
        engine.upkeep.due = 0
        monkeypatch.setattr(Store, "is_current", close_now)
        monkeypatch.setattr(engine, "clock", time.monotonic_ns)
        closing = True
        with pytest.raises(StoreUnavailable, match="closed"):
            engine.push(records)
    elif call == "signal":
        # When the push is done, and its bell is still to be signalled.
        other = open_store(tmp_path)
        bell = other.bell()
        assert other.pop(b"a", 1, bell) == []
        words = engine.session.words

        def closed_meanwhile(_: int) -> bool:
            in_thread(engine.close).join()
            return bool(words[0])

        monkeypatch.setattr(engine.session.processes, "bell_alive", closed_meanwhile)
        assert engine.push([record(engine, b"a")]) == []
        assert bell.clear() is None  # Signalled, though not for that queue in particular.
        assert len(other.pop(b"a", 2)) == 1
        other.close()
    else:
        engine.members(b"t")
        closing = True
        with pytest.raises(StoreUnavailable, match="closed"):
            engine.members(b"t")
    monkeypatch.undo()
    open_store(tmp_path).destroy()
