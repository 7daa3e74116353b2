"""The engines, and how one is chosen. `asgi_ipc.engines.base` says what an engine is.

To add one here: a module, and a line in `BUILT_IN`. To add one elsewhere: an entry point
in group ``asgi_ipc.engines``, or no registration at all and a dotted path in the settings.
Only the engine that is asked for is imported; an engine's dependencies are its own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from ..exceptions import EngineUnavailable, OptionError
from .base import Engine

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: What makes an engine: a class, or anything else that is called like one.
Factory = Callable[..., Engine]

#: The engines that come with asgi_ipc, each as ``module:Class``.
BUILT_IN: Mapping[str, str] = {
    "memory": "asgi_ipc.engines.memory:MemoryEngine",
    "mmap": "asgi_ipc.engines.shm.mmap:MmapEngine",
    "posix": "asgi_ipc.engines.shm.posix:PosixEngine",
    "sysv": "asgi_ipc.engines.shm.sysv:SysVEngine",
}
#: Where other distributions register theirs.
ENTRY_POINT_GROUP = "asgi_ipc.engines"


def open_engine(
    engine: str | Factory | Engine,
    prefix: str,
    *,
    channel_memory: int,
    group_memory: int,
    engine_options: Mapping[str, Any] | None = None,
) -> Engine:
    """Open the store of ``prefix`` on an engine given by name, path, class or instance.

    An instance is returned as it is. Raises `EngineUnavailable` for an engine that is not
    there or can't work here, `OptionError` for an option that it does not take, and
    whatever the engine raises when it is constructed (E23).
    """
    options = dict(engine_options or {})
    if _is_instance(engine):
        if options:
            raise OptionError(
                f"engine_options {_listed(options)} given with an engine that exists already;"
                " pass them when you construct it"
            )
        return cast(Engine, engine)
    factory = find(cast("str | Factory", engine))
    reason = _reason(factory)
    if reason is not None:
        raise EngineUnavailable(f"engine {_name(engine)} can't work here: {reason}\n{_overview()}")
    _check_options(_name(engine), factory, options)
    return factory(prefix, channel_memory=channel_memory, group_memory=group_memory, **options)


def find(engine: str | Factory) -> Factory:
    """The class or factory of that name or path, imported; given one, that one."""
    if not isinstance(engine, str):
        if callable(engine):
            return engine
        raise OptionError(
            f"engine is {engine!r}; it must be a name, a path 'package.module:Class',"
            " a class that makes engines, or an engine"
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
        # Whatever its module stumbled over, the user's question is the same: what works?
        raise EngineUnavailable(
            f"engine {engine!r} can't be imported: {_told(error)}\n{_overview()}"
        ) from error
    raise EngineUnavailable(f"there is no engine {engine!r}{_hint(engine)}\n{_overview()}")


def names() -> list[str]:
    """The names of all registered engines, whether they work here or not."""
    return sorted({*BUILT_IN, *_entry_points()})


def available() -> dict[str, str | None]:
    """For each registered engine None if it works here, or why not. Imports them all."""
    return {name: _state(name) for name in names()}


def _state(name: str) -> str | None:
    try:
        path = BUILT_IN.get(name)
        factory = _import(path) if path is not None else _entry_points()[name].load()
        return _reason(factory)
    except Exception as error:
        # One that is broken must not hide the others.
        return _told(error)


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
    # Imported late: it costs more than all of us, and the usual engine needs none of it.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _reason(factory: Factory) -> str | None:
    """What the engine itself says about this machine; a plain function says nothing."""
    unavailable = getattr(factory, "unavailable", None)
    return unavailable() if unavailable is not None else None


def _check_options(engine: str, factory: Factory, options: Mapping[str, Any]) -> None:
    """Refuse an option that the factory does not take, by name, before it is called."""
    # Imported late, as most engines are opened without options.
    if not options:
        return
    import inspect

    parameters = list(inspect.signature(factory).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return  # It takes anything, and must say itself what it does not know.
    taken = [
        parameter.name
        for parameter in parameters[1:]  # The first is the prefix, however it is called.
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("channel_memory", "group_memory")
    ]
    unknown = [name for name in options if name not in taken]
    if unknown:
        raise OptionError(
            f"engine {engine} has no option {_listed(unknown)};"
            f" it takes {_listed(taken) if taken else 'none'}"
        )


def _overview() -> str:
    """What the user can choose instead. Imports every engine, so for error messages only."""
    state = available()
    lines = [f"available here: {_listed(name for name in state if state[name] is None)}"]
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


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(repr(word) for word in sorted(words)) or "none"


__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "Factory", "available", "find", "names", "open_engine"]
