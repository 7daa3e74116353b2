"""What is installed, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest

import asgi_ipc

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = ("channels", "django", "msgpack", "posix_ipc", "sysv_ipc", "asyncio")
#: Runs first in a fresh interpreter: these modules can't be found.
BLOCK = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Blocker())
"""


def fresh(code: str, *blocked: str) -> str:
    """What the code prints in a new interpreter that lacks some modules."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_imports_where_nothing_else_is_installed() -> None:
    fresh("import asgi_ipc; asgi_ipc.ChannelFull, asgi_ipc.MessageTooLarge", *OPTIONAL)


def test_the_layers_work_without_django_and_the_libraries_of_engines_not_used() -> None:
    code = """
import asyncio
from asgi_ipc import ChannelFull, IPCChannelLayer, SyncIPCChannelLayer

sync = SyncIPCChannelLayer(engine="memory", capacity=1)
sync.send("x", {"type": "y"})
try:
    sync.send("x", {"type": "z"})
except ChannelFull:
    print("full")
print(sync.receive(["x"]))
sync.close()

async def main():
    layer = IPCChannelLayer(engine="memory")
    await layer.send("x", {"type": "y"})
    print(await layer.receive("x"))
    await layer.close()

asyncio.run(main())
"""
    assert fresh(code, "channels", "django", "posix_ipc", "sysv_ipc").splitlines() == [
        "full",
        "('x', {'type': 'y'})",
        "{'type': 'y'}",
    ]


@pytest.mark.parametrize("name", ["posix_ipc", "sysv_ipc"])
def test_an_engine_without_its_library_says_what_to_install(name: str) -> None:
    engine = name.removesuffix("_ipc")
    code = f"""
from asgi_ipc import EngineUnavailable, SyncIPCChannelLayer

try:
    SyncIPCChannelLayer(engine={engine!r})
except EngineUnavailable as error:
    print(error)
"""
    assert f"pip install {name}" in fresh(code, name)


def test_importing_it_loads_little() -> None:
    code = """
before = set(sys.modules)
import asgi_ipc
print(*sorted(set(sys.modules) - before))
"""
    loaded = fresh(code).split()
    assert [name for name in loaded if name.startswith("asgi_ipc.")] == ["asgi_ipc.exceptions"]
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & {"django", "msgpack", "posix_ipc", "sysv_ipc", "asyncio"}
    assert not {"channels.layers", "asgi_ipc.django"} & set(loaded)
    assert len(loaded) < 40, loaded


def test_the_exceptions_are_those_of_channels_where_it_is_installed() -> None:
    exceptions = pytest.importorskip("channels.exceptions")
    assert asgi_ipc.ChannelFull is exceptions.ChannelFull
    assert asgi_ipc.MessageTooLarge is exceptions.MessageTooLarge


def test_the_version_is_the_same_everywhere() -> None:
    assert version("asgi_ipc") == asgi_ipc.__version__
    assert f"## [{asgi_ipc.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_what_it_requires_is_what_it_says() -> None:
    always = {line for line in requires("asgi_ipc") or () if "extra ==" not in line}
    named = {line.partition(">")[0] for line in always}
    assert named == {"click", "msgpack", "posix_ipc", "sysv_ipc"}


def test_every_package_is_installed() -> None:
    settings = (ROOT / "pyproject.toml").read_text()
    table = settings[settings.index("[tool.setuptools]") :].split("\n\n")[0]
    listed = re.findall(r'^    "(asgi_ipc[\w.]*)",$', table, re.M)
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "asgi_ipc").rglob("__init__.py")
    }
    suite = {
        ".".join(("asgi_ipc", *file.parent.relative_to(ROOT).parts))
        for file in (ROOT / "conformance").rglob("__init__.py")
    }
    assert set(listed) == found | suite


def test_the_wheel_holds_the_conformance_suite_and_the_types(tmp_path: Path) -> None:
    # Straight from the backend: with setuptools at hand this needs no network.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "asgi_ipc", "conformance"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run(
        [sys.executable, "-c", "import setuptools.build_meta as b; b.build_wheel('.')"],
        cwd=source,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,) = source.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "asgi_ipc/__init__.py",
        "asgi_ipc/py.typed",
        "asgi_ipc/engines/base.py",
        "asgi_ipc/conformance/plugin.py",
    } <= names
    (entry_points,) = (name for name in names if name.endswith("/entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        found = archive.read(entry_points).decode()
    assert "asgi-ipc = asgi_ipc.cli.main:main" in found
    assert "pytest" not in found, "pytest loads an entry point in every user's test runs"
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "asgi_ipc").rglob("*.py")}
    of_suite = (ROOT / "conformance").rglob("*.py")
    suite = {f"asgi_ipc/{path.relative_to(ROOT).as_posix()}" for path in of_suite}
    assert {name for name in names if name.endswith(".py")} == modules | suite
