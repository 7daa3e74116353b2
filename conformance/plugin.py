"""The pytest plug-in of the suite: options, markers and hooks.

It is loaded only on request: by ``python -m asgi_ipc.conformance``, or by
``addopts = ["-p", "asgi_ipc.conformance.plugin"]`` in a project that runs the suite among its own
tests. (An entry point would load it into every user's test runs, and pytest would rewrite each
module of asgi_ipc there.) Fixtures are in `asgi_ipc.conformance.fixtures`.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import pytest

#: Part of each prefix of this run, to find what the run leaves behind.
RUN = pytest.StashKey[str]()
#: Whether this run has tests of the suite.
_used = pytest.StashKey[bool]()
#: The fixture whose parameter is an engine.
_FIXTURE = "conformance_engine"
#: The fixture whose parameter is a wire.
_WIRE_FIXTURE = "conformance_wire"
#: The wires that are tested if none is named.
_WIRES = ("memory", "nats", "redis")
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
    "--engine-proxy": {
        "dest": f"{_WORD}_engine_proxy",
        "metavar": "OPTION",
        "help": "the engine option that has HOST:PORT of the engine's server; tests of outages put"
        " a proxy between the two",
    },
    "--wire": {
        "dest": f"{_WORD}_wire",
        "metavar": "NAME-OR-PATH",
        "help": "a wire to test, by the scheme of its URLs or 'package.module:Class'; may be"
        " repeated (default: all of asgi_ipc, if no engine is named)",
    },
    "--wire-url": {
        "dest": f"{_WORD}_wire_url",
        "metavar": "URL",
        "help": "the server to test the wire on, at a TCP port (default: one that is started)",
    },
    "--wire-option": {
        "dest": f"{_WORD}_wire_option",
        "metavar": "KEY=VALUE",
        "help": "an option of the wire, may be repeated; VALUE is a Python literal, or else a"
        " string",
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
    _check_wires(config)
    known = clauses()
    for clause in chosen(config, "--clause"):
        if clause not in known:
            raise pytest.UsageError(f"--clause {clause}: there are {', '.join(known)}")


def _check_wires(config: pytest.Config) -> None:
    from asgi_ipc.exceptions import OptionError
    from asgi_ipc.relay.wire_choice import BUILT_IN, find_wire

    for wire in chosen(config, "--wire"):
        try:
            find_wire(wire)
        except OptionError as error:
            raise pytest.UsageError(f"--wire {wire}: {error}") from error
        if wire not in BUILT_IN and not chosen(config, "--wire-url"):
            raise pytest.UsageError(f"--wire {wire}: name its server by --wire-url")
    for url in chosen(config, "--wire-url"):
        try:
            has_port = url.startswith("memory:") or urlsplit(url).port is not None
        except ValueError:
            has_port = False
        if not has_port:  # The URL may have a password, and is not shown.
            raise pytest.UsageError("--wire-url: name the port too, as in mine://127.0.0.1:4000")
    wire_options(config)


def engine_options(config: pytest.Config) -> dict[str, Any]:
    """Return the engine options of this run."""
    return _options_of(config, "--engine-option")


def wire_options(config: pytest.Config) -> dict[str, Any]:
    """Return the options for wires of this run."""
    return _options_of(config, "--wire-option")


def _options_of(config: pytest.Config, option: str) -> dict[str, Any]:
    from asgi_ipc.cli.arguments import engine_option

    try:
        return dict(map(engine_option, chosen(config, option)))
    except ValueError as error:
        raise pytest.UsageError(f"{option}: {error}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the suite for each engine, or for each wire."""
    if _FIXTURE in metafunc.fixturenames:
        from asgi_ipc.engines import names

        config = metafunc.config
        config.stash[_used] = True
        engines = sorted(set(chosen(config, "--engine") or names()))
        metafunc.parametrize(_FIXTURE, engines, scope="session")
    if _WIRE_FIXTURE in metafunc.fixturenames:
        wires = sorted(set(chosen(metafunc.config, "--wire") or _default_wires()))
        metafunc.parametrize(_WIRE_FIXTURE, wires, scope="session")


def _default_wires() -> list[str]:
    """Return the wires to test if none is named; Valkey's is that of Redis on another server."""
    from .wires.servers import Valkey

    return [*_WIRES, *([] if Valkey.missing() else ["valkey"])]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that ``--clause`` does not name, and those of no engine or wire named."""
    wanted = set(chosen(config, "--clause"))
    unwanted = set()
    if chosen(config, "--engine") and not chosen(config, "--wire"):
        unwanted.add(_WIRE_FIXTURE)
    if chosen(config, "--wire") and not chosen(config, "--engine"):
        unwanted.add(_FIXTURE)
    if not wanted and not unwanted:
        return
    gone = set()
    for item in items:
        of_suite = {_FIXTURE, _WIRE_FIXTURE}.intersection(getattr(item, "fixturenames", ()))
        named = {name for mark in item.iter_markers("clause") for name in mark.args}
        if of_suite & unwanted or (of_suite and wanted and wanted.isdisjoint(named)):
            gone.add(item)
    if gone:
        config.hook.pytest_deselected(items=[item for item in items if item in gone])
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
