"""Check a store of shared memory: that every word is accounted for and nothing is lost.

What a killed process left half done is ended first, as by any process that uses the store;
nothing else is changed. Others wait while a segment is looked at: about a second for a
million messages. The exit status is 0 if the store is sound, 1 if something was found
and 2 if there is no store that can be checked.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ..engines.shm.check import check as check_heap
from ..engines.shm.directory import remove_if_empty
from ..engines.shm.heap.layout import CHANNELS, GROUPS, SMALLEST, VERSION
from ..engines.shm.lock_file import READY
from ..engines.shm.locked_segment import LockedSegment
from ..engines.shm.opening import Gone, Missing, Store
from ..engines.shm.segment import Location
from ..engines.shm.session import Attachment
from ..exceptions import EngineUnavailable, OptionError, StoreCorrupt, StoreUnavailable
from .arguments import add_engine_arguments
from .doctor.orphans import find_orphans, remove_orphan
from .doctor.stores import factory_of, location_of, record_of, remove_store

HELP = "check that a store is sound"
_NAMES = {CHANNELS: "channels", GROUPS: "groups"}
#: Seconds until a check that has not ended says why that may be.
_PATIENCE = 5.0
_UNUSABLE = (EngineUnavailable, OptionError, StoreUnavailable, OSError)


def check(
    prefix: str, engine: str = "posix", engine_options: Mapping[str, Any] | None = None
) -> list[str]:
    """What is wrong with the store of a prefix, in words; empty if nothing is.

    The store is looked at without joining it, so that one which can't be used can be
    checked. Raises `StoreUnavailable` if there is none, `EngineUnavailable` for an engine
    that has nothing to check.
    """
    factory, location = _find(prefix, engine, engine_options or {})
    record = record_of(location)
    if record is None or record.ready != READY:
        raise StoreUnavailable(
            f"there is no store at {location.directory!r}; name the engine and the engine options "
            "that the processes use"
        )
    if record.version != VERSION:
        raise StoreUnavailable(
            f"the store at {location.directory!r} is of format {record.version}, and this asgi_ipc "
            f"checks format {VERSION}; use the version that made it"
        )
    store = Store(factory, location, dict.fromkeys(_NAMES, SMALLEST), lambda: None, make=False)
    found: list[str] = []
    try:
        for locked_segment in store.locked_segments.values():
            try:
                found += store.lock_file.section.run(_look_at, locked_segment)
            except StoreCorrupt as error:
                found.append(str(error))
    except Gone as error:
        raise StoreUnavailable(f"the store at {location.directory!r} was just removed") from error
    finally:
        store.close()
    return found


def _look_at(locked_segment: LockedSegment) -> list[str]:
    with locked_segment as heap:
        return [f"{_NAMES[locked_segment.kind]}: {text}" for text in check_heap(heap)]


def remove(
    prefix: str, engine: str = "posix", engine_options: Mapping[str, Any] | None = None
) -> list[str]:
    """Remove the store of a prefix, whatever it holds; its processes begin a fresh one.

    For one that is corrupt, which can't be opened to be destroyed. Only what is provably the
    store's is removed; returns in words what was left for that reason.
    """
    factory, location = _find(prefix, engine, engine_options or {})
    if record_of(location) is None:
        raise StoreUnavailable(f"there is no store at {location.directory!r}")
    left = remove_store(location, factory)
    remove_if_empty(location._replace(private=False))
    return left


def _find(
    prefix: str, engine: str, options: Mapping[str, Any]
) -> tuple[type[Attachment], Location]:
    factory = factory_of(engine)
    if factory is None:
        raise EngineUnavailable(
            f"engine {engine!r} is not one over shared memory, or is not usable here: "
            "there is nothing to check"
        )
    return factory, location_of(factory, prefix, options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``check``."""
    parser.add_argument(
        "prefix", metavar="PREFIX", nargs="?", help="the prefix of the layers that use it"
    )
    add_engine_arguments(parser, "the engine that its processes use")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove the store if it is not sound, or its memory is gone: its processes go on with "
        "a fresh one",
    )
    parser.add_argument(
        "--orphans",
        action="store_true",
        help="list memory and locks of this user's that belong to no store; with --remove "
        "remove them",
    )


def run(arguments: argparse.Namespace) -> int:
    """Say what was found; the exit status."""
    options = dict(arguments.engine_option)
    which = arguments.prefix, arguments.engine, options
    if arguments.orphans:
        return _run_orphans(*which, remove=arguments.remove)
    if not arguments.prefix:
        sys.stderr.write("name the PREFIX of the store to check, or use --orphans\n")
        return 2
    try:
        try:
            with _said_if_it_takes_long():
                found = check(*which)
        except Missing as error:
            # Whether it was removed by hand or is out of sight, who says --remove must know.
            if not arguments.remove:
                raise
            found = [str(error)]
        sys.stdout.write("".join(f"{text}\n" for text in found) or "sound\n")
        if found and arguments.remove:
            left = remove(*which)
            sys.stdout.write("".join(f"{text}\n" for text in [*left, "removed"]))
    except _UNUSABLE as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 1 if found else 0


@contextlib.contextmanager
def _said_if_it_takes_long() -> Iterator[None]:
    """A process that is stopped inside the store keeps all others out, this one too."""
    text = (
        f"no answer for {_PATIENCE:g} seconds: the store is large, or a process is stopped inside "
        "it (state T in ps); if so continue that (kill -CONT) or end it\n"
    )
    timer = threading.Timer(_PATIENCE, lambda: (sys.stderr.write(text), sys.stderr.flush()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _run_orphans(
    prefix: str | None, engine: str, options: Mapping[str, Any], *, remove: bool
) -> int:
    """Say what belongs to no store, and remove it if asked to; the exit status."""
    try:
        known = [_find(prefix, engine, options)[1].directory] if prefix else []
        found = find_orphans(known)
        for orphan in found:
            end = f" (kept: {orphan.kept})" if orphan.kept else " (removed)" if remove else ""
            if remove:
                remove_orphan(orphan)
            sys.stdout.write(f"{orphan.engine}: {orphan.name}: {orphan.reason}{end}\n")
    except _UNUSABLE as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("" if found else "none\n")
    left = [orphan for orphan in found if orphan.kept] if remove else found
    return 1 if left else 0
