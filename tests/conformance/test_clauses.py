"""The contracts' clauses and the suite's tests, held together."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from asgi_ipc.conformance.clauses import clauses

import asgi_ipc
from asgi_ipc.engines import base
from asgi_ipc.engines.shm import segment
from asgi_ipc.relay import wire

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "conformance"
#: How many there are of each letter, so that none is lost by a slip of the pen.
NUMBERS = {"E": 34, "G": 8, "W": 14, "S": 18, "A": 5, "O": 13}
#: Numbers that are given, of clauses that are not kept yet.
RESERVED = {"O5", "O7", "O8", "O9"}


def clauses_by_test() -> dict[str, set[str]]:
    """For each test the clauses it names."""
    found = {}
    for path in sorted(SUITE.rglob("test_*.py")):
        module = ast.parse(path.read_text())
        everywhere = " ".join(
            ast.unparse(node)
            for node in module.body
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "pytestmark"
        )
        for node in module.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith(
                "test_"
            ):
                decorators = " ".join(ast.unparse(each) for each in node.decorator_list)
                named = set(re.findall(r"mark\.clause\('(\w+)'\)", decorators + everywhere))
                found[f"{path.name}::{node.name}"] = named
    return found


def test_each_contract_numbers_its_clauses_without_a_gap_and_words_them() -> None:
    known = clauses()
    assert Counter(name[0] for name in {*known, *RESERVED}) == NUMBERS
    numbered = {f"{letter}{n + 1}" for letter in NUMBERS for n in range(NUMBERS[letter])}
    assert set(known) == numbered - RESERVED
    assert all(len(words) > 20 for words in known.values())


def test_each_contract_is_a_public_module_and_its_clauses_stand_in_the_documents() -> None:
    document = (ROOT / "docs" / "clauses.md").read_text()
    for contract in (base, segment, wire):
        assert contract.__doc__ is not None
        assert f"`{contract.__name__}`" in " ".join((asgi_ipc.__doc__ or "").split())
        path = contract.__name__.replace(".", "/")
        assert f"<!-- clauses of {path}.py -->" in document


def test_every_clause_has_a_test() -> None:
    named = set().union(*clauses_by_test().values())
    assert set(clauses()) - named == set()


def test_every_test_names_a_clause_that_exists() -> None:
    known = set(clauses())
    wrong = {test: named for test, named in clauses_by_test().items() if not named or named - known}
    assert not wrong
