"""The clauses of relays, and the tests that cite them."""

from __future__ import annotations

import re
from pathlib import Path

from asgi_ipc.relay import relay

TESTS = Path(__file__).parents[1]


def test_every_clause_has_a_test() -> None:
    numbers = re.findall(r"^  (R\d+) +[A-Z]", relay.__doc__ or "", re.M)
    assert numbers == [f"R{number + 1}" for number in range(len(numbers))]
    assert len(numbers) == 12
    places = [*TESTS.glob("relay/test_*.py"), TESTS / "layers" / "test_relaying.py"]
    cited = {name for path in places for name in re.findall(r"\bR\d+\b", path.read_text())}
    assert cited == set(numbers)
