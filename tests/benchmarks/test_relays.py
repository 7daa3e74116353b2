"""The benchmark of relays runs and comes to a result. No test says how fast anything is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.relays import __main__ as program
from benchmarks.relays.questions import QUESTIONS
from tests.tools.doubles import (
    watchdog,
)

__all__ = ["watchdog"]


def test_all_questions_are_answered_by_relays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not any(map(shutil.which, ("redis-server", "valkey-server"))):
        pytest.skip("no redis-server here")
    pytest.importorskip("redis")
    status = program.main(
        ["--quick", "--rounds", "1", "--peers", "relay threads", "--out", str(tmp_path)]
    )
    said = capsys.readouterr().out
    assert status == 0, said
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["failures"] == []
    figures = {(each["question"], each["number"]): each["median"] for each in written["figures"]}
    assert {question for question, _ in figures} == {question.name for question in QUESTIONS}
    assert figures["everywhere", "not come"] == 0


def test_an_unknown_question_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        program.main(["--only", "between,speed"])
    assert "take of between, everywhere, local" in capsys.readouterr().err
