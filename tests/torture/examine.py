"""What kills and prefixes have in common: the look at a state that an end left behind."""

from __future__ import annotations

import argparse
import gc
import random
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .scenarios import SCENARIOS
from .steps import Scenario
from .world import ENGINES, NEVER, Finding, View, World, brief, expect

State = tuple[bytes, bytes]

#: Seconds after which something that has not ended is taken to hang.
PATIENCE = 120


class Tally(NamedTuple):
    """What a run did."""

    #: Ends: processes killed, or memory images made.
    ends: int = 0
    #: Different states that these left, each recovered and checked.
    states: int = 0
    #: Operations carried out on them.
    operations: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(*(mine + more for mine, more in zip(self, other, strict=True)))


class Examiner(ABC):
    """A world, and the judgement of what becomes of it."""

    #: What its ends are called.
    ends = "ends"
    #: Different states of one scenario that a sampled run of kills looks at.
    most_judged = 16

    def __init__(self, engine: str, sample: int = 0, seed: int = 0) -> None:
        """``sample``: about how many ends for each scenario, or 0 for all there are."""
        self.world = World(engine)
        self.sample = sample
        self.dice = random.Random(seed)
        self.tally = Tally()
        gc.collect()
        gc.freeze()

    @abstractmethod
    def run(self, scenario: Scenario) -> Tally:
        """Examine one scenario. Raises `Finding`."""

    def run_all(self, only: str, say: Callable[[str], object], longest: int = 10**6) -> Tally:
        """Examine all scenarios with ``only`` in their name that are not too long."""
        total = Tally()
        try:
            for scenario in SCENARIOS:
                if only in scenario.name and scenario.stride <= longest:
                    begun = time.monotonic()
                    tally = self.run(scenario)
                    total = total.plus(tally)
                    took = time.monotonic() - begun
                    did = f"{tally.ends:,} {self.ends}, {tally.states:,} different states"
                    say(f"  {scenario.name}: {did}, {took:.1f} s")
        finally:
            self.world.close()
        return total

    def begin(self, scenario: Scenario) -> tuple[State, list[View]]:
        """The memory before the operation, and the views it may leave."""
        world = self.world
        world.now = 10**15 + 200
        world.load(world.base)
        scenario.prepare(world)
        start = world.save()
        allowed = scenario.allowed(world, world.view())
        world.load(start)
        return start, allowed

    def judge(
        self,
        scenario: Scenario,
        state: State,
        allowed: list[View],
        where: str,
        exercise: bool = True,
    ) -> None:
        """Have the next process come, look closely, and go on working."""
        world = self.world
        self.tally = self.tally.plus(Tally(states=1, operations=10 if exercise else 0))
        world.load(state)
        # The operation may have been a look after the store, which puts off the next one.
        world.engine.upkeep.due = NEVER
        with watchdog():
            try:
                view = world.view()
                if view not in allowed:
                    raise Finding(f"neither before nor after: {brief(view)}, but {brief(allowed)}")
                found = world.findings()
                if found:
                    raise Finding(f"the check finds {found}")
                if exercise:
                    world.exercise(view, scenario.full)
                if scenario.go_on:
                    world.load(state)
                    scenario.go_on(world)
                    expect(world.findings(), [], "the check after going on")
            except Exception as error:
                raise Finding(
                    f"{scenario.name}, {where}: {type(error).__name__}: {error}"
                ) from error
            finally:
                world.load(state)


@contextmanager
def watchdog() -> Iterator[None]:
    """Dies of SIGALRM if it takes too long."""
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)


def command(
    name: str, about: str | None, examine: Callable[[str, int, str, Callable[[str], object]], Tally]
) -> Callable[[list[str]], int]:
    """The command line of an examiner."""

    def main(arguments: list[str]) -> int:
        parser = argparse.ArgumentParser(
            prog=f"python -m tests.torture {name}",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all")
        parser.add_argument("--sample", type=int, default=0, help="so many for each scenario")
        parser.add_argument("--only", default="", help="part of a scenario's name")
        parser.add_argument("--quiet", action="store_true", help="no line for each scenario")
        parsed = parser.parse_args(arguments)
        for engine in parsed.engine or ENGINES:
            begun = time.monotonic()
            say = (lambda text: None) if parsed.quiet else _say
            try:
                tally = examine(engine, parsed.sample, parsed.only, say)
            except Finding:
                traceback.print_exc()
                return 1
            took = time.monotonic() - begun
            if not tally.ends:
                _say(f"{name}, {engine}: nothing came to an end before its time")
                return 1
            _say(
                f"{name}, {engine}: {tally.ends:,} ends, {tally.states:,} different states "
                f"checked, {tally.operations:,} operations on them, {took:.0f} s"
            )
        return 0

    return main


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
