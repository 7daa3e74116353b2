"""Find stores by their lock files: in the default directories, or in one that is named.

A lock file says which engine made its store, so a prefix is enough. Nothing here joins a store,
makes one, or waits for a lock of its memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from ..engines.choice import BUILT_IN, check_options, find, names
from ..engines.shm.engine import SharedMemoryEngine
from ..engines.shm.location import Location, described
from ..engines.shm.lock_file import LockFileHeader
from ..engines.shm.options import named_folder
from ..exceptions import EngineUnavailable, OptionError, StoreUnavailable
from .attempt import attempt
from .choice import StoreChoice
from .lock_files import header_of, location_of

_DEFAULT = re.compile(r"asgi_ipc-(?:(\d+)|group-(\d+))").fullmatch
#: How similar a prefix must be to be named, from 0 to 1.
_SIMILAR = 0.6


class NoSuchStore(StoreUnavailable):
    """There is no store of that prefix."""


class Base(NamedTuple):
    """A folder in which stores lie, each in a folder of its own."""

    path: str
    #: The engine options that lead there.
    options: dict[str, Any]
    #: Why this user can't look for stores there, or "".
    refusal: str = ""


class Site(NamedTuple):
    """A store that was found, and what opens it."""

    prefix: str
    base: Base
    factory: type[SharedMemoryEngine]
    options: dict[str, Any]
    location: Location
    header: LockFileHeader


class Found(NamedTuple):
    """A folder with a lock file. Of what can't be read, ``refusal`` says why."""

    prefix: str
    base: Base
    site: Site | None
    #: What the lock file says, even if the engine is not to be had here.
    header: LockFileHeader | None
    refusal: str = ""

    @property
    def path(self) -> str:
        """Path of the store's own folder."""
        return os.path.join(self.base.path, self.prefix)


# ---- engines


@cache
def built_in() -> dict[str, type[SharedMemoryEngine]]:
    """Return the built-in engines over shared memory that can be imported here."""
    found = {}
    for name in BUILT_IN:
        with contextlib.suppress(EngineUnavailable):
            factory: Any = find(name)
            if isinstance(factory, type) and issubclass(factory, SharedMemoryEngine):
                found[name] = factory
    return found


def factory_named(engine: str) -> type[SharedMemoryEngine] | None:
    """Return the class of an engine that a lock file names: of a registered one alone.

    The name may have been written by another user: it must not lead to the import of anything
    else.
    """
    if engine in built_in():
        return built_in()[engine]
    with contextlib.suppress(Exception):  # Whatever is wrong with it, it is not to be had here.
        factory: Any = find(engine) if engine in names() else None
        if issubclass(factory, SharedMemoryEngine) and factory.name == engine:
            found: type[SharedMemoryEngine] = factory
            return found
    return None


@cache
def importable_engine(engine: str) -> type[SharedMemoryEngine] | None:
    """Return the class of an engine over shared memory that can be imported; None for all others.

    Imports it in a process of its own first, so that a crash does not end the command.
    """
    if not attempt(lambda: str(find(engine)))["works"]:
        return None
    with contextlib.suppress(Exception):
        return engine_class(engine)
    return None


# ---- folders


def bases(directory: object = None) -> list[Base]:
    """Return the folders to look in: the default ones of all users, or the one that is named.

    Raises `OptionError` for what can't be a directory.
    """
    if directory is not None:
        return [Base(named_folder(directory), {"directory": named_folder(directory)})]
    return [base for parent in _default_parents() for base in _bases_in(parent)]


def _default_parents() -> list[str]:
    found = set()
    for factory in built_in().values():
        with contextlib.suppress(StoreUnavailable):
            found.add(factory.default_parent())
    return sorted(found)


def _bases_in(parent: str) -> Iterator[Base]:
    mine, groups = os.geteuid(), {os.getegid(), *os.getgroups()}
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            match = _DEFAULT(entry.name)
            if not match:
                continue
            user, group = match.groups()
            if user is not None and int(user) == mine:
                yield Base(entry.path, {})
            elif group is not None and int(group) in groups:
                yield Base(entry.path, {"group": int(group)})
            else:
                yield Base(entry.path, {}, _of_another(entry))


def _of_another(entry: os.DirEntry[str]) -> str:
    with contextlib.suppress(OSError):
        status = entry.stat(follow_symlinks=False)
        who = f"user {described(status.st_uid)}"
        name = _DEFAULT(entry.name)
        if name and name[2] is not None:
            who = f"group {name[2]}"
        return f"belongs to {who}; run this as that {who.split()[0]}"
    return "can't be inspected"


def stores_in(base: Base) -> Iterator[Found]:
    """Yield the stores in a folder. Of a folder that can't be read, one that has no prefix."""
    try:
        entries = sorted(os.listdir(base.path))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield Found("", base, None, None, base.refusal or f"can't be read ({error.strerror})")
        return
    for prefix in entries:
        found = store_at(base, prefix)
        if found:
            yield found


def store_at(base: Base, prefix: str) -> Found | None:
    """Return what is in the folder of a prefix, or None if there is no store."""
    path = os.path.join(base.path, prefix)
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return None
        if base.refusal:
            os.lstat(os.path.join(path, "lock"))
            return Found(prefix, base, None, None, base.refusal)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Found(prefix, base, None, None, base.refusal or f"can't be read ({error.strerror})")
    if "directory" in base.options and "group" not in base.options:
        base = _with_group(base, status)
    try:
        location = location_of(next(iter(built_in().values())), prefix, base.options)
        # As the engines' default parents differ.
        location = location._replace(directory=path, private="directory" not in base.options)
        header = header_of(location)
    except (StoreUnavailable, OSError) as error:
        return Found(prefix, base, None, None, str(error))
    if header is None:
        return None
    factory = factory_named(header.engine)
    if factory is None:
        reason = (
            f"was made by engine {header.engine!r}, which is not registered here; name it with "
            "--engine package.module:Class"
        )
        return Found(prefix, base, None, header, reason)
    site = Site(prefix, base, factory, base.options, location, header)
    return Found(prefix, base, site, header)


def _with_group(base: Base, status: os.stat_result) -> Base:
    """Add the group for which a store was opened on purpose, if this user is a member."""
    groups = {os.getegid(), *os.getgroups()}
    if status.st_mode & 0o020 and (status.st_gid in groups or not os.geteuid()):
        return base._replace(options=base.options | {"group": status.st_gid})
    return base


# ---- one store


def engine_class(engine: object) -> type[SharedMemoryEngine] | None:
    """Return the class of an engine over shared memory; None for any other engine.

    Raises `EngineUnavailable` if there is no such engine, `OptionError` if it is none at all.
    """
    factory = find(engine)  # type: ignore[arg-type]
    if isinstance(factory, type) and issubclass(factory, SharedMemoryEngine):
        return factory
    return None


def shared_memory_engine(engine: object) -> type[SharedMemoryEngine]:
    """Return the class of an engine as `engine_class`, with `EngineUnavailable` for any other."""
    factory = engine_class(engine)
    if factory is None:
        raise EngineUnavailable(
            f"engine {name_of(engine)} does not use shared memory, so there is nothing to check; "
            "pass the engine of the processes that use the store"
        )
    return factory


def is_over_shared_memory(choice: StoreChoice) -> bool:
    """Return whether the store of a choice has a lock file. Raises as `engine_class`."""
    engine: Any = choice.engine
    if engine is not None and not isinstance(engine, (str, type)) and hasattr(engine, "push"):
        return False  # An engine that the settings of a site made.
    return engine is None or engine_class(engine) is not None


def locate(choice: StoreChoice) -> Site:
    """Find the store of a choice, as `find_store`, whose engine works here.

    Raises `EngineUnavailable` if it does not.
    """
    site = find_store(choice)
    reason = site.factory.unavailable()
    if reason is not None:
        raise EngineUnavailable(
            f"the store at {site.location.directory!r} is of engine {site.factory.name!r}, which "
            f"can't work here: {reason}"
        )
    return site


def find_store(choice: StoreChoice) -> Site:
    """Find the store of a choice. Raises `NoSuchStore` if there is none, and says what is similar.

    Raises `StoreUnavailable` if it can't be told which it is, or this user may not read it,
    `EngineUnavailable` and `OptionError` as opening it would.
    """
    if choice.engine is not None:
        return _of_engine(choice)
    options = dict(choice.engine_options)
    searched = bases(options.get("directory"))
    if "group" in options:
        searched = [
            each._replace(options=each.options | {"group": options["group"]})
            for each in searched
            if "directory" in each.options or each.options.get("group") == _group(options["group"])
        ]
    found = [each for base in searched if (each := store_at(base, choice.prefix))]
    mine = [each for each in found if not each.base.refusal]
    if len(mine) > 1:
        stores = "; ".join(f"engine {_engine_of(each)} at {each.path!r}" for each in mine)
        raise StoreUnavailable(
            f"there are {len(mine)} stores of prefix {choice.prefix!r}: {stores}; name one with "
            "--engine, or with --directory"
        )
    if not mine:
        raise _missing(choice.prefix, searched)
    site = mine[0].site
    if site is None:
        raise StoreUnavailable(f"the store at {mine[0].path!r}: {mine[0].refusal}")
    check_options(site.factory.name, site.factory, options)
    others = {key: options[key] for key in options.keys() - {"directory", "group", "mode"}}
    return site._replace(options=site.options | others)


