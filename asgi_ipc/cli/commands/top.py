"""``top``: a live screen of a store."""

from __future__ import annotations

import os
import sys

import click

from ..arguments import Given, may_name_store
from ..finding import is_over_shared_memory, locate


@click.command("top")
@may_name_store
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="look so often",
)
def command(
    given: Given,
    interval: float,
) -> int:
    """Show the store of PREFIX live: rates, memory, channels, groups, processes.

    Without PREFIX, shows the only store, or a list to choose from. The line at the bottom names the
    keys; 1, 2 and 3, Tab and the mouse go to a table, and a click on a column sorts by it. Needs
    the extra 'cli'. The command joins the store for each look and is not counted among its
    processes.
    """
    try:
        from ..top.app import Top
        from ..top.choosing import stores
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):
            raise
        raise click.UsageError(
            f"top needs the package {error.name}: pip install 'asgi_ipc[cli]>=2'; without it, "
            "'stats PREFIX --watch 1' shows the counts and their rates"
        ) from None
    if not _has_screen():
        raise click.UsageError(
            "top needs a terminal that can move its cursor; for scripts: 'stats PREFIX --watch 1 "
            "--json'"
        )
    store, directory = given.chosen(), given.directory
    if store is not None:
        if is_over_shared_memory(store):
            locate(store)  # What is not there is told before the screen is taken.
    elif not stores(directory):
        where = repr(directory) if directory else "the default directories"
        raise click.UsageError(f"there are no stores to look at in {where}; 'list' shows all")
    top = Top(store, directory, interval)
    status = top.run() or top.return_code or 0
    if top.is_looking:
        # Leaving the store properly would wait for the lock that a thread waits for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _has_screen() -> bool:
    # textual writes to the standard error.
    try:
        is_terminal = all(each.isatty() for each in (sys.stdin, sys.stdout, sys.stderr))
    except (AttributeError, ValueError):  # One of them is closed.
        return False
    return is_terminal and os.environ.get("TERM", "dumb") != "dumb"


__all__ = ["command"]
