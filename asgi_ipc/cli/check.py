"""Check a store in shared memory: every word must be accounted for, and nothing lost.

The check first completes the changes of killed processes, as any process does that uses the store;
it changes nothing else. Other processes wait while it reads a segment: about a second for a million
messages. The exit status is 0 if the store is sound, 1 if the check found something, and 2 if there
is no store to check.
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
from ..engines.shm.engine import SharedMemoryEngine
from ..engines.shm.heap.layout import CHANNELS, GROUPS, SMALLEST, VERSION
from ..engines.shm.lock_file import READY
from ..engines.shm.locked_segment import LockedSegment
from ..engines.shm.locks.base import Gone
from ..engines.shm.opening import Missing, open_store
from ..engines.shm.segment import Location
from ..exceptions import EngineUnavailable, OptionError, StoreCorrupt, StoreUnavailable
from .arguments import add_engine_arguments
from .doctor.orphans import find_orphans, remove_orphan
from .doctor.stores import factory_of, location_of, record_of, remove_store

HELP = "check that a store is sound"
_NAMES = {CHANNELS: "channels", GROUPS: "groups"}
#: Seconds until a check that still runs says why that may be.
_PATIENCE = 5.0
_UNUSABLE = (EngineUnavailable, OptionError, StoreUnavailable, OSError)


def check(
    prefix: str, engine: str = "posix", engine_options: Mapping[str, Any] | None = None
) -> list[str]:
    """Return what is wrong with the store of a prefix, in words; an empty list if nothing is.

    Does not join the store, so that a store that can't be used can be checked. Raises
    `StoreUnavailable` if there is none, `EngineUnavailable` for an engine that has nothing to
    check.
    """
    factory, location = _find(prefix, engine, engine_options or {})
    record = record_of(location)
    if record is None or record.ready != READY:
        raise StoreUnavailable(
            f"there is no store at {location.directory!r}; pass the engine and the engine options "
            "of the processes that use it"
        )
    if record.version != VERSION:
        raise StoreUnavailable(
            f"the store at {location.directory!r} has format {record.version}, and this asgi_ipc "
            f"checks format {VERSION}; use the version of asgi_ipc that made it"
        )
    sizes = dict.fromkeys(_NAMES, SMALLEST)
    store = open_store(factory.store_options(location, sizes, make=False), lambda: None)
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
    """Remove the store of a prefix, whatever it holds; its processes create a new one.

    For a corrupt store, which can't be opened to be destroyed. Removes only what is provably the
    store's, and returns in words what it left.
    """
    factory, location = _find(prefix, engine, engine_options or {})
    if record_of(location) is None:
        raise StoreUnavailable(f"there is no store at {location.directory!r}")
    left = remove_store(location, factory)
    remove_if_empty(location._replace(private=False))
    return left


def _find(
    prefix: str, engine: str, options: Mapping[str, Any]
) -> tuple[type[SharedMemoryEngine], Location]:
    factory = factory_of(engine)
    if factory is None:
        raise EngineUnavailable(
            f"engine {engine!r} does not use shared memory, or does not work here, so there is "
            "nothing to check; pass the engine of the processes that use the store"
        )
    return factory, location_of(factory, prefix, options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``check``."""
    parser.add_argument(
        "prefix", metavar="PREFIX", nargs="?", help="the prefix of the store's layers"
    )
    add_engine_arguments(parser, "the engine that its processes use")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove the store if it is not sound, or if its memory is gone; its processes "
        "continue with a fresh one",
    )
    parser.add_argument(
        "--orphans",
        action="store_true",
        help="list this user's memory and locks that belong to no store; with --remove, remove "
        "them",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; return the exit status."""
    options = dict(arguments.engine_option)
    which = arguments.prefix, arguments.engine, options
    if arguments.orphans:
        return _run_orphans(*which, remove=arguments.remove)
    if not arguments.prefix:
        sys.stderr.write("no PREFIX given; pass the prefix of the store to check, or --orphans\n")
        return 2
    try:
        try:
            with _hint_if_slow():
                found = check(*which)
        except Missing as error:
            # Whether its memory was removed or is only out of sight, the user of --remove knows.
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
def _hint_if_slow() -> Iterator[None]:
    """Print a hint if the check takes long, as it would if a stopped process held a lock."""
    text = (
        f"no answer for {_PATIENCE:g} seconds: the store is large, or a stopped process (state T "
        "in ps) holds its lock; if so, continue that process (kill -CONT) or end it\n"
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
    """Print what belongs to no store, and remove it if asked to; return the exit status."""
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
