"""`make platforms`: what is not here is told, what fails makes it fail, and nothing is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.platforms import (
    __main__ as platforms,
)
from tests.platforms import (
    chroots,
    cpython,
    trials,
)
from tests.platforms.base import (
    ROOT,
    Machine,
    Native,
    NotHere,
    Platform,
    site,
)


class Kind:
    """Platforms of a test's own."""

    def __init__(self, *known: Platform) -> None:
        self._known = known

    def platforms(self) -> Iterator[Platform]:
        """See `base.Kind`."""
        return iter(self._known)


def here(cache: Path) -> Machine:
    return Native(sys.executable, site(cache))


def nowhere(cache: Path) -> Machine:
    raise NotHere("no such processor")


def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache: Path,
    *known: Platform,
) -> tuple[int, str]:
    monkeypatch.setattr(platforms, "KINDS", (Kind(*known),))
    monkeypatch.setattr(trials, "_SOAK_SECONDS", 2)
    status = platforms.main(["--cache", str(cache)])
    return status, capsys.readouterr().out


def test_a_platform_that_is_here_is_tried_and_one_that_is_not_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = Platform("This one", here, ("mmap",), ("test_tables",))
    status, said = run(monkeypatch, capsys, tmp_path, mine, Platform("Other", nowhere))
    assert status == 0, said
    rows = {line.split(" | ")[0]: line for line in said.splitlines() if line.startswith("|")}
    assert rows["| This one"].count("passed: ") == 3, said
    assert "of 1 modules on mmap" in rows["| This one"]
    assert "not here: no such processor" in rows["| Other"]


def test_one_that_must_be_refused_and_is_not_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = Platform("Wrong", here, refused="64-bit")
    status, said = run(monkeypatch, capsys, tmp_path, wrong)
    assert status == 1
    assert "not refused: mmap" in said
    assert "Conformance: " not in said


def test_a_suite_that_fails_or_an_interpreter_that_breaks_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Broken(Native):
        def command(self, arguments, environment):  # type: ignore[no-untyped-def]
            return ["false"]

    def broken(cache: Path) -> Machine:
        return Broken("", site(cache))

    status, said = run(monkeypatch, capsys, tmp_path, Platform("Broken", broken))
    assert status == 1
    assert "Doctor: failed: no report" in said
    nothing = Platform("No tests", here, ("mmap",), ("test_that_is_not_there",))
    status, said = run(monkeypatch, capsys, tmp_path, nothing)
    assert status == 1
    assert "Conformance: failed" in said


def test_every_kind_names_its_platforms(capsys: pytest.CaptureFixture[str]) -> None:
    assert platforms.main(["--list"]) == 0
    said = capsys.readouterr().out
    for name in ("3.10", "3.11", "3.12", "3.13", "3.14", "free-threaded", "PyPy", "i386", "s390x"):
        assert name in said
    assert "musl" in said


def test_a_system_of_packages_needs_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotHere, match="needs root"):
        chroots.unpack(tmp_path, "sid", "amd64", ["python3"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_mounted_for_a_system_of_packages_ends_with_the_command(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    root = tmp_path / "root"
    for name in ("dev", "proc", "tmp", "checkout", "site"):
        (root / name).mkdir(parents=True)
    for folder in ("/usr", "/lib", "/lib64", "/bin"):
        if Path(folder).exists():
            (root / folder[1:]).symlink_to(f"/proc/self/cwd{folder}")
    machine = chroots.Chroot(root, tmp_path, ("/nothing",), "")
    trials._run(machine, "/", ["site"], [], 60)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert ROOT.exists()


def test_a_free_threaded_python_is_tried_without_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpython, "_find", lambda *_: sys.executable)
    monkeypatch.setattr(cpython, "virtual_environment", lambda *_: sys.executable)
    free = {
        platform.name: "PYTHON_GIL=0" in platform.set_up(tmp_path).command(["-V"], {})
        for platform in cpython.platforms()
    }
    assert set(free.values()) == {True, False}
    assert all(without == ("free-threaded" in name) for name, without in free.items()), free
