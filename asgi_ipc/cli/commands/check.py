"""``check``: whether a store is sound; remove one that is not, or memory of no store."""

from __future__ import annotations

import click

from ...engines.shm.opening import MemoryMissing
from ..arguments import Given, as_json, may_name_store, settings
from ..check import check, remove
from ..choice import StoreChoice
from ..finding import locate
from ..joining import hint_if_slow
from ..output import write, write_json


@click.command("check")
@may_name_store
@click.option(
    "--remove",
    "remove_it",
    is_flag=True,
    help="remove the store if it is not sound, or if its memory is gone; its processes "
    "continue with a fresh one",
)
@click.option(
    "--orphans",
    is_flag=True,
    help="list all memory and locks of this user that belong to no store; with --remove, remove "
    "them. PREFIX only helps to recognise memory that does not say whose it is",
)
@as_json
def command(
    given: Given,
    remove_it: bool,
    orphans: bool,
    as_json: bool,
) -> int:
    """Check that the store of PREFIX is sound.

    Every word must be accounted for, and nothing lost. The check first completes the changes of
    killed processes, as any process does that uses the store; it changes nothing else. It reads a
    copy of the memory, so other processes can use the store meanwhile.

    Exit status: 0 if the store is sound, 1 if something was found, 2 if there is no store to check.
    """
    choice = given.chosen()
    if orphans:
        return _orphans(choice if settings() is None else None, remove_it, as_json)
    if choice is None:
        raise click.UsageError("no PREFIX given; pass the prefix of the store, or --orphans")
    site = locate(choice)
    which = site.prefix, site.factory.argument(), site.options
    try:
        with hint_if_slow():
            found = check(*which)
    except MemoryMissing as error:
        # Whether its memory was removed or is only out of sight, the user of --remove knows.
        if not remove_it:
            raise
        found = [str(error)]
    is_removed = bool(found) and remove_it
    with hint_if_slow():
        left = remove(*which) if is_removed else []
    if as_json:
        report = {"prefix": site.prefix, "engine": site.header.engine, "sound": not found}
        write_json(report | {"findings": found, "removed": is_removed, "left": left})
    else:
        for text in (found or ["sound"]) + left + ["removed"] * is_removed:
            write(text)
    return 1 if found else 0


def _orphans(choice: StoreChoice | None, remove_them: bool, as_json: bool) -> int:
    """Print what belongs to no store, and remove it if asked to; return the exit status."""
    from ..orphans import find_orphans, remove_orphan

    found = find_orphans(_known(choice) if choice else [])
    for orphan in found:
        if remove_them:
            remove_orphan(orphan)
        if not as_json:
            end = f" (kept: {orphan.kept})" if orphan.kept else " (removed)" if remove_them else ""
            write(f"{orphan.engine}: {orphan.name}: {orphan.reason}{end}")
    if as_json:
        write_json(
            [
                {"engine": each.engine, "name": each.name, "reason": each.reason}
                | {"removed": remove_them and not each.kept, "kept": each.kept}
                for each in found
            ]
        )
    elif not found:
        write("none")
    left = [orphan for orphan in found if orphan.kept] if remove_them else found
    return 1 if left else 0


def _known(choice: StoreChoice) -> list[str]:
    """Return the folders of a store that may be gone, whose memory may not record its path."""
    from ..finding import built_in, engine_class
    from ..lock_files import location_of

    named = engine_class(choice.engine) if choice.engine is not None else None
    factories = [named] if named else list(built_in().values())
    return sorted(
        {location_of(each, choice.prefix, choice.engine_options).directory for each in factories}
    )


__all__ = ["command"]
