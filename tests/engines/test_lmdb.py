"""The benchmarks' engine on LMDB keeps the contract, so that it is a fair peer."""

from __future__ import annotations

import pytest

from tests.tools.doubles import (
    watchdog,
)
from tests.tools.samples import ALL
from tests.tools.suite_runs import (
    ROOT,
    run_elsewhere,
)

pytest.importorskip("lmdb")

__all__ = ["watchdog"]

_ENGINE = "benchmarks.lmdb_store.engine:LMDBEngine"


# Not the module of kills: the locks are LMDB's own, and now and then one stays taken.
@pytest.mark.parametrize("module", ["queues", "tables", "waiting", "processes", "upkeep"])
def test_it_passes_the_suite(module: str) -> None:
    arguments = ["-p", "asgi_ipc.conformance.plugin", "--engine", _ENGINE, "-p", "no:randomly"]
    if not ALL:
        arguments += ["-p", "tests.tools.sampled_suite"]
    code, said = run_elsewhere(ROOT, *arguments, f"conformance/test_{module}.py", path=str(ROOT))
    assert code == 0, said
    assert " passed" in said
