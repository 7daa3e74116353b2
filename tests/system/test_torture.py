"""A part of what ``make torture`` does, and proof that it would find something.

Each runs as its own small process: forking a large one thousands of times is slow.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.torture.plants import (
    PLANTS,
)
from tests.torture.world import (
    ENGINES,
)


def torture(*arguments: str) -> str:
    """What ``python -m tests.torture`` says; it must find nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-8_000:]
    return done.stdout


# The engines share all that an operation stores: one of them is sampled more densely.


@pytest.mark.parametrize(("engine", "sample"), [*zip(ENGINES, (5, 1, 1), strict=True)])
def test_a_kill_at_any_opcode_of_any_operation_leaves_it_done_or_not_begun(
    engine: str, sample: int
) -> None:
    assert "kills" in torture("kill", "--engine", engine, "--sample", str(sample))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_kill_while_a_store_is_made_or_removed_leaves_one_store_or_none(engine: str) -> None:
    assert "kills" in torture("births", "--engine", engine, "--sample", "5")


def test_any_prefix_of_what_an_operation_stores_leaves_it_done_or_not_begun() -> None:
    assert "images" in torture("prefixes", "--engine", "mmap", "--sample", "3")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_spoiled_store_serves_or_says_so(engine: str) -> None:
    assert "spoiled" in torture("damage", "--engine", engine, "--rounds", "500")


def test_forged_memory_costs_a_call_neither_for_ever_nor_all_memory() -> None:
    # All of them against all calls: `make torture`.
    assert "forgeries" in torture("forged", "--share", "7")


@pytest.mark.parametrize(("plant", "finder"), [(plant.name, plant.finders[-1]) for plant in PLANTS])
def test_a_planted_bug_is_caught(plant: str, finder: str) -> None:
    said = torture("plants", "--only", plant, "--finder", finder, "--sample", "200")
    assert "caught" in said
