"""Choose a wire by the scheme of a URL, an entry point, or a dotted path.

To add a wire here, write a module and add a line for each of its schemes to `BUILT_IN`. To add one
in another package, register an entry point in group ``asgi_ipc.wires`` whose name is the scheme:
``mine://host`` then finds the entry point ``mine``. Only the chosen wire is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from ..exceptions import OptionError
from .wire import Wire
from .wire_settings import HIDDEN, shown, shown_scheme

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Makes a wire: its class.
WireFactory = Callable[..., Wire]

_REDIS = "asgi_ipc.relay.redis:RedisWire"
_NATS = "asgi_ipc.relay.nats:NatsWire"
#: The wires that come with asgi_ipc by the schemes of their URLs, each as ``module:Class``.
BUILT_IN: Mapping[str, str] = {
    "memory": "asgi_ipc.relay.memory:MemoryWire",
    "nats": _NATS,
    "redis": _REDIS,
    "rediss": _REDIS,
    "tls": _NATS,
    "unix": _REDIS,
    "valkey": _REDIS,
    "valkeys": _REDIS,
}
#: The entry point group in which other distributions register their wires.
ENTRY_POINT_GROUP = "asgi_ipc.wires"


def find_wire(url: str) -> WireFactory:
    """Import and return the factory for a URL, a scheme alone, or a path 'package.module:Class'.

    Raises `OptionError` if there is none, or it can't be imported.
    """
    if not isinstance(url, str) or not url:
        raise OptionError(
            f"relay is {url!r}; give a URL such as 'redis://HOST:6379', with one of the schemes"
            f" {_quoted()}"
        )
    scheme, mark, _ = url.partition("://")
    path = BUILT_IN.get(scheme)
    if path is None and re.fullmatch(r"\w+(\.\w+)*:[^\W\d]\w*", url):
        path = url
    try:
        if path is not None:
            module, _, attribute = path.partition(":")
            return cast(WireFactory, getattr(import_module(module), attribute))
        registered = _entry_points().get(scheme)
        if registered is not None:
            return cast(WireFactory, registered.load())
    except Exception as error:
        raise OptionError(
            f"relay {shown(url)}: the wire can't be imported: {type(error).__name__}: {error}"
        ) from error
    plain = shown(url)
    example = "redis://HOST:6379" if mark or plain == HIDDEN else _with_scheme(plain)
    name = shown_scheme(scheme) if mark else plain
    raise OptionError(
        f"relay {plain}: there is no wire {name!r}; use one of {_quoted()}: write"
        f" {example!r}, for example"
    )


def open_wire(url: str, prefix: str, relay_options: Mapping[str, Any] | None = None) -> Wire:
    """Make the wire for a URL, not yet connected. Raises `OptionError` for all that is wrong."""
    return find_wire(url)(url, prefix, **dict(relay_options or {}))


def wire_names() -> list[str]:
    """Return the schemes of all registered wires."""
    return sorted({*BUILT_IN, *_entry_points()})


def _with_scheme(host: str) -> str:
    """Return the URL that was probably meant by a text without ``://``."""
    scheme, colon, rest = host.partition(":")
    if colon and scheme in wire_names() and rest.startswith("/"):
        return f"{scheme}://{rest.lstrip('/')}"
    return f"{'nats' if host.endswith(':4222') else 'redis'}://{host}"


def _quoted() -> str:
    # Not the wire for tests within one process, which joins no machines.
    return ", ".join(repr(name) for name in wire_names() if name != "memory")


def _entry_points() -> dict[str, EntryPoint]:
    # Imported late: it takes longer to import than asgi_ipc.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "WireFactory", "find_wire", "open_wire", "wire_names"]
