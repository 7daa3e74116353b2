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


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of notes, apart from those of other test runs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"asgi_ipc-tests-{os.geteuid()}"


def test_a_temporary_layers_store_is_its_own_and_is_removed(notes: Path) -> None:
    with temporary_layer() as one, temporary_layer() as two:
        one.sync.send("c", {"n": 1})
        assert two.sync.receive(["c"]) == (None, None)
        assert len(list(notes.iterdir())) == 1
        assert check(one.prefix) == check(two.prefix) == []
    assert absent(one.prefix, "posix")
    assert absent(two.prefix, "posix")
    assert not notes.exists()


@pytest.mark.parametrize("engine", ["mmap", "posix", "sysv"])
def test_a_killed_process_leaves_a_store_that_the_next_run_removes(
    notes: Path, engine: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, engine],
        env={**os.environ, "TMPDIR": str(notes.parent)},
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
    assert not notes.exists()


def test_a_folder_that_others_may_write_to_is_not_read_and_not_needed(notes: Path) -> None:
    notes.mkdir()
    notes.chmod(0o777)
    (notes / "a").write_text('["mysite", "posix", {}, {}]\n')
    stores.remove_leftovers()
    assert (notes / "a").exists()
    with temporary_layer(engine="memory") as layer:
        layer.sync.send("c", {"n": 1})
    assert [path.name for path in notes.iterdir()] == ["a"]


def test_notes_that_say_nothing_useful_are_removed(notes: Path) -> None:
    notes.mkdir(0o700)
    texts = ("", "nonsense\n", "[1, 2]\n", '["a", "no-such-engine", {}, {}]\n', "[]\n\xff")
    for number, text in enumerate(texts):
        (notes / str(number)).write_text(text, "latin-1")
    stores.remove_leftovers()
    assert not notes.exists()


def test_a_process_that_was_forked_notes_its_own(notes: Path) -> None:
    with temporary_layer(engine="memory"):
        child = os.fork()
        if child == 0:
            with temporary_layer(engine="memory"):
                os._exit(len(list(notes.iterdir())))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    stores.remove_leftovers()
    assert not notes.exists()


def test_what_a_temporary_layer_can_not_have_is_refused() -> None:
    with pytest.raises(OptionError, match=r"prefix is 'mysite'; .* leave it out"):
        temporary_layer(prefix="mysite").__enter__()
    engine = MemoryEngine("x", channel_memory=1 << 20, group_memory=1 << 20)
    with pytest.raises(OptionError, match="pass its class, or the name of an engine"):
        temporary_layer(engine=engine).__enter__()
    engine.close()
    with temporary_layer(engine=MemoryEngine) as layer:
        assert isinstance(engine_of(layer), MemoryEngine)
