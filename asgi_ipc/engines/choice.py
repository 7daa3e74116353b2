"""Choose an engine by name, entry point, dotted path, class or instance.

To add an engine here, write a module and add a line to `BUILT_IN`. To add one in another package,
register an entry point in group ``asgi_ipc.engines``, or register nothing and name the engine by
its dotted path. Only the chosen engine is imported, so no engine's dependencies burden another's
users.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..exceptions import EngineUnavailable, OptionError
from .base import Engine

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Makes an engine: a class, or any other callable with the same arguments.
Factory = Callable[..., Engine]

#: The engines that come with asgi_ipc, each as ``module:Class``.
BUILT_IN: Mapping[str, str] = {
    "memory": "asgi_ipc.engines.memory:MemoryEngine",
    "mmap": "asgi_ipc.engines.shm.mmap:MmapEngine",
    "posix": "asgi_ipc.engines.shm.posix:PosixEngine",
    "sysv": "asgi_ipc.engines.shm.sysv:SysVEngine",
}
#: The entry point group in which other distributions register their engines.
ENTRY_POINT_GROUP = "asgi_ipc.engines"
#: An option of engines that is there for tests, and not named to users.
_FOR_TESTS = "clock"


class EngineChoice(NamedTuple):
    """A store as a user names it: an engine, a prefix, and the engine's options."""

    engine: str | Factory | Engine
    prefix: str
    channel_memory: int
    group_memory: int
    engine_options: Mapping[str, Any]

    @property
    def is_instance(self) -> bool:
        """Whether the user made the engine, and so closes it."""
        return _is_instance(self.engine)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of a store that is opened, by option, in bytes; nothing for an instance."""
        if self.is_instance:
            return {}
        return {"channel_memory": self.channel_memory, "group_memory": self.group_memory}

    def key(self) -> Hashable:
        """Return what two choices of one store have in common.

        Imports the engine. Raises what `find` raises.
        """
        if self.is_instance:
            return "instance", id(self.engine)
        factory = find(cast("str | Factory", self.engine))
        return factory, self.prefix, repr(sorted(self.engine_options.items()))

    def open(self) -> Engine:
        """Open the store. Blocks, and raises, as `open_engine` does."""
        return open_engine(
            self.engine,
            self.prefix,
            channel_memory=self.channel_memory,
            group_memory=self.group_memory,
            engine_options=self.engine_options,
        )


def open_engine(
    engine: str | Factory | Engine,
    prefix: str,
    *,
    channel_memory: int,
    group_memory: int,
    engine_options: Mapping[str, Any] | None = None,
) -> Engine:
    """Open the store of ``prefix`` on an engine given by name, path, class or instance.

    An instance is returned as it is. Opening may block briefly, while another process creates the
    store. Raises `EngineUnavailable` if there is no such engine or it can't work here,
    `OptionError` for an option that the engine does not take, and whatever the engine raises when
    it is constructed (E23).
    """
    options = dict(engine_options or {})
    if _is_instance(engine):
        if options:
            raise OptionError(
                f"engine_options has {_quoted(options)}, but engine is an object, not a name; pass"
                " options to its constructor"
            )
        return cast(Engine, engine)
    factory = find(cast("str | Factory", engine))
    reason = _reason(factory)
    if reason is not None:
        raise EngineUnavailable(f"engine {_name(engine)} can't work here: {reason}\n{_overview()}")
    check_options(_name(engine), factory, options)
    return factory(prefix, channel_memory=channel_memory, group_memory=group_memory, **options)


def find(engine: str | Factory) -> Factory:
    """Import and return the class or factory of a name or path; return a class or factory as it is.

    Raises `EngineUnavailable` if it can't be imported, `OptionError` if ``engine`` is none of
    these.
    """
    if not isinstance(engine, str):
        if callable(engine):
            return engine
        raise OptionError(
            f"engine is {engine!r}; pass a name, a path 'package.module:Class', a class or function"
            " that returns an engine, or an engine"
        )
    path = BUILT_IN.get(engine)
    if path is None and ":" in engine:
        path = engine
    try:
        if path is not None:
            return _import(path)
        registered = _entry_points().get(engine)
        if registered is not None:
            return cast(Factory, registered.load())
    except Exception as error:
        # Whatever failed in its module, the user needs to know which engines work here.
        raise EngineUnavailable(
            f"engine {engine!r} can't be imported: {_description(error)}\n{_overview()}"
        ) from error
    raise EngineUnavailable(f"there is no engine {engine!r}{_hint(engine)}\n{_overview()}")


def names() -> list[str]:
    """Return the names of all registered engines, whether they work here or not."""
    return sorted({*BUILT_IN, *_entry_points()})


def available() -> dict[str, str | None]:
    """Return for each registered engine None if it works here, or why not. Imports them all."""
    return {name: _state(name) for name in names()}


def _state(name: str) -> str | None:
    try:
        path = BUILT_IN.get(name)
        factory = _import(path) if path is not None else _entry_points()[name].load()
        return _reason(factory)
    except Exception as error:
        # A broken engine must not hide the others.
        return _description(error)


def _is_instance(engine: object) -> bool:
    """Tell an engine from a class or function that makes one."""
    return not isinstance(engine, (type, str)) and hasattr(engine, "push")


def _import(path: str) -> Factory:
    module, _, attribute = path.partition(":")
    found: Any = import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
    if not callable(found):
        raise TypeError(f"{path} is {found!r}, which is not a class or function")
    return cast(Factory, found)


def _entry_points() -> dict[str, EntryPoint]:
    # Imported late: it takes longer to import than asgi_ipc, and built-in engines do not need it.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _reason(factory: Factory) -> str | None:
    """Return why the engine can't work on this machine, by its own word; None if it can."""
    unavailable = getattr(factory, "unavailable", None)
    return unavailable() if unavailable is not None else None


