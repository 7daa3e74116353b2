"""What a test may reach of asgi_ipc: a renaming inside one folder breaks no test outside it.

A module of tests uses what is public, the folder that it mirrors, what that folder offers to the
other folders of the package, and the named seams in `tests/tools` and the like. All of that is
read from the sources, by ast.
"""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: The folders whose inside is their own, innermost first.
FOLDERS = (
    *("engines.shm", "engines", "delivery", "relay", "encoding", "policy", "layers"),
    *("metrics", "cli", "django", "testing"),
)
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
    "asgi_ipc.engines.process_hints",
    "asgi_ipc.engines.memory.MemoryEngine",
    "asgi_ipc.engines.shm.engine.SharedMemoryEngine",
    "asgi_ipc.engines.shm.mmap.MmapEngine",
    "asgi_ipc.engines.shm.posix.PosixEngine",
    "asgi_ipc.engines.shm.sysv.SysVEngine",
    "asgi_ipc.engines.shm.segment",
    "asgi_ipc.django",
    "asgi_ipc.relay.memory",
    "asgi_ipc.relay.wire",
    "asgi_ipc.testing",
    "asgi_ipc.metrics.prometheus",
    "asgi_ipc.metrics.opentelemetry",
    "asgi_ipc.__main__.main",
}
#: Names with an underscore that Python's own classes have.
OF_PYTHON = {"_fields", "_replace", "_is_owned"}
#: Folders of tests that are seams: they may look into everything, so that the others need not.
SEAMS = ("tools", "torture", "wrong_engines", "wrong_wires", "platforms", "compat")
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
def nodes(path: Path) -> list[ast.AST]:
    """All that a module consists of."""
    return list(ast.walk(ast.parse(path.read_text())))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path) -> Iterator[Use]:
    """What a module imports, wherever it does: ``from a import b`` is ``a.b``.

    If that is a module, it is what is used of it: ``b.c`` is ``a.b.c``.
    """
    package = path.parent.relative_to(ROOT).parts
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (Use(node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*parts, *filter(None, [node.module])))
            for each in node.names:
                name = f"{module}.{each.name}"
                used = used_of(path, each.asname or each.name) if is_module(name) else ()
                yield from (Use(node.lineno, f"{name}.{attribute}") for attribute in used)
                if not used:
                    yield Use(node.lineno, name)


def used_of(path: Path, name: str) -> list[str]:
    """The attributes of a name that a module uses or sets, if it does nothing else with it."""
    whole = sum(isinstance(node, ast.Name) and node.id == name for node in nodes(path))
    attributes = []
    for node in nodes(path):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if owner == name:
                attributes.append(attribute)
            case ast.Call(
                func=ast.Attribute(attr="setattr"),
                args=[ast.Name(id=owner), ast.Constant(value=str(attribute)), *_],
            ) if owner == name:
                attributes.append(attribute)
    return sorted(set(attributes)) if len(attributes) == whole else []


def uses(path: Path) -> Iterator[Use]:
    """Imports of the package, those of scripts in strings too, and names given as strings."""
    for node in nodes(path):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if re.fullmatch(r"asgi_ipc(\.\w+)+", node.value):
            yield Use(node.lineno, node.value)
        for module, names in re.findall(
            r"^\s*from (asgi_ipc(?:\.\w+)*) import ([\w, ]+)", node.value, re.M
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
        here = folder_of(module_name(path))
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
        if folder_of(module_name(path)) != folder:
            continue
        for node in nodes(path):
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
        for node in nodes(path)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }
    others = frozenset[str]().union(*(private_names(each) for each in FOLDERS if each not in mine))
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and node.attr in others - own:
            yield Use(node.lineno, node.attr)


def shown(found: dict[Path, list[Use]]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{use.line} {use.name}"
        for path, uses in found.items()
        for use in uses
    ]


def test_a_test_uses_its_own_folder_what_is_public_and_seams() -> None:
    found = {path: [use for use in uses(path) if not is_allowed(use, path)] for path in TESTS}
    assert shown(found) == [], "neither public nor of the folder it mirrors: use tests/tools"


def test_a_test_uses_no_private_attribute_of_another_folder() -> None:
    found = {path: list(reached(path)) for path in TESTS}
    assert shown(found) == [], "private to another folder: tests/tools may offer it"


def test_a_test_imports_no_test_module_of_another_folder() -> None:
    def is_strange(name: str, path: Path) -> bool:
        first, *rest = name.split(".")
        if first != "tests" or rest[0] in SEAMS:
            return False
        other = ROOT.joinpath("tests", *rest[:-1])
        return home(other) != home(path) if home(path) else other.parent != path.parent

    found = {path: [use for use in imports(path) if is_strange(use.name, path)] for path in TESTS}
    assert shown(found) == [], "what several folders use belongs in tests/tools"


def test_folders_of_tests_mirror_those_of_the_package() -> None:
    of_their_own = {"system", "conformance", "benchmarks", *SEAMS}
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS} - {Path()}
    strange = [
        str(folder)
        for folder in sorted(folders)
        if folder.parts[0] not in of_their_own and not (ROOT / "asgi_ipc" / folder).is_dir()
    ]
    assert strange == []


def test_what_is_listed_here_exists() -> None:
    for name in PUBLIC:
        pkgutil.resolve_name(name)
    for folder in FOLDERS:
        assert is_module(f"asgi_ipc.{folder}"), folder
    for folder in SEAMS:
        assert is_module(f"tests.{folder}"), folder


def test_no_file_has_a_conflict_that_a_merge_has_left() -> None:
    folders = ("asgi_ipc", "benchmarks", "conformance", "docs", "examples", "tests")
    left = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".md", ".toml", ".html")
        and re.search(r"^(<{7} .*|={7}|>{7} .*)$", path.read_text(), re.M)
    ]
    assert left == []
