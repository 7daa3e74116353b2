"""A plugin of pytest that keeps a part of the conformance suite: ``-p tests.tools.sampled_suite``.

Of the tests that cite a clause it keeps the first three, whatever the engine, so that each clause
is still checked. It imports nothing of ours, so that it can be used where the tests are not.
"""

from __future__ import annotations

from collections import Counter

import pytest

#: Tests of each clause.
MOST = 3


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect a test if all of its clauses are cited by enough others."""
    cited: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        clauses = {name for mark in item.iter_markers("clause") for name in mark.args}
        if clauses and min(cited[name] for name in clauses) >= MOST:
            left_out.append(item)
        else:
            kept.append(item)
            cited.update(clauses)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept
