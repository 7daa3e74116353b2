"""Running the conformance suite from a test: here, or in a process of its own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Plug-ins that some tests need, and that warn or act where no test is for them.
WITHOUT = {"PYTEST_ADDOPTS": "-p no:asyncio -p no:django"}


class Outcome(NamedTuple):
    """What the suite says of an engine."""

    code: int
    passed: list[str]
    #: Why tests were skipped.
    skipped: list[str]
    #: The tests that failed, each with the clauses it names.
    failed: dict[str, set[str]]


class _Recorder:
    """A pytest plugin that keeps the outcome."""

    def __init__(self) -> None:
        self.outcome = Outcome(0, [], [], {})
        self._named: dict[str, set[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learn which clauses each test names."""
        for item in session.items:
            marks = item.iter_markers("clause")
            self._named[item.nodeid] = {name for mark in marks for name in mark.args}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one."""
        if report.failed:
            self.outcome.failed[report.nodeid] = self._named[report.nodeid]
        elif report.skipped:
            assert isinstance(report.longrepr, tuple)
            self.outcome.skipped.append(report.longrepr[2].removeprefix("Skipped: "))
        elif report.when == "call":
            self.outcome.passed.append(report.nodeid)


def run_here(engine: str, clause: str, *arguments: str) -> Outcome:
    """Run the tests of a clause here, which takes a tenth of the time of another process."""
    return _run_here("", ["--engine", engine], clause, arguments)


def run_wires_here(wires: Iterable[str], url: str, clause: str) -> Outcome:
    """Run the tests of a clause on wires, as `run_here`."""
    named = [word for wire in wires for word in ("--wire", wire)]
    return _run_here("wires", [*named, "--wire-url", url], clause, ())


def _run_here(folder: str, subject: list[str], clause: str, arguments: tuple[str, ...]) -> Outcome:
    package = ".".join(filter(None, ["asgi_ipc.conformance", folder]))
    modules = [
        f"{package}.{path.stem}"
        for path in sorted((ROOT / "conformance" / folder).glob("test_*.py"))
        if f'clause("{clause}")' in path.read_text()
    ]
    recorder = _Recorder()
    hooks = threading.excepthook, sys.unraisablehook
    # What a thread of a wrong subject raises, or what it leaves open, the calling test did not do.
    threading.excepthook = lambda raised: None
    sys.unraisablehook = lambda raised: None
    try:
        code = _run_inside(recorder, modules, [*subject, "--clause", clause, *arguments])
        gc.collect()
    finally:
        threading.excepthook, sys.unraisablehook = hooks
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), code
    return recorder.outcome._replace(code=int(code))


def _run_inside(
    recorder: _Recorder, modules: list[str], options: list[str]
) -> int | pytest.ExitCode:
    return pytest.main(
        [
            *("--pyargs", *modules, *options),
            *("-c", str(ROOT / "pyproject.toml"), "-o", "addopts=", "-q", "--tb=no"),
            *("-p", "asgi_ipc.conformance.plugin"),
            # Of these there can be but one in a process, and they are not needed.
            *("-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:xdist"),
            *("-p", "no:hypothesispytest"),
            *("-p", "no:threadexception", "-p", "no:unraisableexception"),
            *WITHOUT["PYTEST_ADDOPTS"].split(),
        ],
        plugins=[recorder],
    )


def run_elsewhere(
    folder: Path,
    *arguments: str,
    python: str = sys.executable,
    path: str = "",
    module: str = "pytest",
) -> tuple[int, str]:
    """Run pytest in a folder, with nothing of this run about it; its exit code and output."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    done = subprocess.run(
        [python, "-m", module, *arguments, "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**kept, **WITHOUT, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


def run_suite(
    folder: Path, *arguments: str, python: str = sys.executable, path: str = ""
) -> tuple[int, str]:
    """Run the suite's command in a folder, as `run_elsewhere`."""
    return run_elsewhere(
        folder, *arguments, python=python, path=path, module="asgi_ipc.conformance"
    )
