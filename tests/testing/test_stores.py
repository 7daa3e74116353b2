"""Stores of tests are removed: by the test, or by the next run if the test was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from asgi_ipc import OptionError, StoreUnavailable
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.testing import stores, temporary_layer
from tests.tools.commands import check
from tests.tools.layers import engine_of

SCRIPT = """
import os, signal, sys
from asgi_ipc.testing import temporary_layer
with temporary_layer(engine=sys.argv[1]) as layer:
    layer.sync.send("c", {"n": 1})
    print(layer.prefix, flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def absent(prefix: str, engine: str) -> bool:
    try:
        check(prefix, engine)
    except StoreUnavailable:
        return True
    return False


class Notes:
    """The files of notes, apart from those of other test runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[Path]:
        return list(self.folder.iterdir())

    def make(self, text: str) -> Path:
        file = self.folder / f"asgi_ipc-tests-{os.geteuid()}-{len(self.files())}"
        file.write_text(text, "latin-1")
        return file


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Notes(tmp_path)


def test_a_temporary_layers_store_is_its_own_and_is_removed(notes: Notes) -> None:
    with temporary_layer() as one, temporary_layer() as two:
        one.sync.send("c", {"n": 1})
        assert two.sync.receive(["c"]) == (None, None)
        assert len(notes.files()) == 1
        assert check(one.prefix) == check(two.prefix) == []
    assert absent(one.prefix, "posix")
    assert absent(two.prefix, "posix")
    assert notes.files() == []


@pytest.mark.parametrize("engine", ["mmap", "posix", "sysv"])
def test_a_killed_process_leaves_a_store_that_the_next_run_removes(
    notes: Notes, engine: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, engine],
        env={**os.environ, "TMPDIR": str(notes.folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        prefix = process.stdout.readline().strip()
        stores.remove_leftovers()
        assert check(prefix, engine) == [], "its process lives"
        process.communicate("x")
    assert process.returncode == -signal.SIGKILL
    assert check(prefix, engine) == []
    stores.remove_leftovers()
    assert absent(prefix, engine)
    assert notes.files() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
def test_notes_of_another_user_are_not_read(notes: Notes) -> None:
    with temporary_layer() as layer:
        layer.sync.send("c", {"n": 1})
        file = notes.make(f'["{layer.prefix}", "posix", {{}}, {{}}]\n')
        os.chown(file, 1, 1)
        stores.remove_leftovers()
        assert check(layer.prefix) == []
    assert notes.files() == [file]


def test_notes_that_say_nothing_useful_are_removed_and_what_is_no_file_stays(notes: Notes) -> None:
    for text in ("", "nonsense\n", "[1, 2]\n", '["a", "no-such-engine", {}, {}]\n', "[]\n\xff"):
        notes.make(text)
    elsewhere = notes.folder / "elsewhere"
    elsewhere.write_text("")
    link = notes.folder / f"asgi_ipc-tests-{os.geteuid()}-link"
    link.symlink_to(elsewhere)
    pipe = notes.folder / f"asgi_ipc-tests-{os.geteuid()}-pipe"
    os.mkfifo(pipe)
    stores.remove_leftovers()
    assert set(notes.files()) == {elsewhere, link, pipe}


def test_a_layer_works_where_no_note_can_be_made(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(notes.folder / "missing"))
    with temporary_layer(engine="memory") as layer:
        layer.sync.send("c", {"n": 1})
        assert layer.sync.receive(["c"]) == ("c", {"n": 1})


def test_a_store_that_a_consumer_opens_anew_after_its_test_is_removed_by_the_next(
    notes: Notes,
) -> None:
    with temporary_layer() as late:
        pass
    late.sync.send("c", {"n": 1})
    assert check(late.prefix) == []
    with temporary_layer(engine="memory"):
        assert absent(late.prefix, "posix")


def test_a_store_that_is_opened_anew_after_the_last_test_is_removed_at_exit(notes: Notes) -> None:
    script = """
from asgi_ipc.testing import temporary_layer
with temporary_layer() as layer:
    print(layer.prefix)
layer.sync.send("c", {"n": 1})
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TMPDIR": str(notes.folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert absent(done.stdout.strip(), "posix")
    assert notes.files() == []


def test_a_process_that_was_forked_notes_its_own(notes: Notes) -> None:
    with temporary_layer(engine="memory"):
        child = os.fork()
        if child == 0:
            with temporary_layer(engine="memory"):
                os._exit(len(notes.files()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    stores.remove_leftovers()
    assert notes.files() == []


def test_what_a_temporary_layer_can_not_have_is_refused() -> None:
    with pytest.raises(OptionError, match=r"prefix is 'mysite'; .* leave it out"):
        temporary_layer(prefix="mysite").__enter__()
    engine = MemoryEngine("x", channel_memory=1 << 20, group_memory=1 << 20)
    with pytest.raises(OptionError, match="pass its class, or the name of an engine"):
        temporary_layer(engine=engine).__enter__()
    engine.close()
    with temporary_layer(engine=MemoryEngine) as layer:
        assert isinstance(engine_of(layer), MemoryEngine)
