"""Each benchmark runs and comes to a result. No test says how fast anything is."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from asgi_ipc.engines.memory import MemoryEngine
from benchmarks import __main__ as program
from benchmarks import floors, plot, processes
from benchmarks.peers import redis_core
from benchmarks.place import Place
from benchmarks.questions import all_questions
from benchmarks.settings import Settings
from tests.tools.doubles import (
    watchdog,
)
from tests.tools.forking import forking
from tests.tools.samples import ALL

__all__ = ["watchdog"]


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ask each question about one size, for a moment, in processes that need not import anything.

    All but those of the first case are forked by a server that has imported what they need.
    """
    if ALL:
        yield
        return
    monkeypatch.setattr(Settings, "seconds", 0.05)
    monkeypatch.setattr(Settings, "sizes", lambda self, usual, quick: quick[:1])
    with forking([processes.__name__, all_questions.__module__]) as others:
        contexts = itertools.chain([multiprocessing.get_context("spawn")], itertools.repeat(others))
        made = SimpleNamespace(get_context=lambda method: next(contexts))
        monkeypatch.setattr(processes, "multiprocessing", made)
        yield


@pytest.mark.usefixtures("briefly")
def test_all_questions_are_answered_by_an_engine_and_the_floors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What draws is large, and not needed for this.
    monkeypatch.setattr(plot, "draw", lambda results, path: False)
    status = program.main(
        ["--quick", "--rounds", "1", "--peers", "posix,floor", "--out", str(tmp_path)]
    )
    said = capsys.readouterr().out
    assert status == 0, said
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["failures"] == []
    answered = {(each["question"], each["who"]) for each in written["figures"]}
    assert {question for question, who in answered if who == "asgi_ipc posix"} == {
        question.name for question in all_questions()
    }
    assert {floors.COPY, floors.FIFO, floors.AWAITED} <= {who for _, who in answered}
    # What needs no other layer to compare with has been compared.
    assert "at most 50 bytes beside a message" in said


def test_an_unknown_question_is_named_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match=r"No such question: speed\. There are: pair, "):
        program.main(["--only", "pair,speed"])


def test_an_engine_that_is_named_is_measured_and_one_that_is_not_here_left_out() -> None:
    from benchmarks.peers.base import Resources

    named, absent = program.chosen_peers(
        "nothing", "tests.benchmarks.test_questions:Named,absent.engine:Absent"
    )
    resources = Resources("", "", "")
    assert named.name == "asgi_ipc tests.benchmarks.test_questions:Named"
    assert named.unavailable(resources) is None
    assert not named.crosses_processes
    assert "can't be imported" in (absent.unavailable(resources) or "")


class Named(MemoryEngine):
    """An engine of another package."""


def test_redis_gets_settings_under_which_idle_readers_live() -> None:
    place = Place("", "", "socket", "")
    (host,) = redis_core.hosts(place)
    assert host["socket_timeout"] is None
    assert host["max_connections"] >= 10_000
