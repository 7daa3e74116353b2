"""Has mypy and pyright read what users write: `python -m tests.tools.typed_programs`.

That is the Python of README.md and other pages for users, each block as a module of its own, and
for pyright also `tests/system/typed_uses.py` and `typed_mistakes.py`, which mypy reads with all
other files. The tutorial's consumers and the tasks of celery.md have no annotations.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .documents import ROOT, USERS, blocks

OF_USERS = ("tests/system/typed_uses.py", "tests/system/typed_mistakes.py")


def main() -> int:
    """Return the exit status: 1 if there is a mistake, which is printed."""
    # In the checkout, so that both find asgi_ipc and the settings; pyright passes over folders
    # whose names begin with a dot.
    made = ROOT / "build"
    made.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="programs-", dir=made) as folder:
        programs = [
            _written(Path(folder) / f"{page.stem.lower().replace('-', '_')}_{number}.py", code)
            for page in USERS
            if page.stem not in ("tutorial", "celery")
            for number, code in enumerate(blocks(page, "python"), 1)
        ]
        mypy = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
        pyright = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
        return max(_run(*mypy, *programs), _run(*pyright, *programs, *OF_USERS))


def _written(path: Path, code: str) -> str:
    path.write_text(code)
    return str(path)


def _run(*command: str) -> int:
    quiet = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "NODE_NO_WARNINGS": "1"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | quiet,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        print(done.stdout, end="")  # noqa: T201
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
