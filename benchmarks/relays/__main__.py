"""Measure relays beside channels_redis: ``make bench-relays``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import outcome, redis_server, runner
from ..peers.base import Resources
from ..settings import Settings
from . import paper
from .machines import all_peers
from .questions import QUESTIONS
from .targets import TARGETS


def main(arguments: Sequence[str]) -> int:
    """Ask, show, and write down; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relays", description=__doc__)
    names = ", ".join(question.name for question in QUESTIONS)
    parser.add_argument("--only", default="", help=f"of {names}, with commas")
    parser.add_argument("--peers", default="", help="parts of names of layers, with commas")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is asked (3)")
    parser.add_argument("--quick", action="store_true", help="less of everything, to try it out")
    parser.add_argument("--out", default="build/bench-relays", help="folder for the JSON")
    options = parser.parse_args(arguments)
    console = outcome.begin()
    only = [name for name in options.only.split(",") if name]
    if set(only) - {question.name for question in QUESTIONS}:
        parser.error(f"--only is {options.only!r}; take of {names}")
    questions = [question for question in QUESTIONS if not only or question.name in only]
    parts = [part for part in options.peers.split(",") if part]
    wanted = [p for p in all_peers() if not parts or any(part in p.name for part in parts)]
    program, missing = redis_server.find(console.print)
    if not program:
        console.print(missing)
        return 2
    settings = Settings(max(1, options.rounds), options.quick)
    run = outcome.Outcome(console, redis_server.version(program))
    with (
        outcome.folder("relays-") as directory,
        redis_server.running(program, directory) as (socket, _),
        run as results,
    ):
        resources = Resources(socket, missing, "")
        runner.run(questions, wanted, False, settings, resources, directory, console.print, results)
    facts = {"rounds": settings.rounds, "quick": settings.quick}
    status = run.tell(questions, TARGETS, options.out, facts)
    costs = paper.costs(results)
    if costs is not None:
        paper.show(console, costs, paper.SITE)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