def stores_of_others(choice: StoreChoice) -> list[Found]:
    """Return other users' stores of the prefix, which root might have meant; none for others."""
    if os.geteuid() or choice.engine is not None or choice.engine_options:
        return []
    found = [each for base in bases() if base.refusal and (each := store_at(base, choice.prefix))]
    return [each for each in found if os.path.lexists(os.path.join(each.path, "lock"))]


def _of_engine(choice: StoreChoice) -> Site:
    """Find the store of an engine that is named."""
    factory = shared_memory_engine(choice.engine)
    options = dict(choice.engine_options)
    check_options(name_of(choice.engine), factory, options)
    location = location_of(factory, choice.prefix, options)
    base_options: dict[str, Any] = {
        key: options[key] for key in ("directory", "group") if key in options
    }
    base = Base(os.path.dirname(location.directory), base_options)
    header = header_of(location)
    if header is None:
        raise _missing(choice.prefix, [base], name_of(choice.engine))
    if header.engine != factory.name:
        raise StoreUnavailable(
            f"the store at {location.directory!r} was made by engine {header.engine!r}, not "
            f"{factory.name!r}; pass that engine, or none"
        )
    return Site(choice.prefix, base, factory, options, location, header)


def name_of(engine: object) -> str:
    """Return what an engine is called, for people."""
    return (
        repr(engine) if isinstance(engine, str) else getattr(engine, "__qualname__", repr(engine))
    )


def _engine_of(found: Found) -> str:
    return found.header.engine if found.header else f"unknown ({found.refusal})"


def _group(group: object) -> object:
    import grp

    try:
        return grp.getgrnam(group).gr_gid if isinstance(group, str) else group
    except KeyError:
        raise OptionError(f"engine_options['group']={group!r}: there is no such group") from None


def _missing(prefix: str, searched: Iterable[Base], engine: str = "") -> NoSuchStore:
    """Return the error for a prefix that has no store here, with what may have been meant."""
    from difflib import get_close_matches

    searched = list(searched)
    mine = [each.path for each in searched if not each.refusal]
    where = " or ".join(map(repr, mine)) if mine else "the default directories"
    of_engine = f" of engine {engine}" if engine else ""
    told = [f"there is no store of prefix {prefix!r}{of_engine} in {where}"]
    told += [
        f"there is no directory {each.path!r}"
        for each in searched
        if "directory" in each.options and not os.path.isdir(each.path)
    ]
    there: dict[str, list[Found]] = {}
    for base in {each.path: each for each in [*searched, *bases()]}.values():
        for found in stores_in(base):
            there.setdefault(found.prefix, []).append(found)
    same = [each for each in there.get(prefix, []) if each.site or each.base.refusal]
    for each in same:
        told.append(
            f"there is one at {each.path!r}, which {each.refusal}"
            if each.refusal
            else f"there is one of engine {_engine_of(each)!r} at {each.path!r}"
        )
    others = [each for each in there if each not in ("", prefix)]
    similar = get_close_matches(prefix, others, n=3, cutoff=_SIMILAR)
    similar += [
        each for each in others if each not in similar and (prefix in each or each in prefix)
    ]
    if similar:
        told.append("similar prefixes: " + ", ".join(map(repr, similar[:5])))
    if "" in there and not same:
        hidden = sorted({each.path.rstrip("/") for each in there[""]})
        told.append(f"other users' stores can't be seen from here: {', '.join(map(repr, hidden))}")
    told.append("'list' shows all stores in shared memory")
    if not engine:
        told.append("of one elsewhere, pass --directory; of another package's engine, --engine")
    return NoSuchStore("; ".join(told))


def prefixes() -> list[str]:
    """Return the prefixes of the stores that this user may use, in the default directories."""
    return sorted(
        {each.prefix for base in bases() for each in stores_in(base) if each.site is not None}
    )


__all__ = [
    "Base",
    "Found",
    "NoSuchStore",
    "Site",
    "bases",
    "built_in",
    "engine_class",
    "factory_named",
    "find_store",
    "importable_engine",
    "is_over_shared_memory",
    "locate",
    "name_of",
    "prefixes",
    "shared_memory_engine",
    "store_at",
    "stores_in",
    "stores_of_others",
]
