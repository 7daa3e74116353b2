"""Running the doctor in a fresh interpreter, which must leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from conformance.leaks import entries_named
from tests.tools.namespaces import (
    ROOT,
)


def left() -> list[str]:
    """What bears the doctor's name, in the folders that it may look into."""
    return entries_named("doctor-")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Hold that a test leaves nothing. Import it to have it."""
    before = set(left())
    yield
    # Another process of this suite may be at it too, but that cleans up in a moment.
    mine = set(left()) - before
    deadline = time.monotonic() + 120
    while mine & set(left()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not mine & set(left()), mine & set(left())


def doctor(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run it in a fresh interpreter, after some code."""
    code = f"import sys\n{before}\nfrom asgi_ipc.__main__ import main\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )


def report(*arguments: str, before: str = "", status: int = 0) -> dict[str, Any]:
    done = doctor("--json", *arguments, before=before)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == "", done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["works"] is (status == 0), found
    return found


def of(found: dict[str, Any], engine: str) -> dict[str, Any]:
    (result,) = [each for each in found["engines"] if each["name"] == engine]
    return dict(result)
