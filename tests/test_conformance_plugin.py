"""The pytest plugin: what it says to its user, and that it does nothing to anybody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suite_runs import ROOT, run_elsewhere

SUITE = ("--pyargs", "asgi_ipc.conformance")
#: A project that has never heard of us, but has an option, fixtures and marks called alike.
THEIR_CONFTEST = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--engine", default="diesel")
    parser.addoption("--clause", type=int)

def pytest_configure(config):
    config.addinivalue_line("markers", "needs(fuel): theirs")

@pytest.fixture
def engine(request):
    return request.config.getoption("--engine"), request.config.getoption("--clause")
"""
THEIR_TESTS = """
import sys
import pytest

@pytest.mark.needs("diesel")
@pytest.mark.parametrize("conformance", [1])
def test_theirs(engine, conformance):
    assert engine == ("steam", 7)

def test_nothing_of_ours_is_loaded():
    ours = {name for name in sys.modules if name.startswith("asgi_ipc")}
    assert ours == {
        "asgi_ipc",
        "asgi_ipc.exceptions",
        "asgi_ipc.conformance",
        "asgi_ipc.conformance.plugin",
    }

@pytest.mark.xfail(strict=True)
def test_ours(case):
    pass
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_other_peoples_tests_do_not_notice_it(tmp_path: Path, workers: tuple[str, ...]) -> None:
    (tmp_path / "conftest.py").write_text(THEIR_CONFTEST)
    (tmp_path / "test_theirs.py").write_text(THEIR_TESTS)
    code, said = run_elsewhere(
        tmp_path, "-W", "error", "--strict-markers", "--engine", "steam", "--clause=7", *workers
    )
    assert code == 0, said
    assert "2 passed, 1 xfailed" in said
    assert "asgi_ipc" not in said


def test_its_options_are_there_where_nobody_has_them(tmp_path: Path) -> None:
    code, said = run_elsewhere(tmp_path, "--help")
    assert code == 0
    for option in ("--engine=NAME-OR-PATH", "--engine-option=KEY=VALUE", "--clause=CLAUSE"):
        assert option in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--engine", "memroy"], "there is no engine 'memroy'; did you mean 'memory'?"),
        (["--engine", "no_such_module:Engine"], "Is its folder in PYTHONPATH?"),
        (["--engine-option", "nonsense"], "--engine-option nonsense: it must be KEY=VALUE"),
        (["--clause", "E99"], "--clause E99: there are E1, E2,"),
    ],
)
def test_what_was_not_meant_is_a_usage_error(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    code, said = run_elsewhere(tmp_path, *SUITE, *arguments)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert said.startswith("ERROR: ")
    assert complaint in said
    assert "Traceback" not in said


def test_an_option_that_the_engine_does_not_take_fails_and_is_named(tmp_path: Path) -> None:
    code, said = run_elsewhere(
        tmp_path, *SUITE, *("--engine", "memory", "--engine-option", "x=1", "-k", "unknown_queue")
    )
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "OptionError: engine 'memory' has no option 'x'; it takes 'clock'" in said


def test_a_failure_shows_the_words_of_the_clause(tmp_path: Path) -> None:
    engine = "tests.wrong_engines.queues:AnswersLastFirst"
    code, said = run_elsewhere(
        tmp_path,
        *(*SUITE, "--engine", engine, "--clause", "E2", "-x"),
        path=str(ROOT),
    )
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "E2  Records of one queue are popped in the order in which they were pushed." in said


def test_without_a_name_every_registered_engine_is_tested_sorted(tmp_path: Path) -> None:
    from asgi_ipc.engines import names

    code, said = run_elsewhere(tmp_path, *SUITE, "--collect-only", "--clause", "E7")
    assert code == 0
    first = [line for line in said.splitlines() if "test_many_queues" in line]
    assert [line.partition("[")[2].rstrip("]") for line in first] == names()
