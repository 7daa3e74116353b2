"""What is installed, and what importing it costs."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import metadata, packages_distributions, requires, version
from pathlib import Path
from typing import NamedTuple

import pytest
import trove_classifiers

import asgi_ipc

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = ("channels", "django", "msgpack", "_posixshmem", "sysv_ipc", "asyncio")
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
    assert fresh(code, "channels", "django", "_posixshmem", "sysv_ipc").splitlines() == [
        "full",
        "('x', {'type': 'y'})",
        "{'type': 'y'}",
    ]


def test_the_default_engine_needs_no_package_but_msgpack(tmp_path: Path) -> None:
    code = f"""
from asgi_ipc import SyncIPCChannelLayer

layer = SyncIPCChannelLayer(engine_options={{"directory": {str(tmp_path)!r}}})
layer.send("x", {{"type": "y"}})
print(layer, layer.receive(["x"]))
layer.destroy()
"""
    installed = {name for names in packages_distributions().values() for name in names}
    others = {
        module
        for module, names in packages_distributions().items()
        if not {"asgi_ipc", "msgpack"} & set(names)
    }
    assert "sysv_ipc" in installed
    said = fresh(code, *others)
    assert said == "<SyncIPCChannelLayer prefix='asgi' engine='posix'> ('x', {'type': 'y'})\n"


def test_an_engine_without_its_library_says_what_to_install() -> None:
    code = """
from asgi_ipc import EngineUnavailable, SyncIPCChannelLayer

try:
    SyncIPCChannelLayer(engine="sysv")
except EngineUnavailable as error:
    print(error)
"""
    assert "pip install 'asgi_ipc[sysv]>=2'" in fresh(code, "sysv_ipc")


def test_importing_it_loads_little() -> None:
    code = """