def problems(engine: object, engine_options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return why opening a store of an engine would fail, as far as that shows without opening it.

    Each is ``"engine"`` or the name of an engine option, and a text with the remedy.
    """
    if _is_instance(engine):
        return []
    try:
        factory = find(cast("str | Factory", engine))
    except (EngineUnavailable, OptionError) as error:
        return [("engine", str(error))]
    found = []
    reason = _reason(factory)
    if reason is not None:
        text = f"engine {_name(engine)} can't work here: {reason}\n{_overview()}"
        found.append(("engine", text))
    left = dict(engine_options)
    for option, value in engine_options.items():
        try:
            check_options(_name(engine), factory, {option: value})
        except OptionError as error:
            found.append((option, str(error)))
            del left[option]
    check = getattr(factory, "check_options", None)
    # One by one: an error names its option, and the others are checked without it.
    while check is not None:
        try:
            check(**left)
            break
        except OptionError as error:
            option = next((name for name in left if f"['{name}']" in str(error)), "")
            found.append((option or "engine_options", str(error)))
            if not option:
                break
            del left[option]
    return found


def check_options(engine: str, factory: Factory, options: Mapping[str, Any]) -> None:
    """Refuse an option that the factory does not take, by name, before it is called.

    Raises `OptionError`, which names the options that it takes, but not ``clock``, which is there
    for tests.
    """
    # Imported late, as most engines are opened without options.
    if not options:
        return
    import inspect

    parameters = list(inspect.signature(factory).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return  # It takes any option, and must itself refuse unknown ones.
    taken = [
        parameter.name
        for parameter in parameters[1:]  # The first is the prefix, whatever its name.
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("channel_memory", "group_memory")
    ]
    unknown = [name for name in options if name not in taken]
    if unknown:
        told = [name for name in taken if name != _FOR_TESTS]
        raise OptionError(
            f"engine {engine} has no option {_quoted(unknown)};"
            f" {'use ' + _quoted(told) if told else 'remove it, as this engine takes none'}"
        )


def _overview() -> str:
    """Say which engines the user can choose instead. Imports all, so only for error messages."""
    state = available()
    lines = [f"available here: {_quoted(name for name in state if state[name] is None)}"]
    lines += [f"not available: {name!r}: {why}" for name, why in state.items() if why is not None]
    return "\n".join(lines)


def _hint(engine: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(engine, names(), n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if "." in engine:
        return "; a path is written 'package.module:Class'"
    return ""


def _name(engine: object) -> str:
    return repr(engine) if isinstance(engine, str) else getattr(engine, "__qualname__", str(engine))


def _description(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(repr(word) for word in sorted(words)) or "none"


__all__ = [
    "BUILT_IN",
    "ENTRY_POINT_GROUP",
    "EngineChoice",
    "Factory",
    "available",
    "check_options",
    "find",
    "names",
    "open_engine",
    "problems",
]
