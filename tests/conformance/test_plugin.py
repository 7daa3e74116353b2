"""The suite's command and its plug-in: what they say, and that no other tests get them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.suite_runs import (
    ROOT,
    run_elsewhere,
    run_suite,
)

#: A project that has never heard of the suite, but has an option and a fixture called alike.
THEIR_CONFTEST = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--engine", default="diesel")

@pytest.fixture
def engine(request):
    return request.config.getoption("--engine")
"""
THEIR_TESTS = """
import sys

def test_theirs(engine, pytestconfig):
    assert engine == "steam"
    assert not {name for name in sys.modules if name.startswith("asgi_ipc")}
    import asgi_ipc
    # pytest rewrites what its plug-ins bring along, and then nothing comes from the bytecode cache.
    assert type(asgi_ipc.__spec__.loader).__name__ == "SourceFileLoader"
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_other_peoples_tests_have_nothing_of_it(tmp_path: Path, workers: tuple[str, ...]) -> None:
    (tmp_path / "conftest.py").write_text(THEIR_CONFTEST)
    (tmp_path / "test_theirs.py").write_text(THEIR_TESTS)
    code, said = run_elsewhere(
        tmp_path, "-W", "error", "--strict-markers", "--engine", "steam", *workers
    )
    assert code == 0, said
    assert "1 passed" in said
    assert "asgi_ipc" not in said


def test_the_suite_run_without_its_plug_in_says_what_to_do(tmp_path: Path) -> None:
    code, said = run_elsewhere(tmp_path, "--pyargs", "asgi_ipc.conformance.test_queues")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "run 'python -m asgi_ipc.conformance'" in said
    assert "Traceback" not in said


def test_the_command_tells_its_usage(tmp_path: Path) -> None:
    code, said = run_suite(tmp_path, "--help")
    assert code == 0
    for option in ("--engine NAME-OR-PATH", "--engine-option K=V", "--wire-url URL", "--clause E4"):
        assert option in said


def test_the_command_refuses_a_module_that_the_suite_does_not_have(tmp_path: Path) -> None:
    code, said = run_suite(tmp_path, "test_ques", "--engine", "memory")
    assert code == 1
    assert "no module 'test_ques'; name one of test_crash, " in said


def test_the_command_runs_the_module_that_is_named(tmp_path: Path) -> None:
    code, said = run_suite(tmp_path, "test_segment", "--engine=mmap", "--collect-only")
    assert code == 0
    assert "new_memory_is_zero" in said or "test_segment.py: " in said
    assert "many_queues" not in said
    assert "test_queues.py" not in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--engine", "memroy"], "there is no engine 'memroy'; did you mean 'memory'?"),
        (["--engine", "no_such_module:Engine"], "Is its folder in PYTHONPATH?"),
        (["--engine-option", "nonsense"], "--engine-option: 'nonsense' is not KEY=VALUE"),
        (
            ["--wire", "reddis"],
            "--wire reddis: relay ...: there is no wire",
        ),
        (["--wire", "asgi_ipc.relay.memory:MemoryWire"], "Wire: name its server by --wire-url"),
        (
            ["--wire", "redis", "--wire-url", "redis://user:1234@127.0.0.1"],
            "--wire-url: name the port too",
        ),
        (["--clause", "E99"], "--clause E99: there are E1, E2,"),
    ],
)
def test_arguments_that_were_not_meant_are_a_usage_error(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    code, said = run_suite(tmp_path, *arguments)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert said.startswith("ERROR: ")
    assert complaint in said
    assert "Traceback" not in said


def test_an_option_that_the_engine_does_not_take_fails_and_is_named(tmp_path: Path) -> None:
    code, said = run_suite(
        tmp_path, *("--engine", "memory", "--engine-option", "x=1", "-k", "unknown_queue")
    )
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "OptionError: engine 'memory' has no option 'x'; remove it" in said


def test_a_failure_shows_the_words_of_the_clause(tmp_path: Path) -> None:
    engine = "tests.wrong_engines.queues:AnswersLastFirst"
    code, said = run_suite(
        tmp_path,
        *("--engine", engine, "--clause", "E2", "-x"),
        path=str(ROOT),
    )
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "E2  Records of one queue are popped in the order in which they were pushed." in said


def test_without_a_name_every_registered_engine_is_tested_sorted(tmp_path: Path) -> None:
    from asgi_ipc.engines import names

    code, said = run_suite(tmp_path, "--collect-only", "--clause", "E7")
    assert code == 0
    first = [line for line in said.splitlines() if "test_many_queues" in line]
    assert [line.partition("[")[2].rstrip("]") for line in first] == names()