before = set(sys.modules)
import asgi_ipc
print(*sorted(set(sys.modules) - before))
"""
    loaded = fresh(code).split()
    assert [name for name in loaded if name.startswith("asgi_ipc.")] == ["asgi_ipc.exceptions"]
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & {"django", "msgpack", "_posixshmem", "sysv_ipc", "asyncio"}
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
    assert {line.partition(">")[0] for line in always} == {"click", "msgpack"}


def test_every_installation_in_documents_and_errors_asks_for_this_version() -> None:
    """Without a bound pip takes 1.4.2 where version 2 can't be had, and says nothing."""
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*/*.md")]
    texts += [*(ROOT / "asgi_ipc").rglob("*.py"), *(ROOT / "conformance").rglob("*.py")]
    asked = [
        word
        for path in texts
        for line in re.findall(r"pip install ([^\n`]*)", path.read_text())
        for word in re.findall(r"(?<![\w./])asgi_ipc(?!_)[^\s'\"]*", line)
    ]
    assert len(asked) >= 6
    assert [word for word in asked if not word.endswith(">=2")] == []


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


class Built(NamedTuple):
    """The two files that are uploaded, and the sdist unpacked."""

    sdist: Path
    wheel: Path
    source: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built as `python -m build` does it, the wheel from the sdist, but without the network."""
    folder = tmp_path_factory.mktemp("built")
    checkout, made = folder / "checkout", folder / "dist"
    checkout.mkdir()
    made.mkdir()
    for path in sources(ROOT):
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).symlink_to(ROOT / path)

    def build(source: Path, kind: str) -> Path:
        code = f"import setuptools.build_meta as b; b.build_{kind}({str(made)!r})"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=source,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (found,) = made.glob("*.tar.gz" if kind == "sdist" else "*.whl")
        return found

    sdist = build(checkout, "sdist")
    # Python 3.12 and some versions before it warn without a filter.
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, **options)  # type: ignore[arg-type]
    source = folder / sdist.name.removesuffix(".tar.gz")
    return Built(sdist, build(source, "wheel"), source)


def sources(root: Path) -> set[str]:
    """The files of a checkout, or of an sdist: without what was made from them."""
    made = re.compile(r"\..*|__pycache__|.*\.egg-info|PKG-INFO|setup\.cfg")
    found: set[str] = set()
    for folder, folders, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        at_top = {"build", "dist", "site"} if folder == str(root) else set()
        folders[:] = [name for name in folders if not made.fullmatch(name) and name not in at_top]
        found.update((inside / name).as_posix() for name in files if not made.fullmatch(name))
    return found


def test_the_sdist_holds_all_of_the_checkout(built: Built) -> None:
    assert sources(built.source) == sources(ROOT)


def test_the_wheel_holds_the_package_the_conformance_suite_and_nothing_else(built: Built) -> None:
    names = set(zipfile.ZipFile(built.wheel).namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "asgi_ipc").rglob("*.py")}
    of_suite = (ROOT / "conformance").rglob("*.py")
    suite = {f"asgi_ipc/{path.relative_to(ROOT).as_posix()}" for path in of_suite}
    assert "asgi_ipc/conformance/plugin.py" in suite
    about = {f"asgi_ipc-{asgi_ipc.__version__}.dist-info/{name}" for name in (
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"
    )}  # fmt: skip
    assert names == modules | suite | about | {"asgi_ipc/py.typed"}


def test_the_wheel_installs_the_command_and_no_other_program_loads_the_package(
    built: Built,
) -> None:
    """As pytest would, which loads entry points of its group in every user's test runs."""
    (about,) = (built.source / "asgi_ipc.egg-info").glob("entry_points.txt")
    assert about.read_text().split("\n") == [
        "[console_scripts]",
        "asgi-ipc = asgi_ipc.cli.main:main",
        "",
    ]


def test_the_index_accepts_what_is_uploaded(built: Built) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(built.sdist), str(built.wheel)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    classifiers = metadata("asgi_ipc").get_all("Classifier") or []
    assert set(classifiers) <= trove_classifiers.classifiers
    assert "Programming Language :: Python :: 3.14" in classifiers


def test_type_checkers_know_all_that_is_public(built: Built, tmp_path: Path) -> None:
    """Public as the package says, and what its first module takes from elsewhere."""
    with zipfile.ZipFile(built.wheel) as archive:
        archive.extractall(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyright", "--outputjson", "--ignoreexternal"),
            *("--verifytypes", "asgi_ipc"),
        ],
        cwd=empty,
        # It asks the first python of the path where packages are.
        env=os.environ
        | {"PYTHONPATH": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.defpath}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found = json.loads(done.stdout)["typeCompleteness"]
    assert Path(found["packageRootDirectory"]) == tmp_path / "asgi_ipc"
    public = set(re.findall(r"`(asgi_ipc[\w.]*)`", asgi_ipc.__doc__ or ""))
    assert len(public) >= 9
    for module in public:
        pkgutil.resolve_name(module)
    elsewhere = ("layers.aio", "layers.sync", "layers.surface", "engines.choice")
    public |= {f"asgi_ipc.{name}" for name in elsewhere}
    modules = sorted((each["name"] for each in found["modules"]), key=len, reverse=True)

    def is_public(name: str) -> bool:
        module = next(each for each in modules if f"{name}.".startswith(f"{each}."))
        return module in public or module.startswith("asgi_ipc.conformance")

    symbols = [symbol for symbol in found["symbols"] if is_public(symbol["name"])]
    assert any(symbol["name"].endswith(".IPCChannelLayer.send") for symbol in symbols)
    incomplete = [
        symbol for symbol in symbols if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    ]
    # Classes that inherit from Django's, which have no types; and their second names.
    of_django = {
        symbol["name"].rpartition(".")[2]
        for symbol in found["symbols"]
        if any("base class unknown" in each["message"] for each in symbol["diagnostics"])
    }
    named = [symbol["name"] for symbol in incomplete]
    assert [name for name in named if name.rpartition(".")[2] not in of_django] == []


def test_the_page_on_the_index_has_no_link_that_only_a_checkout_can_follow() -> None:
    """The index shows README.md alone: other files of the project need whole addresses."""
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"^\[.+\]: (\S+)$", text, re.M)
    assert [link for link in links if not re.match(r"#|https://", link)] == []
    named = {name.lower() for name in re.findall(r"^\[(.+)\]: ", text, re.M)}
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    # [name], [words][name] and ![words][name]
    used = re.findall(r"\[[^\]]+\]\[([^\]]+)\]|(?<!\])\[([^\]]+)\](?![\[(:])", prose)
    assert named == {name.lower() for pair in used for name in pair if name}
    for picture in ("chat.png", "performance.png"):
        assert [link for link in links if link.endswith(f"/main/docs/{picture}")]
    addresses = dict(
        each.split(", ", 1) for each in metadata("asgi_ipc").get_all("Project-URL") or []
    )
    assert {"Homepage", "Documentation", "Changelog", "Issues"} <= set(addresses)
