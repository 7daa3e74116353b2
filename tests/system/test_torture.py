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

#: Processes among which the plants are shared out.
PARTS = 3


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


@pytest.mark.parametrize(("engine", "sample"), [*zip(ENGINES, (3, 1, 1), strict=True)])
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


# Sampled so, a run of prefixes visits every store of each plant's scenario, and none depends on
# chance. Many plants share a process, as to start one takes longer than to find a plant.


@pytest.mark.parametrize("part", range(PARTS))
def test_each_planted_bug_is_caught(part: int) -> None:
    said = torture("plants", "--last", "--part", f"{part}/{PARTS}", "--sample", "250")
    assert said.count(": caught by ") == len(PLANTS[part::PARTS])
