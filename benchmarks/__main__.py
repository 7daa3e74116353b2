"""Run the benchmarks: ``make bench``, or ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from types import FrameType

from rich.console import Console

from . import machine, plot, redis_server, report, runner
from .peers import Peer, all_peers, lite, ours
from .peers.base import Resources
from .questions import Question, all_questions
from .results import Results
from .settings import Settings


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
    console = Console()
    if options.list:
        for each in all_questions():
            console.print(f"[bold]{each.name}[/]  {each.asks}")
        console.print("Of: " + ", ".join(peer.name for peer in all_peers()) + ", and the floors")
        return 0
    questions = _chosen(options.only)
    wanted = chosen_peers(options.peers, options.engines)
    settings = Settings(max(1, options.rounds), options.quick)
    signal.signal(signal.SIGTERM, _end)
    results = Results()
    with contextlib.ExitStack() as stack:
        # In memory where there is such a file system: no peer shall wait for a disk.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=memory))
        resources, server = _resources(stack, directory, wanted, console)
        peers = runner.usable(wanted, resources, lambda said: console.print(said, markup=False))
        where = machine.description(server)
        console.print(report.about(where), markup=False, highlight=False)
        loads, interrupted = [machine.load()], False
        with console.status("") as status:
            try:
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
            except KeyboardInterrupt:
                interrupted = True
                console.print("Interrupted; this is what there is so far.")
        loads.append(machine.load())
    report.show(console, questions, results)
    report.show_targets(console, results)
    report.show_failures(console, results)
    if settings.quick:
        console.print("QUICK: too short to learn anything from, but that it works.")
    console.print(f"Load of the machine before and after: {loads[0]}, {loads[1]}")
    facts = {"machine": where, "load": loads, "rounds": settings.rounds, "quick": settings.quick}
    _write(options.out, {**facts, **results.as_json()}, results, console)
    # A peer may fail where it was not made for the question.
    failed = any("asgi_ipc" in who for _, _, who in results.failures)
    return 1 if failed or interrupted else 0


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


def _write(folder: str, told: dict[str, object], results: Results, console: Console) -> None:
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "results.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(told, file, indent=1, ensure_ascii=False)
    picture = os.path.join(folder, "results.png")
    drawn = plot.draw(results, picture)
    console.print("Written: " + path + (f", {picture}" if drawn else ""))


def _end(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C, so that everything is taken down."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
