"""The conformance suite can fail: each engine of `wrong_engines` is caught by its clause."""

from __future__ import annotations

import pytest

from conformance.tools import CheckedThread
from tests import (
    wrong_engines,
)
from tests.tools.suite_runs import (
    run_here,
)

MODULE = "tests.wrong_engines"
WRONG = wrong_engines.all_below(wrong_engines.Wrong)
WRONG_AMONG_MANY = wrong_engines.all_below(wrong_engines.WrongAmongMany)
WRONG_MEMORY = wrong_engines.all_below(wrong_engines.WrongMemory)
#: Of what one process can break.
CLAUSES = sorted({each.breaks for each in WRONG.values()}, key=lambda name: int(name[1:]))
#: Environment variable: seconds to wait for what ought to happen, where it is known not to.
PATIENCE = "ASGI_IPC_CONFORMANCE_PATIENCE"


@pytest.mark.parametrize("engine", WRONG)
def test_a_wrong_engine_is_caught_by_a_test_that_names_the_clause(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clause = WRONG[engine].breaks
    monkeypatch.setenv(PATIENCE, "0.3")
    outcome = run_here(engine, clause, "--maxfail=1")
    assert outcome.failed
    assert all(clause in named for named in outcome.failed.values())


@pytest.mark.parametrize("engine", WRONG_AMONG_MANY)
def test_one_that_is_wrong_among_processes_is_caught_so_too(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`MmapEngine` itself passes this selection whenever the whole suite is run."""
    clause = WRONG_AMONG_MANY[engine].breaks
    monkeypatch.setenv(PATIENCE, "2")
    # The kills come at random instants: once in some six times all of them miss, and more often
    # where the machine is busy.
    for _ in range(20):
        outcome = run_here(engine, clause, "-k", WRONG_AMONG_MANY[engine].seen_by, "--maxfail=1")
        if outcome.failed:
            break
    assert outcome.failed
    assert all(clause in named for named in outcome.failed.values())


@pytest.mark.parametrize("engine", WRONG_MEMORY)
def test_one_whose_memory_is_wrong_is_caught_so_too(engine: str) -> None:
    clause = WRONG_MEMORY[engine].breaks
    outcome = run_here(engine, clause, "-k", "test_segment", "--maxfail=1")
    assert outcome.failed
    assert all(clause in named for named in outcome.failed.values())


def test_each_clause_of_segments_has_wrong_memory() -> None:
    assert sorted({each.breaks for each in WRONG_MEMORY.values()}) == [f"G{n}" for n in range(1, 9)]


@pytest.mark.parametrize("clause", CLAUSES)
def test_one_that_breaks_nothing_is_not_caught(clause: str) -> None:
    """It is made like the others, so they are caught by their faults."""
    outcome = run_here(f"{MODULE}:Right", clause)
    assert not outcome.failed
    assert outcome.passed or clause == "E15", "which it does not declare"


@pytest.mark.parametrize("clause", ["E17", "E22"])
def test_one_that_never_goes_on_in_another_store_is_not_caught(clause: str) -> None:
    outcome = run_here(f"{MODULE}:LeavesADestroyedStore", clause, "-k", "destroyed or replaced")
    assert not outcome.failed
    assert outcome.passed


def test_one_that_reckons_the_time_of_a_server_is_not_caught() -> None:
    for _ in range(5):
        outcome = run_here(f"{MODULE}:ReckonsTheTimeOfAServer", "E4", "-k", "clock")
        assert not outcome.failed
        assert outcome.passed


def test_a_capability_declared_absent_skips_its_tests_and_says_so() -> None:
    outcome = run_here("memory", "E16")
    assert not outcome.failed
    assert not outcome.passed
    assert set(outcome.skipped) == {"memory declares no crosses_processes"}


def test_a_capability_declared_and_absent_fails_its_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PATIENCE, "2")
    outcome = run_here(f"{MODULE}.processes:SaysItCrossesProcesses", "E15")
    assert len(outcome.failed) >= 3
    assert not outcome.skipped


def test_an_engine_that_cannot_work_here_is_skipped_with_its_own_reason() -> None:
    outcome = run_here(f"{MODULE}:WorksNowhere", "E7")
    reason = f"{MODULE}:WorksNowhere can't work here: it needs a flux capacitor; install one"
    assert set(outcome.skipped) == {reason}
    assert not outcome.passed
    assert not outcome.failed


def test_what_a_thread_of_an_engine_raises_is_nothing_that_the_calling_test_did() -> None:
    # It would be a warning, and so an error, of this test.
    outcome = run_here(f"{MODULE}:RaisesInAThread", "E7")
    assert outcome.passed
    assert not outcome.failed


def test_what_a_thread_of_the_suite_raises_fails_the_test_that_started_it() -> None:
    thread = CheckedThread(lambda number: 1 / number, 0)
    thread.start()
    with pytest.raises(ZeroDivisionError):
        thread.join()


def test_what_only_the_whole_run_can_see_it_left_behind_fails_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = run_here(f"{MODULE}:LittersTheRun", "E7")
    wrong_engines.LittersTheRun.litter.unlink()
    assert outcome.passed
    assert not outcome.failed
    assert outcome.code == pytest.ExitCode.TESTS_FAILED
    said = capsys.readouterr().out
    assert f"asgi_ipc: the run left behind: {wrong_engines.LittersTheRun.litter}\n" in said
