"""The contracts' clauses and the suite's tests, held together."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from asgi_ipc.conformance.clauses import clauses

SUITE = Path(__file__).parents[2] / "conformance"
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


def test_every_clause_has_a_test() -> None:
    named = set().union(*clauses_by_test().values())
    assert set(clauses()) - named == set()


def test_every_test_names_a_clause_that_exists() -> None:
    known = set(clauses())
    wrong = {test: named for test, named in clauses_by_test().items() if not named or named - known}
    assert not wrong
