"""The conformance suite as its users have it: installed from a wheel, and far from here."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.tools.suite_runs import (
    ROOT,
    run_suite,
)

#: Somebody's engine, registered nowhere. Must be given its option, in every process.
THEIR_ENGINE = """
from asgi_ipc.engines.shm.mmap import MmapEngine

class Theirs(MmapEngine):
    def __init__(self, prefix, *, secret, **options):
        assert secret == ("a", 1), secret
        super().__init__(prefix, **options)
"""
#: Where its modules lie that it finds.
WHERE = "import asgi_ipc, asgi_ipc.conformance as c; print(asgi_ipc.__file__); print(c.__file__)"


def run(folder: Path, *command: str | Path) -> str:
    """What a command says in a folder."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with asgi_ipc from a wheel, and of our environment what others made."""
    folder = tmp_path_factory.mktemp("product")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "asgi_ipc", "conformance"):
        (source / name).symlink_to(ROOT / name)
    build = "import os, setuptools.build_meta as b; os.chdir({!r}); b.build_wheel({!r})"
    run(folder, sys.executable, "-c", build.format(str(source), str(folder)))
    (wheel,) = folder.glob("*.whl")
    run(folder, sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(folder, *pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # A folder that is named in a .pth file is searched for modules, but not for more .pth
    # files: so not for the one that leads to the checkout.
    site = run(
        folder, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
    ).strip()
    Path(site, "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert all(str(folder) in line for line in run(folder, python, "-c", WHERE).split())
    return python


def test_it_runs_from_an_empty_folder_on_an_engine_that_nobody_registered(
    python: Path, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "their_engine.py").write_text(THEIR_ENGINE)
    # Modules called like those of the suite are in nobody's way.
    for name in ("tools", "case", "actor", "leaks", "plugin"):
        (tmp_path / "theirs" / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "empty").mkdir()
    code, said = run_suite(
        tmp_path / "empty",
        *("-W", "error", "--strict-markers", "-n", "2"),
        *("--engine", "their_engine:Theirs", "--engine-option", "secret=('a', 1)"),
        *("-k", "test_queues or killed_receiver or tells_the_channel or one_store", "-rs"),
        python=str(python),
        path=str(tmp_path / "theirs"),
    )
    assert code == 0, said
    assert "passed" in said
    assert "skipped" not in said, said
    assert list((tmp_path / "empty").iterdir()) == []
