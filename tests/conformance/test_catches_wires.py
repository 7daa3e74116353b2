"""The conformance suite for wires can fail: each of `wrong_wires` is caught by its clause."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asgi_ipc.conformance.wires.servers import Nats

from tests import wrong_wires
from tests.tools.suite_runs import run_wire_here

WRONG = wrong_wires.all_below(wrong_wires.Wrong)
WRONG_ON_A_NETWORK = wrong_wires.all_below(wrong_wires.WrongOnANetwork)
#: Environment variable: seconds to wait for what ought to happen, where it is known not to.
PATIENCE = "ASGI_IPC_CONFORMANCE_PATIENCE"


@pytest.fixture(scope="module")
def nats() -> Iterator[str]:
    """The URL of a NATS server."""
    missing = Nats.missing()
    if missing:
        pytest.skip(missing)
    server = Nats()
    yield server.url
    server.end()


@pytest.mark.parametrize("wire", WRONG)
def test_a_wrong_wire_is_caught_by_a_test_that_names_the_clause(
    wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clause = WRONG[wire].breaks
    monkeypatch.setenv(PATIENCE, "0.2")
    outcome = run_wire_here(wire, "memory:", clause, "--maxfail=1")
    assert outcome.failed
    assert all(clause in named for named in outcome.failed.values())


@pytest.mark.parametrize("wire", WRONG_ON_A_NETWORK)
def test_one_that_is_wrong_on_a_network_is_caught_so_too(
    wire: str, nats: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`NatsWire` itself passes this selection whenever the whole suite is run."""
    clause = WRONG_ON_A_NETWORK[wire].breaks
    monkeypatch.setenv(PATIENCE, "1")
    outcome = run_wire_here(wire, nats, clause, "--maxfail=1")
    assert outcome.failed
    assert all(clause in named for named in outcome.failed.values())


@pytest.mark.parametrize("clause", ["W4", "W8", "W12"])
def test_one_that_breaks_nothing_is_not_caught(clause: str) -> None:
    """It is made like the others, so they are caught by their faults."""
    outcome = run_wire_here("tests.wrong_wires:Right", "memory:", clause)
    assert not outcome.failed
    assert outcome.passed


def test_each_clause_has_a_wrong_wire() -> None:
    assert {each.breaks for each in WRONG.values()} == {f"W{number}" for number in range(1, 15)}
