"""Measure relays beside channels_redis: ``make bench-relays``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence

from rich.console import Console

from .. import machine, redis_server, report, runner
from ..peers.base import Resources
from ..results import Results
from ..settings import Settings
from .machines import all_peers
from .questions import QUESTIONS
from .targets import TARGETS

#: Columns of a log, which says nothing of its width.
_WIDTH = 130


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
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
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
    settings, results = Settings(max(1, options.rounds), options.quick), Results()
    # In memory where there is such a file system: no store shall wait for a disk.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="relays-", dir=memory) as directory,
        redis_server.running(program, directory) as (socket, _),
    ):
        where = machine.description(redis_server.version(program))
        console.print(report.about(where), markup=False, highlight=False)
        loads, interrupted = [machine.load()], False
        resources = Resources(socket, missing, "")
        try:
            runner.run(
                questions, wanted, False, settings, resources, directory, console.print, results
            )
        except KeyboardInterrupt:
            interrupted = True
            console.print("Interrupted; this is what there is so far.")
        loads.append(machine.load())
    report.show(console, questions, results)
    report.show_targets(console, results, TARGETS)
    report.show_failures(console, results)
    console.print(f"Load of the machine before and after: {loads[0]}, {loads[1]}")
    facts = {"machine": where, "load": loads, "rounds": settings.rounds, "quick": settings.quick}
    os.makedirs(options.out, exist_ok=True)
    path = os.path.join(options.out, "results.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**facts, **results.as_json()}, file, indent=1, ensure_ascii=False)
    console.print(f"Written: {path}")
    return 1 if interrupted or any("asgi_ipc" in who for _, _, who in results.failures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
