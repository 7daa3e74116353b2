"""Measure a whole site on each layer: ``make bench-site``, or ``python -m benchmarks.site -h``."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from .. import outcome
from ..results import Key, Results
from .clients import Crowd
from .layers import SiteLayer, all_layers
from .measures import Sizes
from .questions import QUESTIONS, VARIANTS, SiteQuestion
from .running import Site, running
from .servers import Servers
from .targets import TARGETS

#: Seconds for one measure of one site.
_LIMIT = 180.0
#: The question under which the load generator's own cost is told.
LOAD = SiteQuestion("load", "How much of a core did the load generator itself take?", ())


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.site", description=__doc__)
    parser.add_argument("--only", default="", help="questions, separated by commas")
    parser.add_argument("--layers", default="", help="parts of names of layers, with commas")
    parser.add_argument("--variants", default="", help=f"of {', '.join(VARIANTS)}, with commas")
    parser.add_argument("--workers", type=int, default=2, help="web processes (2)")
    parser.add_argument("--rounds", type=int, default=2, help="how often all is asked (2)")
    parser.add_argument("--loop", default="auto", help="uvicorn's event loop (auto)")
    parser.add_argument("--quick", action="store_true", help="less of everything, to try it out")
    parser.add_argument("--out", default="build/bench-site", help="folder for the JSON")
    parser.add_argument("--list", action="store_true", help="say what can be asked, and of whom")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str], layers: Sequence[SiteLayer] = ()) -> int:
    """Ask, show, and write down; the exit status."""
    options, console = _arguments(arguments), outcome.begin()
    layers = layers or all_layers()
    if options.list:
        for question in QUESTIONS:
            console.print(f"[bold]{question.name}[/]  {question.asks}")
        console.print("Of: " + ", ".join(layer.name for layer in layers))
        return 0
    if not os.path.exists("/proc/self/smaps_rollup"):
        console.print("CPU and memory of the site's processes are read in Linux' /proc.")
        return 2
    questions = _chosen("question", options.only, {each.name: each for each in QUESTIONS})
    variants = _chosen("variant", options.variants, {each: each for each in VARIANTS})
    _many_descriptors()
    with outcome.folder("site-") as folder, Servers(folder, console.print) as servers:
        usable = _usable(layers, options.layers, servers, console)
        run = outcome.Outcome(console)
        with run as results:
            for turn in range(max(1, options.rounds)):
                for variant in variants:
                    asked = [each for each in questions if variant in each.variants]
                    first = turn % len(usable) if usable else 0
                    for layer in usable[first:] + usable[:first]:
                        if asked:
                            told = f"{turn + 1}/{options.rounds}  {variant}  {layer.name}"
                            console.print(told, highlight=False)
                            _ask(layer, variant, asked, servers, options, results)
    facts = {"workers": options.workers, "rounds": options.rounds, "quick": options.quick}
    return run.tell([*questions, LOAD], TARGETS, options.out, facts)


def _ask(
    layer: SiteLayer,
    variant: str,
    questions: Sequence[SiteQuestion],
    servers: Servers,
    options: argparse.Namespace,
    results: Results,
) -> None:
    """Start the site on a layer, and ask it all but what has failed in an earlier round."""
    workers = options.workers if layer.crosses_processes else 1
    asked = [
        each
        for each in questions
        if (each.name, variant, layer.name) not in results.failures
        and (workers > 1 or not each.needs_worker)
    ]
    if not asked:
        return
    question, began, spent = asked[0], time.monotonic(), time.process_time()
    try:
        with tempfile.TemporaryDirectory(prefix="site-") as folder:
            made, server = layer.make(servers, folder), servers.process(layer.server)
            with running(made, variant, workers, server, folder, options.loop) as site:
                for question in asked:
                    _measure(site, question, variant, layer.name, Sizes(options.quick), results)
    except Exception as error:
        # With a site that is broken the others are measured all the same.
        told = f"{type(error).__name__}: {error}"
        results.failures[question.name, variant, layer.name] = told
    share = 100 * (time.process_time() - spent) / (time.monotonic() - began)
    results.add(Key(LOAD.name, variant, layer.name, "% of a core"), share)


def _measure(
    site: Site, question: SiteQuestion, variant: str, who: str, sizes: Sizes, results: Results
) -> None:
    for measure in question.measures:
        crowd = Crowd(site.ports)
        try:
            found = asyncio.run(asyncio.wait_for(measure(site, crowd, sizes), _LIMIT))
        except Exception as error:
            why = f"{measure.__name__}: {type(error).__name__}: {error}"
            results.failures[question.name, variant, who] = why
            continue
        for name, figures in found.items():
            shown = ", ".join(filter(None, (name, variant)))
            for number, value in figures.items():
                results.add(Key(question.name, shown, who, number), value)


def _usable(
    layers: Sequence[SiteLayer], parts: str, servers: Servers, console: Console
) -> list[SiteLayer]:
    """Those that are wanted and can be had here; says why the others can't."""
    wanted = [part for part in parts.split(",") if part]
    here = []
    for layer in layers:
        if wanted and not any(part in layer.name for part in wanted):
            continue
        why = layer.unavailable(servers)
        if why is None:
            here.append(layer)
        else:
            console.print(f"Left out: {layer.name}: {why}", markup=False)
    return here


def _chosen(kind: str, only: str, known: dict[str, Any]) -> list[Any]:
    names = [name for name in only.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"No such {kind}: {', '.join(unknown)}. There are: {', '.join(known)}")
    return [each for name, each in known.items() if not names or name in names]


def _many_descriptors() -> None:
    """Each client is one, here and in a worker."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
