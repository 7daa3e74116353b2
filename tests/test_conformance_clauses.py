"""The contract's clauses and the suite's tests, held together."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import asgi_ipc.engines.base as contract

SUITE = Path(__file__).parents[1] / "conformance"
#: Channels' specification, ASGI 1.x and ours; DESIGN.md's companion, SPEC.md, words them.
LAYER_CLAUSES = (
    {f"S{n}" for n in range(1, 19)}
    | {f"A{n}" for n in range(1, 6)}
    | {f"O{n}" for n in range(1, 5)}
)


def clauses_of_the_contract() -> set[str]:
    assert contract.__doc__ is not None
    return set(re.findall(r"^  (E\d+) ", contract.__doc__, re.MULTILINE))


def clauses_by_test() -> dict[str, set[str]]:
    """For each test the clauses it names."""
    found = {}
    for path in sorted(SUITE.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith(
                "test_"
            ):
                decorators = " ".join(ast.unparse(each) for each in node.decorator_list)
                named = set(re.findall(r"mark\.clause\('(\w+)'\)", decorators))
                found[f"{path.name}::{node.name}"] = named
    return found


def test_the_contract_numbers_its_clauses_without_a_gap() -> None:
    clauses = clauses_of_the_contract()
    assert len(clauses) >= 23
    assert clauses == {f"E{number}" for number in range(1, len(clauses) + 1)}


def test_every_clause_has_a_test() -> None:
    named = set().union(*clauses_by_test().values())
    assert clauses_of_the_contract() | LAYER_CLAUSES <= named


def test_every_test_names_a_clause_that_exists() -> None:
    known = clauses_of_the_contract() | LAYER_CLAUSES
    wrong = {test: named for test, named in clauses_by_test().items() if not named or named - known}
    assert not wrong
