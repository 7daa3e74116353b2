"""Show what this machine offers asgi_ipc, and which engines work on it.

Each check runs for real, in its own process with a time limit, on private files that are removed
afterwards. The doctor inspects the site's store, and does not change it.
"""

from __future__ import annotations

from typing import Any

from asgi_ipc import __version__
from asgi_ipc.engines import names

from ..finding import importable_engine
from .engines import look_at_store, try_engine
from .machine import limits, look_at, packages, system
from .memory import try_full, try_memory
from .primitives import try_everywhere, try_in
from .stores import directories

#: Of the JSON report. Grows when a key changes its meaning or goes.
FORMAT = 2


def examine(
    engine: str, options: dict[str, Any], prefix: str, sizes: dict[str, int]
) -> dict[str, Any]:
    """Return the report, as ``--json`` prints it."""
    engines: dict[str, dict[str, Any]] = {name: {} for name in names()} | {engine: options}
    folders = directories(engines)
    store = look_at_store(engine, prefix, options)
    tried = [try_engine(name, engines[name], sizes) for name in sorted(engines)]
    chosen = next(result for result in tried if result["name"] == engine)
    primitives = [*try_everywhere(), try_full()]
    for name, given in sorted(engines.items()):
        factory = importable_engine(name)
        if factory is not None:
            primitives += try_memory(name, factory, given, sizes, name == engine)
    for folder, users in folders.items():
        named = all("directory" in engines[name] for name in users)
        primitives += try_in(folder, private=not named, needed=engine in users)
    return {
        "format": FORMAT,
        "asgi_ipc": __version__,
        "engine": engine,
        # Other engines' options may hold passwords, and this goes into bug reports.
        "engine_options": sorted(options),
        "prefix": prefix,
        **sizes,
        "works": chosen["works"] and store["works"] is not False,
        "system": system(),
        "packages": packages(),
        "limits": limits(),
        "directories": [look_at(folder) | {"engines": folders[folder]} for folder in folders],
        "primitives": primitives,
        "engines": tried,
        "store": store,
    }
