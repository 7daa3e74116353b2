"""``groups``: every group, or the channels in one."""

from __future__ import annotations

import click

from ...layers.inspection import all_groups, members
from ..arguments import as_json, on_store, sort_and_limit
from ..choice import StoreChoice
from ..inspecting import inspected, pids
from ..output import Column, count, ordered, table, write, write_json

_GROUPS = [Column("GROUP"), Column("MEMBERS", True), Column("SUSPENDED", True)]
_MEMBERS = [Column("CHANNEL"), Column("STATE"), Column("PROCESS")]


@click.command("groups")
@on_store
@click.argument("group", required=False)
@sort_and_limit(("name", "members", "suspended"), "members")
@as_json
def command(
    store: StoreChoice, group: str | None, sort: str, limit: int | None, as_json: bool
) -> int:
    """List the groups in the store of PREFIX, or the channels in GROUP.

    Suspended channels are not reached by messages to the group, and return with their next
    receive. --sort is for groups; channels are in alphabetical order.
    """
    if group is not None:
        return _members(store, group, limit, as_json)
    with inspected(store) as engine:
        found = ordered(all_groups(engine), sort, limit)
    if as_json:
        write_json([each._asdict() for each in found])
    elif found:
        table(_GROUPS, [[each[0], count(each[1]), count(each[2])] for each in found])
    else:
        write("no groups")
    return 0


def _members(store: StoreChoice, group: str, limit: int | None, as_json: bool) -> int:
    with inspected(store) as engine:
        try:
            found = ordered(members(engine, group), "name", limit)
        except TypeError as error:
            raise click.UsageError(str(error)) from error
        known = {} if as_json else pids(engine)
    if as_json:
        write_json([each._asdict() for each in found])
    elif found:
        rows = []
        for each in found:
            state = each.problem or ("suspended" if each.suspended else "")
            rows.append([each.name, state, known.get(each.process or "", each.process or "")])
        table(_MEMBERS, rows)
    else:
        write(f"group {group!r} has no channels")
    return 0


__all__ = ["command"]
