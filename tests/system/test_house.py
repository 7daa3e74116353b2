"""What a test may reach of asgi_ipc: a renaming inside one folder breaks no test outside it.

A module of tests uses what is public, the folder that it mirrors, what that folder offers to the
other folders of the package, and the named seams in `tests/tools` and the like. All of that is
read from the sources, by ast.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: The folders whose inside is their own, innermost first.
FOLDERS = ("engines.shm", "engines", "delivery", "encoding", "policy", "layers", "cli", "django")
#: Folders that may be looked into from another, by that other: `asgi_ipc check` and the doctor
#: tell of the inside of stores.
LOOKED_INTO = {"cli": ("engines.shm", "engines")}
#: What the documents name, and the engines with the classes that they share.
PUBLIC = {
    "asgi_ipc",
    "asgi_ipc.exceptions",
    "asgi_ipc.engines",
    "asgi_ipc.engines.base",
    "asgi_ipc.engines.bell",
    "asgi_ipc.engines.memory.MemoryEngine",
    "asgi_ipc.engines.shm.engine.SharedMemoryEngine",
    "asgi_ipc.engines.shm.mmap.MmapEngine",
    "asgi_ipc.engines.shm.posix.PosixEngine",
    "asgi_ipc.engines.shm.sysv.SysVEngine",
    "asgi_ipc.engines.shm.segment",
    "asgi_ipc.django",
    "asgi_ipc.__main__.main",
}
#: Names with an underscore that Python's own classes have.
OF_PYTHON = {"_replace", "_is_owned"}
#: Folders of tests that are seams: they may look into everything, so that the others need not.
SEAMS = ("tools", "torture", "wrong_engines", "platforms")
TESTS = [
    path
    for path in sorted((ROOT / "tests").rglob("*.py"))
    if path.relative_to(ROOT / "tests").parts[0] not in SEAMS
]


class Use(NamedTuple):
    """A name of the package that a module uses: ``asgi_ipc.folder.module``, or one in it."""

    line: int
    name: str


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path) -> Iterator[Use]:
    """What a module imports, wherever it does: ``from a import b`` is ``a.b``."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (Use(node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*parts, *filter(None, [node.module])))
            yield from (Use(node.lineno, f"{module}.{each.name}") for each in node.names)


def uses(path: Path) -> Iterator[Use]:
    """Imports of the package, those of scripts in strings too, and names given as strings."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if re.fullmatch(r"asgi_ipc(\.\w+)+", node.value):
            yield Use(node.lineno, node.value)
        for module, names in re.findall(
            r"^\s*from (asgi_ipc[\w.]*) import ([\w, ]+)", node.value, re.M
        ):
            yield from (Use(node.lineno, f"{module}.{name.strip()}") for name in names.split(","))
    yield from (use for use in imports(path) if use.name.startswith("asgi_ipc."))


def folder_of(name: str) -> str:
    """The innermost folder that a name of the package lies in; empty for the package itself."""
    if not name.startswith("asgi_ipc."):
        return ""
    inside = name.removeprefix("asgi_ipc.")
    return next((each for each in FOLDERS if f"{inside}.".startswith(f"{each}.")), "")


@cache
def offered() -> frozenset[str]:
    """What folders of the package use of each other: to rename that is no affair of one folder."""
    found = set()
    for path in (ROOT / "asgi_ipc").rglob("*.py"):
        here = folder_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for use in imports(path):
            there = folder_of(use.name)
            if there and there != here and there not in LOOKED_INTO.get(here, ()):
                found.add(use.name)
    return frozenset(found)


def home(path: Path) -> str:
    """The folder of the package that a module of tests mirrors."""
    return folder_of("asgi_ipc." + ".".join(path.parent.relative_to(ROOT / "tests").parts))


def may_look_into(here: str, there: str) -> bool:
    return f"{here}.".startswith(f"{there}.") or there in LOOKED_INTO.get(here, ())


def is_allowed(use: Use, path: Path) -> bool:
    module, _, _ = use.name.rpartition(".")
    if use.name in PUBLIC or (module in PUBLIC and not is_module(use.name)):
        return True
    if use.name.startswith("asgi_ipc.conformance"):
        return True
    there = folder_of(use.name)
    return may_look_into(home(path), there) or use.name in offered()


@cache
def private_names(folder: str) -> frozenset[str]:
    """The attributes with an underscore that modules of a folder of the package define."""
    found = set()
    for path in (ROOT / "asgi_ipc").rglob("*.py"):
        if folder_of(".".join(path.relative_to(ROOT).with_suffix("").parts)) != folder:
            continue
        for node in ast.walk(tree(path)):
            name = ""
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = node.name
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
            if re.match(r"_[a-zA-Z]", name) and name not in OF_PYTHON:
                found.add(name)
    return frozenset(found)


def reached(path: Path) -> Iterator[Use]:
    """The private attributes of other folders that a module of tests uses."""
    mine = {each for each in ("", *FOLDERS) if may_look_into(home(path), each)}
    own = frozenset[str]().union(*map(private_names, mine))
    # Classes of the test have private attributes as well.
    own |= {
        node.attr
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }
    others = frozenset[str]().union(*(private_names(each) for each in FOLDERS if each not in mine))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr in others - own:
            yield Use(node.lineno, node.attr)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_a_test_uses_its_own_folder_what_is_public_and_seams(path: Path) -> None:
    found = [use for use in uses(path) if not is_allowed(use, path)]
    assert found == [], "not public, not of the folder it mirrors: tests/tools may offer it"
    assert list(reached(path)) == [], "private to another folder: tests/tools may offer it"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_a_test_imports_no_module_of_tests_of_another_folder(path: Path) -> None:
    for use in imports(path):
        first, *rest = use.name.split(".")
        if first == "tests" and rest[0] not in SEAMS:
            assert ROOT.joinpath("tests", *rest[:-2]) == path.parent, use
