"""Run the benchmarks: ``make bench``, or ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from . import outcome, plot, redis_server, runner
from .peers import Peer, all_peers, lite, ours
from .peers.base import Resources
from .questions import Question, all_questions
from .settings import Settings
from .targets import TARGETS


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="questions, separated by commas")
    parser.add_argument("--peers", default="", help="parts of names of layers, with commas")
    parser.add_argument(
        "--engines",
        default="",
        help="more engines of asgi_ipc: names or paths package.module:Class, with commas",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often all is asked (3)")
    parser.add_argument("--quick", action="store_true", help="less of everything, to try it out")
    parser.add_argument("--out", default="build/bench", help="folder for JSON and plot")
    parser.add_argument("--list", action="store_true", help="say what can be asked, and of whom")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Ask, show, and write down; the exit status."""
    options = _arguments(arguments)
    console = outcome.begin()
    if options.list:
        for each in all_questions():
            console.print(f"[bold]{each.name}[/]  {each.asks}")
        console.print("Of: " + ", ".join(peer.name for peer in all_peers()) + ", and the floors")
        return 0
    questions = _chosen(options.only)
    wanted = chosen_peers(options.peers, options.engines)
    settings = Settings(max(1, options.rounds), options.quick)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(outcome.folder("bench-"))
        resources, server = _resources(stack, directory, wanted, console)
        peers = runner.usable(wanted, resources, lambda said: console.print(said, markup=False))
        run = outcome.Outcome(console, server)
        with run as results, console.status("") as status:
            runner.run(
                questions,
                peers,
                "floor" in options.peers or not options.peers,
                settings,
                resources,
                directory,
                status.update if console.is_terminal else console.print,
                results,
            )
    picture = os.path.join(options.out, "results.png")
    facts = {"rounds": settings.rounds, "quick": settings.quick}
    exit_status = run.tell(questions, TARGETS, options.out, facts)
    if plot.draw(run.results, picture):
        console.print(f"Written: {picture}")
    return exit_status


def _resources(
    stack: contextlib.ExitStack, directory: str, wanted: Sequence[Peer], console: Console
) -> tuple[Resources, str]:
    """Start and make what peers need; and which server it is."""
    socket = server = missing = ""
    if any("redis" in peer.name for peer in wanted):
        program, missing = redis_server.find(console.print)
        if program:
            socket, _ = stack.enter_context(redis_server.running(program, directory))
            server = redis_server.version(program)
    database = ""
    if any("lite" in peer.name for peer in wanted):
        database = lite.make_database(directory)
    return Resources(socket, missing, database), server


def _chosen(only: str) -> list[Question]:
    questions = all_questions()
    names = [name for name in only.split(",") if name]
    unknown = set(names) - {question.name for question in questions}
    if unknown:
        known = ", ".join(question.name for question in questions)
        raise SystemExit(f"No such question: {', '.join(sorted(unknown))}. There are: {known}")
    return [question for question in questions if not names or question.name in names]


def chosen_peers(parts: str, engines: str) -> list[Peer]:
    """The layers asked for; engines that are named are asked for by that."""
    wanted = [part for part in parts.split(",") if part]
    named = [ours.peer(engine) for engine in engines.split(",") if engine]
    here = [p for p in all_peers() if not wanted or any(part in p.name for part in wanted)]
    return [*named, *here]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
