"""Before a command destroys something: ask the user, and refuse a store in use."""

from __future__ import annotations

import sys

import click

from ..engines.base import Engine
from ..exceptions import StoreUnavailable
from .finding import Site
from .lock_files import in_use
from .output import note, printable


class InUse(StoreUnavailable):
    """Processes use the store, and ``--force`` was not given."""


def confirm(question: str, yes: bool) -> bool:
    """Ask the user, unless ``--yes`` was given; return whether the answer is yes.

    Without an answer, as in a script, it is no.
    """
    if yes:
        return True
    sys.stdout.flush()
    try:
        agreed = click.confirm(printable(question), err=True)
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        agreed = False
    if not agreed:
        note("nothing was changed; to do it without a question, pass --yes")
    return agreed


def refuse_if_in_use(site: Site, force: bool, what: str) -> None:
    """Raise `InUse` if processes use a store, unless ``--force`` was given."""
    if not force and in_use(site.location, site.header):
        raise InUse(
            f"processes use the store at {site.location.directory!r}: {what}. End them (the "
            "command 'processes' lists them), or pass --force"
        )


def refuse_if_others(engine: Engine, force: bool, what: str) -> None:
    """Raise `InUse` if other processes use the store of an engine, or if it can't tell."""
    if force:
        return
    if engine.capabilities.inspects:
        if all(each.identity == engine.identity for each in engine.processes()):
            return
        told = "processes use the store"
    else:
        told = "this engine does not tell whether processes use the store"
    raise InUse(f"{told}: {what}. End them, or pass --force")


__all__ = ["InUse", "confirm", "refuse_if_in_use", "refuse_if_others"]
