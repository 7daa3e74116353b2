"""Machines shared with others: with processes of other PID namespaces, and with other users."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_ipc import StoreUnavailable
from asgi_ipc.engines.shm.heap import layout
from tests.tools.awkward import (
    ENGINES,
    every_engine,
    refuses,
    works,
)
from tests.tools.namespaces import (
    end,
    python,
    started,
    unshared,
)
from tests.tools.stores import (
    KIB,
    open_store,
)
from tests.tools.users import (
    NOBODY,
    as_nobody,
    needs_root,
    public_path,
)

__all__ = ["public_path"]

# ---- PID namespaces


def live_in_a_pid_namespace(engine: str, directory: str) -> None:
    """Obey the commands of the test, one on each line."""
    assert os.getpid() == 1
    sizes = {"channel_memory": 512 * KIB, "group_memory": 256 * KIB}
    mine = ENGINES[engine]("store", directory=directory, **sizes)  # type: ignore[arg-type]
    bell = mine.bell()
    far = mine.clock() + 10**12
    for line in sys.stdin:
        answer: object = None
        match line.split():
            case ["join"]:
                mine.put(b"t", mine.identity, far, mine.identity)
            case ["wait"]:
                answer = mine.pop(b"q", 1, bell)
            case ["heard"]:
                answer = bool(select.select([bell.fileno()], [], [], 120)[0])
                bell.clear()
            case ["send"]:
                from asgi_ipc.engines.base import Record

                answer = mine.push([Record(b"q", b"hello", far, 100)])
            case ["receive"]:
                answer = [popped.payload for popped in mine.pop(b"q")]
            case ["members"]:
                mine._next_look = 0
                mine._channels.words[layout.NEXT_SWEEP] = 0
                mine.statistics()
                answer = len(mine.members(b"t").names)
            case ["enter"]:
                mine._channels.__enter__()
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


@every_engine
def test_processes_of_two_pid_namespaces_meet(engine: str, tmp_path: Path) -> None:
    # As two containers that share the memory do: there each first process is number 1.
    command = unshared("--pid", "--fork", "--kill-child")
    command += python(live_in_a_pid_namespace, engine, str(tmp_path))

    def tell(process: subprocess.Popen[str], word: str) -> str:
        assert process.stdin
        assert process.stdout
        process.stdin.write(word + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    observer = open_store(tmp_path, ENGINES[engine])
    try:
        with started(command) as first, started(command) as second:
            for process in (first, second):
                assert tell(process, "join") == "None"
            for waiter, sender in ((first, second), (second, first)):
                assert tell(waiter, "wait") == "[]"
                assert tell(sender, "send") == "[]"
                assert tell(waiter, "heard") == "True"
                assert tell(waiter, "receive") == "[b'hello']"
                assert tell(waiter, "members") == "2"
            # Killed inside the store: the other neither waits for it nor takes it for alive.
            assert tell(first, "enter") == "None"
            end(first)
            assert tell(second, "send") == "[]"
            assert tell(second, "receive") == "[b'hello']"
            assert tell(second, "members") == "1"
    finally:
        observer.destroy()
    assert list(tmp_path.iterdir()) == []


# ---- users


@needs_root
@every_engine
def test_a_user_without_rights_to_the_directory_is_told_which_to_ask_for(
    engine: str, public_path: Path
) -> None:
    (public_path / "closed").mkdir(mode=0o700)

    def stranger() -> None:
        for directory in (public_path / "closed", public_path / "new"):
            refuses(
                StoreUnavailable,
                engine,
                str(directory),
                "Permission denied",
                "engine_options['directory']",
                directory=str(directory),
            )
        works(engine)  # where every user may

    as_nobody(stranger)
    assert list((public_path / "closed").iterdir()) == []


@needs_root
@every_engine
def test_a_folder_of_our_name_made_by_another_user_is_not_trusted(
    engine: str, public_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ENGINES[engine], "default_parent", classmethod(lambda cls: str(public_path))
    )
    ours = public_path / "asgi_ipc-0"
    ours.mkdir()
    os.chown(ours, NOBODY, NOBODY)
    refuses(StoreUnavailable, engine, str(ours), f"belongs to user {NOBODY}")
    os.chown(ours, 0, 0)
    ours.chmod(0o777)
    refuses(StoreUnavailable, engine, str(ours), "can be written by others")
    ours.chmod(0o700)
    works(engine)
