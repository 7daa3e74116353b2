"""``remove``: remove a store, all stores that no process uses, or memory of no store."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import click

from ...exceptions import EngineUnavailable, StoreCorrupt, StoreFull, StoreUnavailable
from ..arguments import Given, as_json, force, may_name_store, yes
from ..check import remove
from ..choice import StoreChoice
from ..failures import FAILURES
from ..finding import Site, is_over_shared_memory, locate
from ..joining import hint_if_slow, join
from ..listing import Listed, listed, listed_orphans
from ..output import write, write_json
from ..precautions import confirm, refuse_if_in_use, refuse_if_others


class _Result(NamedTuple):
    """What became of a store, or of orphaned memory."""

    name: str
    #: Of the store's own folder.
    path: str | None
    removed: bool
    #: In words, what was left, and why.
    left: list[str]


_LOST = "they would go on in a new, empty store"


@click.command("remove")
@may_name_store
@click.option("--stale", is_flag=True, help="remove every store that no living process uses")
@click.option(
    "--orphans", "is_orphans", is_flag=True, help="remove memory whose store's directory is gone"
)
@yes
@force
@as_json
def command(
    given: Given,
    stale: bool,
    is_orphans: bool,
    yes: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Remove the store of PREFIX.

    With all it holds, also if it is damaged. Refuses a store that processes use, unless --force is
    given; they then continue with a new, empty store. --stale and --orphans look in the default
    directories, or in --directory.

    Exit status: 1 if the answer was no, or if something could not be removed.
    """
    choice = given.chosen()
    if stale or is_orphans:
        if given.prefix is not None:
            raise click.UsageError("pass PREFIX, or --stale and --orphans, not both")
        if given.engine is not None or given.engine_option:
            raise click.UsageError("--stale and --orphans take --directory, and no engine")
        found = [each for each in listed(given.directory) if each.site and each.entry.stale] * stale
        return _remove_several(found + list(listed_orphans()) * is_orphans, yes, as_json)
    if choice is None:
        raise click.UsageError("no PREFIX given; pass a prefix, or --stale, or --orphans")
    if not is_over_shared_memory(choice):
        return _remove_other(choice, yes, force, as_json)
    with hint_if_slow():
        site = locate(choice)
        refuse_if_in_use(site, force, _LOST)
    if not confirm(f"Remove the store at {site.location.directory!r} and all it holds?", yes):
        return 1
    left = remove_site(site, force)
    return _report([_Result(site.prefix, site.location.directory, True, left)], as_json)


def remove_site(site: Site, force: bool) -> list[str]:
    """Remove a store, whatever it holds; return in words what was left.

    Raises `InUse` if processes use it, unless ``force`` is given, and `EngineUnavailable` if its
    engine can't work here.
    """
    reason = site.factory.unavailable()
    if reason is not None:
        raise EngineUnavailable(reason)
    with hint_if_slow():
        refuse_if_in_use(site, force, _LOST)
        if force:
            # So its processes see it at once; not possible with a store that is damaged.
            with contextlib.suppress(StoreCorrupt, StoreFull, StoreUnavailable):
                join(StoreChoice(site.prefix, site.factory, site.options)).destroy()
                return []
        return remove(site.prefix, site.factory.argument(), site.options, spare_used=not force)


def _remove_other(choice: StoreChoice, yes: bool, force: bool, as_json: bool) -> int:
    with hint_if_slow():
        engine = join(choice)
    try:
        with hint_if_slow():
            refuse_if_others(engine, force, _LOST)
        if not confirm(f"Remove the store of prefix {choice.prefix!r} and all it holds?", yes):
            return 1
        with hint_if_slow():
            engine.destroy()
    finally:
        engine.close()
    return _report([_Result(choice.prefix, None, True, [])], as_json)


def _remove_several(found: list[Listed], yes: bool, as_json: bool) -> int:
    if not found:
        return _report([], as_json)
    if not yes:
        for each in found:
            write(_name(each))
    if not confirm(f"Remove {'these' if len(found) > 1 else 'this'} with all they hold?", yes):
        return 1
    results = []
    for each in found:
        path = each.site.location.directory if each.site else None
        try:
            left = remove_site(each.site, force=False) if each.site else _remove_orphans(each)
            results.append(_Result(_name(each), path, each.site is not None or not left, left))
        except FAILURES as error:
            results.append(_Result(_name(each), path, False, [str(error)]))
    return _report(results, as_json)


def _remove_orphans(found: Listed) -> list[str]:
    """Remove orphaned memory; return in words what was kept."""
    from ..orphans import remove_orphan

    for orphan in found.orphans:
        remove_orphan(orphan)
    return [f"{each.name}: kept: {each.kept}" for each in found.orphans if each.kept]


def _name(found: Listed) -> str:
    if found.site:
        return f"{found.site.prefix} ({found.site.factory.name}, {found.site.location.directory})"
    of_store = f" of {found.entry.prefix}" if found.entry.prefix else ""
    return f"orphaned memory{of_store}: {', '.join(found.entry.memory)}"


def _report(results: list[_Result], as_json: bool) -> int:
    """Say what was removed; return the exit status."""
    if as_json:
        write_json([each._asdict() for each in results])
    else:
        for each in results:
            for text in each.left:
                write(f"{each.name}: {text}")
            if each.removed:
                write(f"removed {each.name}")
        if not results:
            write("nothing to remove")
    return 1 if any(each.left for each in results) else 0


__all__ = ["command", "remove_site"]
