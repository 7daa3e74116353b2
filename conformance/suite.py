"""The suite as names to import, for a test module of one line in any package::

    from asgi_ipc.conformance.suite import *

Each module of the suite becomes a class; pytest's configuration names the engine:
``addopts = ["-p", "asgi_ipc.conformance.plugin", "--engine", "mine"]``.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from . import fixtures

_MODULES = [f"{__package__}.{path.stem}" for path in sorted(Path(__file__).parent.glob("test_*"))]


def _class(module: ModuleType) -> type:
    """Return a class of a module's tests, with the module's marks."""
    tests = {
        name: staticmethod(value)
        for name, value in vars(module).items()
        if name.startswith("test_") and callable(value)
    }
    marks = {"pytestmark": module.pytestmark} if hasattr(module, "pytestmark") else {}
    name = module.__name__.rpartition(".")[2].title().replace("_", "")
    return type(name, (), {"__doc__": module.__doc__, "__module__": __name__, **marks, **tests})


_names: dict[str, object] = {name: getattr(fixtures, name) for name in fixtures.__all__}
for _name in _MODULES:
    pytest.register_assert_rewrite(_name)
    _module = import_module(_name)
    _tests = _class(_module)
    _names[_tests.__name__] = _tests
    if hasattr(_module, "ground"):
        _names["ground"] = _module.ground
globals().update(_names)
__all__ = list(_names)
