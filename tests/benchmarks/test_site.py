"""The benchmark of a whole site counts right. No test says how fast anything is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")
if not os.path.exists("/proc/self/smaps_rollup"):
    pytest.skip("the benchmark reads Linux' /proc", allow_module_level=True)

from benchmarks.results import Results
from benchmarks.site import __main__ as program
from benchmarks.site.counting import Tally
from benchmarks.site.layers import Made, SiteLayer, all_layers
from benchmarks.site.questions import QUESTIONS
from tests.tools.doubles import (
    watchdog,
)

__all__ = ["watchdog"]

_Figures = dict[tuple[str, str, str], float]


def _faulty(name: str) -> SiteLayer:
    backend = f"tests.tools.faulty_layers.{name}"
    # A large capacity: what is lost shall be lost on purpose.
    made = Made({"BACKEND": backend, "CONFIG": {"capacity": 100_000}})
    return SiteLayer(name, lambda servers, folder: made, lambda servers: None, False)


def _figures(folder: Path, layers: list[SiteLayer], *arguments: str) -> _Figures:
    options = ["--quick", "--rounds", "1", "--loop", "asyncio", "--out", str(folder)]
    status = program.main([*options, *arguments], layers)
    written = json.loads((folder / "results.json").read_text())
    assert written["failures"] == [], written["failures"]
    assert status == 0
    return {
        (each["question"], each["variant"], each["number"]): each["median"]
        for each in written["figures"]
    }


def _values(figures: _Figures, question: str, number: str) -> list[float]:
    found = [each for key, each in figures.items() if (key[0], key[2]) == (question, number)]
    assert found, (question, number)
    return found


def test_all_questions_are_answered_and_all_arrives_where_nothing_is_lost(tmp_path: Path) -> None:
    ours = [layer for layer in all_layers() if layer.name == "asgi_ipc posix"]
    figures = _figures(tmp_path, ours, "--variants", "channels,mixin,bare")
    assert {question for question, _, _ in figures} == {
        *(each.name for each in QUESTIONS),
        program.LOAD.name,
    }
    assert set(_values(figures, "latency", "not come")) == {0.0}
    assert set(_values(figures, "latency", "twice")) == {0.0}
    assert set(_values(figures, "bursts", "twice")) == {0.0}
    assert min(_values(figures, "latency", "p50 ms")) > 0
    assert min(_values(figures, "throughput", "CPU s/10,000")) > 0
    assert min(_values(figures, "storm", "a connection kB")) > 0
    assert min(_values(figures, "bursts", "each µs")) > 0
    assert _values(figures, "worker", "not come") == [0.0]


def test_what_a_layer_loses_is_counted(tmp_path: Path) -> None:
    figures = _figures(
        tmp_path, [_faulty("LossyLayer")], "--only", "latency,bursts", "--variants", "channels"
    )
    for percent in _values(figures, "bursts", "percent"):
        # A tenth; a burst that is counted among others loses a little more or less of its own.
        assert 80 <= percent < 100
    assert min(_values(figures, "latency", "not come")) > 0
    assert set(_values(figures, "latency", "twice")) == {0.0}


def test_what_a_layer_doubles_is_counted_and_does_not_hide_a_loss(tmp_path: Path) -> None:
    figures = _figures(
        tmp_path, [_faulty("DoublingLayer")], "--only", "latency,bursts", "--variants", "channels"
    )
    assert set(_values(figures, "bursts", "percent")) == {100.0}
    assert min(_values(figures, "bursts", "twice")) > 0
    assert min(_values(figures, "latency", "twice")) > 0
    assert set(_values(figures, "latency", "not come")) == {0.0}


def test_what_a_layer_delays_is_measured(tmp_path: Path) -> None:
    figures = _figures(
        tmp_path, [_faulty("SlowLayer")], "--only", "latency", "--variants", "channels"
    )
    assert min(_values(figures, "latency", "p50 ms")) >= 100


def test_a_tally_tells_lost_doubled_and_strange_messages_apart() -> None:
    tally = Tally(range(10, 12), expected=4, began=100.0)
    tally.came(1, 10, 100.0, 101.0)
    tally.came(1, 10, 100.0, 105.0)
    tally.came(2, 10, 100.0, 102.0)
    tally.came(2, 9, 100.0, 109.0)
    tally.came(2, 12, 100.0, 109.0)
    assert (tally.arrived, tally.twice, tally.missing) == (2, 1, 2)
    assert (tally.percent, tally.took, tally.latencies) == (50.0, 2.0, [1.0, 2.0])


def test_a_layer_that_is_not_here_is_left_out_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("it is not to be had")

    absent = SiteLayer("absent", never, lambda servers: "the package absent is not installed")
    assert _figures(tmp_path, [absent]) == {}
    assert "Left out: absent: the package absent is not installed" in capsys.readouterr().out


def test_an_unknown_question_is_named_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match=r"No such question: speed\. There are: latency, "):
        program.main(["--only", "speed"])


def test_ours_is_compared_with_the_worst_of_its_sizes() -> None:
    from benchmarks.results import Key
    from benchmarks.site.targets import TARGETS

    (target,) = (each for each in TARGETS if each.says.startswith("p99"))
    results = Results()
    assert target.reached(results) is None
    for variant, ours, theirs in (("a, channels", 1, 10), ("b, channels", 4, 5), ("b, bare", 9, 1)):
        results.add(Key("latency", variant, "asgi_ipc posix", "p99 ms"), ours)
        results.add(Key("latency", variant, "channels_redis pubsub", "p99 ms"), theirs)
    assert target.reached(results) == 0.8
