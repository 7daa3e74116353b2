"""``groups``: every group, or the channels in one."""

from __future__ import annotations

import click

from ...layers.inspection import all_groups, members
from ..arguments import as_json, on_store, sort_and_limit
from ..choice import StoreChoice
from ..inspecting import UNUSED, inspected, is_unused, known
from ..output import Column, count, note, ordered, table, write, write_json

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
        unused = is_unused(engine)
    if as_json:
        write_json([each._asdict() for each in found])
    elif found:
        table(_GROUPS, [[each[0], count(each[1]), count(each[2])] for each in found])
    else:
        write("no groups")
    if unused and any(each.members or each.suspended for each in found) and not as_json:
        note(UNUSED)
    return 0


def _members(store: StoreChoice, group: str, limit: int | None, as_json: bool) -> int:
    with inspected(store) as engine:
        try:
            found = ordered(members(engine, group), "name", limit)
        except TypeError as error:
            raise click.UsageError(str(error)) from error
        about = known(engine)
    if as_json:
        write_json(
            [each._asdict() | {"process_alive": about.lives(each.process)} for each in found]
        )
    elif found:
        rows = []
        for each in found:
            state = each.problem or ("suspended" if each.suspended else "")
            rows.append([each.name, state, about.named(each.process)])
        table(_MEMBERS, rows)
    else:
        write(f"group {group!r} has no channels")
    return 0


__all__ = ["command"]
