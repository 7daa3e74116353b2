"""The pytest plug-in of the suite: options, markers and hooks.

It is loaded only on request: by ``python -m asgi_ipc.conformance``, or by
``addopts = ["-p", "asgi_ipc.conformance.plugin"]`` in a project that runs the suite among its own
tests. (An entry point would load it into every user's test runs, and pytest would rewrite each
module of asgi_ipc there.) Fixtures are in `asgi_ipc.conformance.fixtures`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

#: Part of each prefix of this run, to find what the run leaves behind.
RUN = pytest.StashKey[str]()
#: Whether this run has tests of the suite.
_used = pytest.StashKey[bool]()
#: The fixture whose parameter is an engine.
_FIXTURE = "conformance_engine"
_WORD = "asgi_ipc_conformance"

#: The options of the suite.
_OPTIONS: dict[str, dict[str, Any]] = {
    "--engine": {
        "dest": f"{_WORD}_engine",
        "metavar": "NAME-OR-PATH",
        "help": "an engine to test, by registered name or 'package.module:Class'; may be"
        " repeated (default: all registered)",
    },
    "--engine-option": {
        "dest": f"{_WORD}_engine_option",
        "metavar": "KEY=VALUE",
        "help": "an engine option, may be repeated; VALUE is a Python literal, or else a string",
    },
    "--clause": {
        "dest": f"{_WORD}_clause",
        "metavar": "CLAUSE",
        "help": "of the suite only the tests that name this clause, E4 for example; may be"
        " repeated",
    },
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("asgi_ipc", "asgi_ipc conformance")
    for name, attributes in _OPTIONS.items():
        group.addoption(name, action="append", default=[], **attributes)


def require(config: pytest.Config) -> None:
    """Refuse to run the suite if its plug-in is not loaded."""
    if RUN not in config.stash:
        raise pytest.UsageError(
            "pytest was not told of the suite's plug-in: run 'python -m asgi_ipc.conformance', or"
            f' add "-p", "{__name__}" to pytest\'s addopts'
        )


def chosen(config: pytest.Config, option: str) -> list[str]:
    """Return the values given with an option of the suite."""
    return list(getattr(config.option, _OPTIONS[option]["dest"], None) or ())


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, name the run, and refuse options that have no effect."""
    config.addinivalue_line("markers", "clause(*names): what the test holds the engine to")
    config.addinivalue_line("markers", "needs(*names): capabilities without which it is skipped")
    worker = getattr(config, "workerinput", None)
    config.stash[RUN] = worker[_WORD] if worker else f"ct{os.urandom(3).hex()}"
    if worker is None and any(chosen(config, option) for option in _OPTIONS):
        _check_options(config)


def _check_options(config: pytest.Config) -> None:
    from asgi_ipc.engines import find
    from asgi_ipc.exceptions import EngineUnavailable

    from .clauses import clauses

    for engine in chosen(config, "--engine"):
        try:
            find(engine)
        except EngineUnavailable as error:
            hint = "" if ":" not in engine else "\nIs its folder in PYTHONPATH?"
            raise pytest.UsageError(f"--engine {engine}: {error}{hint}") from error
    engine_options(config)
    known = clauses()
    for clause in chosen(config, "--clause"):
        if clause not in known:
            raise pytest.UsageError(f"--clause {clause}: there are {', '.join(known)}")


def engine_options(config: pytest.Config) -> dict[str, Any]:
    """Return the engine options of this run."""
    from asgi_ipc.cli.arguments import engine_option

    try:
        return dict(map(engine_option, chosen(config, "--engine-option")))
    except ValueError as error:
        raise pytest.UsageError(f"--engine-option: {error}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the suite for each engine."""
    if _FIXTURE in metafunc.fixturenames:
        from asgi_ipc.engines import names

        config = metafunc.config
        config.stash[_used] = True
        engines = sorted(set(chosen(config, "--engine") or names()))
        metafunc.parametrize(_FIXTURE, engines, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that ``--clause`` does not name."""
    wanted = set(chosen(config, "--clause"))
    if not wanted:
        return
    out = [
        item
        for item in items
        if _FIXTURE in getattr(item, "fixturenames", ())
        and wanted.isdisjoint(name for mark in item.iter_markers("clause") for name in mark.args)
    ]
    if out:
        config.hook.pytest_deselected(items=out)
        gone = set(out)
        items[:] = [item for item in items if item not in gone]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Send the name of the run to an xdist worker."""
    node.workerinput[_WORD] = node.config.stash[RUN]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Read from an xdist worker whether it had tests of the suite."""
    if getattr(node, "workeroutput", {}).get(_WORD):
        node.config.stash[_used] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look for leaks with the run's name once more, when all workers are done."""
    config = session.config
    if not config.stash.get(_used, False):
        return
    if hasattr(config, "workeroutput"):
        config.workeroutput[_WORD] = True
        return
    from .leaks import entries_named

    left = entries_named(config.stash[RUN])
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("\nasgi_ipc: the run left behind: " + ", ".join(left), red=True)
