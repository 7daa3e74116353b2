"""Run the suites: ``python -m tests.compat [--only NAME]``, in an environment of its own."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .judge import complaints, counts
from .suites import SUITES, Suite

ROOT = Path(__file__).resolve().parents[2]
ADAPTERS = "tests.compat.adapters"
#: What runs the tests, whichever suite they are of.
RUNNER = ("pytest>=8", "pytest-asyncio>=0.24", "pytest-django>=4.9")
#: Seconds for a suite.
PATIENCE = 1200
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
python_files = test*.py
markers = integration
"""


def install(suite: Suite) -> None:
    """Install what the tests of a suite import."""
    packages = (*RUNNER, f"{suite.name}=={suite.version}", *suite.needs)
    subprocess.run([*PIP, "install", *packages], check=True)


def download(suite: Suite, folder: Path) -> Path:
    """Fetch the source archive of a suite's release."""
    only = ("--no-binary", ":all:", "--no-deps", "--dest", str(folder))
    subprocess.run([*PIP, "download", *only, f"{suite.name}=={suite.version}"], check=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def unpack(suite: Suite, archive: Path, folder: Path) -> None:
    """Put the modules of a suite into a folder. Raises `SystemExit` if one is missing."""
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            _, _, path = member.name.partition("/")
            source = files.extractfile(member) if path in suite.modules else None
            if source is not None:
                (folder / Path(path).name).write_bytes(source.read())
    missing = [path for path in suite.modules if not (folder / Path(path).name).exists()]
    if missing:
        raise SystemExit(f"{archive.name} has no {', '.join(missing)}")


def run(suite: Suite, archive: Path) -> dict[str, str]:
    """Run a suite on our layer; the outcome of each test by its name."""
    with tempfile.TemporaryDirectory(prefix="compat-") as name:
        folder = Path(name)
        unpack(suite, archive, folder)
        (folder / "pytest.ini").write_text(SETTINGS)
        outcomes, output = folder / "outcomes.json", folder / "output"
        plugins = [f"-p{ADAPTERS}.record", f"-p{ADAPTERS}.{suite.adapter}", "-pno:cacheprovider"]
        with output.open("w") as file:
            subprocess.run(
                # What they expect to fail with their layer counts as any other test.
                [sys.executable, "-m", "pytest", "-q", *plugins, "--runxfail"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "COMPAT_OUTCOMES": str(outcomes)},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
                check=False,
            )
        if not outcomes.exists():
            raise SystemExit(f"{suite.name}: pytest did not come to an end:\n{output.read_text()}")
        found: dict[str, str] = json.loads(outcomes.read_text())
    return found


def say(text: str) -> None:
    """Print a line."""
    print(text, flush=True)  # noqa: T201


def main() -> int:
    """Run them; 0 if everything is as it is known to be."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=__doc__)
    parser.add_argument("--only", default="", help="run this suite alone")
    chosen = parser.parse_args().only
    suites = [suite for suite in SUITES if chosen in ("", suite.name)]
    if not suites:
        parser.error(f"there is no suite {chosen!r}: {', '.join(suite.name for suite in SUITES)}")
    wrong = 0
    say(f"{'suite':32} {'release':9} {'passed':>6} {'differ':>6}")
    for suite in suites:
        install(suite)
        with tempfile.TemporaryDirectory(prefix="compat-") as folder:
            outcomes = run(suite, download(suite, Path(folder)))
        found = counts(outcomes.values())
        say(f"{suite.name:32} {suite.version:9} {found['passed']:6} {found['differ']:6}")
        for line in complaints(suite, outcomes):
            wrong += 1
            say(f"  {line}")
    say(
        "as expected"
        if not wrong
        else f"{wrong} surprises; tests/compat/suites.py says what is known"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
