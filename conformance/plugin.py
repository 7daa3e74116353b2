"""The pytest plugin: options, markers, the fixtures ``case`` and ``engine``.

It may be loaded in anybody's test run, so it does nothing to tests that do not ask for
``case``, and imports nothing that costs.
"""

from __future__ import annotations

import ast
import faulthandler
import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from asgi_ipc.engines.base import Engine

    from .case import Case

#: Seconds after which a test is taken to hang. Then its worker dies with all stacks shown.
WATCHDOG = 90.0

_stderr = pytest.StashKey[int]()
#: Part of each prefix of this run, so that what the run leaves behind can be told.
_run = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("asgi_ipc", "asgi_ipc conformance")
    group.addoption(
        "--engine",
        action="append",
        metavar="NAME-OR-PATH",
        help="an engine to test, by registered name or 'package.module:Class'; may be"
        " repeated (default: all registered)",
    )
    group.addoption(
        "--engine-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an engine option; VALUE is a Python literal, or else a string",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; name the run; keep a way out for the watchdog's stacks."""
    config.addinivalue_line("markers", "clause(*names): what the test holds the engine to")
    config.addinivalue_line("markers", "needs(*names): capabilities without which it is skipped")
    # pytest captures descriptor 2 during a test, and a killed worker never shows it.
    config.stash[_stderr] = os.dup(2)
    worker = getattr(config, "workerinput", None)
    config.stash[_run] = worker["asgi_ipc_run"] if worker else f"ct{secrets.token_hex(3)}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Undo `pytest_configure`."""
    if _stderr in config.stash:  # Not if another plugin failed before us.
        os.close(config.stash[_stderr])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker the name of the run."""
    node.workerinput["asgi_ipc_run"] = node.config.stash[_run]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the suite for each engine."""
    if "conformance_engine" in metafunc.fixturenames:
        from asgi_ipc.engines import names

        chosen = sorted(set(metafunc.config.getoption("--engine") or names()))
        metafunc.parametrize("conformance_engine", chosen, scope="session")


@pytest.fixture
def case(request: pytest.FixtureRequest, conformance_engine: str) -> Iterator[Case]:
    """One engine under test and a prefix of its own; afterwards nothing may be left of it."""
    from asgi_ipc.engines import find

    from .case import Case

    factory: Any = find(conformance_engine)
    reason = factory.unavailable()
    if reason is not None:
        pytest.skip(f"{conformance_engine} can't work here: {reason}")
    for marker in request.node.iter_markers("needs"):
        for capability in marker.args:
            if not getattr(factory.capabilities, capability):
                pytest.skip(f"{conformance_engine} declares no {capability}")
    config = request.config
    prefix = f"{config.stash[_run]}-{secrets.token_hex(5)}"
    options = dict(_parse(option) for option in config.getoption("--engine-option"))
    faulthandler.dump_traceback_later(WATCHDOG, exit=True, file=config.stash[_stderr])
    try:
        case = Case(conformance_engine, factory.capabilities, prefix, options)
        try:
            yield case
        finally:
            left = case.clean_up()
        assert not left, "left behind:\n" + "\n".join(left)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def engine(case: Case) -> Engine:
    """The engine under test, open."""
    return case.open()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look once more, when all workers are done, for anything that bears the run's name."""
    from .leaks import entries_named

    if hasattr(session.config, "workerinput"):
        return
    left = entries_named(session.config.stash[_run])
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("\nasgi_ipc: the run left behind: " + ", ".join(left), red=True)


def _parse(option: str) -> tuple[str, Any]:
    key, separator, value = option.partition("=")
    if not separator or not key.isidentifier():
        raise pytest.UsageError(f"--engine-option {option!r} is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
