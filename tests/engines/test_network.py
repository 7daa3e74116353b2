"""A small engine that asks a server keeps the contract, and wrong ones are caught behind a proxy.

The whole suite runs on it by the command that docs/writing-an-engine.md gives; here are the clauses
that only such an engine can break.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests import wrong_engines
from tests.tools import network_engine
from tests.tools.suite_runs import Outcome, run_here
from tests.wrong_engines.network import WrongAtHearing, WrongOverANetwork

WRONG: Mapping[str, type[Any]] = {
    **wrong_engines.all_below(WrongOverANetwork),
    **wrong_engines.all_below(WrongAtHearing),
}
#: Environment variable: seconds to wait for what ought to happen, where it is known not to.
PATIENCE = "ASGI_IPC_CONFORMANCE_PATIENCE"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server, as HOST:PORT."""
    with network_engine.server() as address:
        yield address


def run(engine: str, clause: str, server: str, *arguments: str) -> Outcome:
    """Run the tests of a clause behind a proxy."""
    options = ("--engine-option", f"server='{server}'", "--engine-option", "timeout=0.3")
    return run_here(engine, clause, *options, "--engine-proxy", "server", *arguments)


@pytest.mark.parametrize("clause", ["E19", "E33", "E34"])
def test_the_engine_keeps_the_clause(clause: str, server: str) -> None:
    outcome = run("tests.tools.network_engine:NetworkEngine", clause, server)
    assert not outcome.failed
    assert outcome.passed
    assert all(why.endswith("declares no wakes") for why in outcome.skipped)


@pytest.mark.parametrize("clause", ["E12", "E13", "E14", "E18", "E21", "E33"])
def test_the_engine_that_hears_of_pushes_keeps_the_clause(clause: str, server: str) -> None:
    outcome = run("tests.tools.network_engine:WakingNetworkEngine", clause, server)
    assert not outcome.failed
    assert outcome.passed


def test_an_engine_whose_server_carries_calls_out_late_is_not_caught(server: str) -> None:
    outcome = run("tests.wrong_engines.network:CarriesOutLate", "E33", server, "-k", "twice")
    assert not outcome.failed
    assert outcome.passed


@pytest.mark.parametrize("engine", WRONG)
def test_a_wrong_one_is_caught_by_a_test_that_names_the_clause(
    engine: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "2")
    clause = WRONG[engine].breaks
    outcome = run(engine, clause, server, "--maxfail=1")
    assert outcome.failed
    assert all(clause in named for named in outcome.failed.values())
