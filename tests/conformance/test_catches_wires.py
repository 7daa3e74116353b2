"""The conformance suite for wires can fail: each of `wrong_wires` is caught by its clause."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from asgi_ipc.conformance.wires.servers import Nats

from tests import wrong_wires
from tests.tools.suite_runs import run_wires_here

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


def clauses(wrong: Mapping[str, type[Any]]) -> list[str]:
    """The clauses that some wires break."""
    return sorted({each.breaks for each in wrong.values()}, key=lambda name: int(name[1:]))


def not_caught(wrong: Mapping[str, type[Any]], clause: str, url: str) -> list[str]:
    """The wires that break a clause, and that no test has caught that names it."""
    wires = [name for name, each in wrong.items() if each.breaks == clause]
    outcome = run_wires_here(wires, url, clause)
    assert all(clause in named for named in outcome.failed.values())
    # A parameter follows the name of the wire with a "-".
    caught = [re.split(r"[\[\]-]", test)[1] for test in outcome.failed]
    return sorted(set(wires) - set(caught))


@pytest.mark.parametrize("clause", clauses(WRONG))
def test_wrong_wires_are_caught_by_a_test_that_names_the_clause(
    clause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0.2")
    assert not_caught(WRONG, clause, "memory:") == []


@pytest.mark.parametrize("clause", clauses(WRONG_ON_A_NETWORK))
def test_those_that_are_wrong_on_a_network_are_caught_so_too(
    clause: str, nats: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`NatsWire` itself passes this selection whenever the whole suite is run."""
    monkeypatch.setenv(PATIENCE, "0.5")
    assert not_caught(WRONG_ON_A_NETWORK, clause, nats) == []


@pytest.mark.parametrize("clause", ["W4", "W8", "W12"])
def test_one_that_breaks_nothing_is_not_caught(clause: str) -> None:
    """It is made like the others, so they are caught by their faults."""
    outcome = run_wires_here(["tests.wrong_wires:Right"], "memory:", clause)
    assert not outcome.failed
    assert outcome.passed


def test_each_clause_has_a_wrong_wire() -> None:
    assert clauses(WRONG) == [f"W{number}" for number in range(1, 15)]
