"""``list``: every store that this user may see."""

from __future__ import annotations

import os

import click

from ..arguments import as_json, settings
from ..inspecting import STALE
from ..joining import hint_if_slow
from ..listing import Entry, listed
from ..output import Column, age, count, note, size, table, write, write_json

_COLUMNS = [
    Column("PREFIX"),
    Column("ENGINE"),
    Column("STATE"),
    Column("PROCESSES", True),
    Column("MESSAGES", True),
    Column("MEMBERSHIPS", True, True),
    Column("CHANNEL MEMORY", True, True),
    Column("GROUP MEMORY", True, True),
    Column("AGE", True, True),
    Column("DIRECTORY", False, True),
]
_STYLES = {"orphaned": "yellow", "stale": "dim", "in use": ""}


@click.command("list")
@click.option(
    "--directory",
    metavar="PATH",
    help="list the stores in this directory, instead of the default directories",
)
@click.option("--long", "-l", "is_long", is_flag=True, help="show reserved memory, and the owner")
@as_json
def command(directory: str | None, is_long: bool, as_json: bool) -> int:
    """List every store that this user may see.

    Looks in the default directories of the built-in engines. A store is stale if no living process
    uses it: the next process continues with it. Memory is orphaned if its store's directory is
    gone. Joins no store and waits for none of their locks.

    Memory is shown as the part in use of the limit; a store takes it from the system as it needs
    it. On a narrow terminal some columns are left out.
    """
    site = settings()
    if directory is None and site is not None:
        directory = site.engine_options.get("directory")
    if directory is not None and not os.path.isdir(directory):
        raise click.UsageError(f"there is no directory {directory!r}")
    with hint_if_slow():
        entries = [each.entry for each in listed(directory and os.path.abspath(directory))]
    if as_json:
        write_json([each._asdict() | {"memory": list(each.memory)} for each in entries])
        return 0
    if not entries:
        write(
            f"no stores in {directory!r}" if directory else "no stores in the default directories"
        )
        return 0
    columns = [*_COLUMNS, Column("USER")] if is_long else _COLUMNS
    rows = [_row(each, is_long) for each in entries]
    table(columns, rows, [_style(each) for each in entries])
    problems = [each for each in entries if each.problem]
    if problems:
        write()
    for each in problems:
        name = each.prefix or each.directory or ", ".join(each.memory)
        write(f"{name}: {each.problem}")
    for each in entries:
        if each.state == "in use" and each.relay not in (None, "connected"):
            write(f"{each.prefix}: its relay is {each.relay!r}; 'relays {each.prefix}' says why")
    if any(each.state == "stale" and each.memberships for each in entries):
        note(STALE)
    if any(each.orphaned and each.stale for each in entries):  # Others are kept.
        note("orphaned memory: 'remove --orphans' removes it")
    return 0


def _style(entry: Entry) -> str:
    return _STYLES.get(entry.state, "red")


def _row(entry: Entry, is_long: bool) -> list[str]:
    cells = [
        entry.prefix or "-",
        entry.engine or "-",
        entry.state,
        count(entry.processes),
        count(entry.messages),
        count(entry.memberships),
        _memory(
            entry.channel_bytes_used,
            entry.channel_bytes_reserved if is_long else None,
            entry.channel_bytes_total,
        ),
        _memory(
            entry.group_bytes_used,
            entry.group_bytes_reserved if is_long else None,
            entry.group_bytes_total,
        ),
        age(entry.age),
        entry.directory or "-",
    ]
    return [*cells, entry.user or "-"] if is_long else cells


def _memory(used: int | None, reserved: int | None, total: int | None) -> str:
    if used is None or not total:
        return ""
    part = f"{100 * used / total:.1f}% of {size(total)}"
    return part if reserved is None else f"{part}, {size(reserved)} reserved"


__all__ = ["command"]
