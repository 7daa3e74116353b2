"""``python -m tests.platforms``: set up what this machine can play, try it, print a table."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import cpython, debian_cpython, i386, musl, pypy, s390x, trials
from .base import Kind, NotHere, Platform
from .trials import Outcome

KINDS: tuple[Kind, ...] = (cpython, debian_cpython, pypy, i386, s390x, musl)
_CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "asgi_ipc")
_HEAD = ("Platform", "Doctor", "Conformance", "Kills")


def try_one(platform: Platform, cache: Path) -> Iterator[tuple[str, Outcome]]:
    """Yield each trial's name and outcome; of what is not here, one that says why."""
    try:
        machine = platform.set_up(cache)
    except NotHere as error:
        yield "Doctor", Outcome("not here", str(error))
        return
    outcome, engines = trials.doctor(platform, machine)
    yield "Doctor", outcome
    if platform.refused:
        return
    works = [name for name, why in engines.items() if not why and name != "memory"]
    chosen = [name for name in works if platform.engines is None or name in platform.engines]
    if not chosen:
        return
    yield "Conformance", trials.conformance(platform, machine, chosen)
    yield "Kills", trials.kills(platform, machine, "mmap" if "mmap" in chosen else chosen[0])


def main(arguments: list[str]) -> int:
    """Return 1 if something failed, 0 if all that was here passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.platforms", description=__doc__)
    parser.add_argument("--only", default="", help="those whose name has this in it")
    parser.add_argument("--list", action="store_true", help="only name them")
    parser.add_argument("--cache", default=_CACHE, help=f"what is set up is kept here ({_CACHE})")
    chosen = parser.parse_args(arguments)
    cache = Path(chosen.cache).absolute()
    cache.mkdir(parents=True, exist_ok=True)
    rows = []
    for platform in (each for kind in KINDS for each in kind.platforms()):
        if chosen.only.lower() not in platform.name.lower():
            continue
        if chosen.list:
            sys.stdout.write(f"{platform.name}\n")
            continue
        row = {}
        for trial, outcome in try_one(platform, cache):
            began = time.strftime("%H:%M:%S")
            sys.stdout.write(f"{began} {platform.name}: {trial}: {outcome.verdict}: "
                             f"{outcome.detail}\n")  # fmt: skip
            sys.stdout.flush()
            row[trial] = outcome
            if outcome.verdict == "failed" and outcome.output:
                log = cache / f"{platform.name} {trial}.log".replace("/", "-").replace(" ", "-")
                log.write_text(outcome.output)
                sys.stdout.write(f"  see {log}\n")
        rows.append((platform.name, row))
    if rows:
        sys.stdout.write("\n" + table(rows))
    return int(any(each.verdict == "failed" for _, row in rows for each in row.values()))


def table(rows: list[tuple[str, dict[str, Outcome]]]) -> str:
    """Return the outcomes as a table in Markdown."""
    lines = [" | ".join(_HEAD), " | ".join("---" for _ in _HEAD)]
    for name, row in rows:
        cells = []
        for trial in _HEAD[1:]:
            each = row.get(trial)
            cells.append(f"{each.verdict}: {each.detail}".replace("|", "/") if each else "")
        lines.append(" | ".join([name, *cells]))
    return "".join(f"| {line} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
