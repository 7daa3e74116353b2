"""The end of a run, which all benchmarks share."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from benchmarks import outcome
from benchmarks.results import Key

_FACTS = {"rounds": 1, "quick": False}


def test_a_run_that_is_terminated_tells_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = outcome.Outcome(outcome.begin())
    with run as results:
        results.add(Key("pair", "", "asgi_ipc", "pair µs"), 5.0)
        os.kill(os.getpid(), signal.SIGTERM)
        results.add(Key("late", "", "asgi_ipc", "pair µs"), 5.0)
    assert run.tell([], [], str(tmp_path), _FACTS) == 1
    written = json.loads((tmp_path / "results.json").read_text())
    assert [each["question"] for each in written["figures"]] == ["pair"]
    assert written["rounds"] == 1
    assert len(written["load"]) == 2
    assert "Interrupted" in capsys.readouterr().out


@pytest.mark.parametrize(("who", "status"), [("channels_redis core", 0), ("asgi_ipc posix", 1)])
def test_only_a_failure_of_ours_fails_the_run(tmp_path: Path, who: str, status: int) -> None:
    run = outcome.Outcome(outcome.begin())
    with run as results:
        results.failures["pair", "", who] = "for a reason"
    assert run.tell([], [], str(tmp_path), _FACTS) == status


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(ValueError, match="wrong"), outcome.Outcome(outcome.begin()):
        raise ValueError("wrong")
