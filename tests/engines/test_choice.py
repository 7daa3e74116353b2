"""How an engine is chosen: by name, entry point, path, class or instance."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import pytest

import asgi_ipc.engines as engines
from asgi_ipc.engines.base import Engine
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.exceptions import EngineUnavailable, OptionError


class BrokenEngine(MemoryEngine):
    """Can't work here."""

    @classmethod
    def unavailable(cls) -> str | None:
        return "this machine has no flux capacitor; install one"


class OpenMindedEngine(MemoryEngine):
    """Takes any option."""

    def __init__(self, prefix: str, **options: Any) -> None:
        self.options = {k: v for k, v in options.items() if not k.endswith("_memory")}
        super().__init__(prefix, channel_memory=9, group_memory=9)


def make_engine(name: str, channel_memory: int, group_memory: int, taste: str = "") -> Engine:
    """A factory that is no class."""
    return MemoryEngine(name + taste, channel_memory=channel_memory, group_memory=group_memory)


def opened(engine: Any, **options: Any) -> Engine:
    return engines.open_engine(
        engine, "selection", channel_memory=1 << 16, group_memory=1 << 16, engine_options=options
    )


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers engines as other distributions would."""

    def register(**paths: str) -> None:
        points = [EntryPoint(n, p, engines.ENTRY_POINT_GROUP) for n, p in paths.items()]

        def entry_points(group: str) -> list[EntryPoint]:
            assert group == engines.ENTRY_POINT_GROUP
            return points

        monkeypatch.setattr("importlib.metadata.entry_points", entry_points)

    return register


@pytest.mark.parametrize(
    "engine",
    ["memory", "asgi_ipc.engines.memory:MemoryEngine", MemoryEngine, make_engine],
    ids=["name", "path", "class", "function"],
)
def test_an_engine_is_found_in_each_way(engine: Any) -> None:
    found = opened(engine)
    assert isinstance(found, MemoryEngine)
    found.close()


def test_an_instance_is_taken_as_it_is() -> None:
    mine = MemoryEngine("mine", channel_memory=9, group_memory=9)
    assert opened(mine) is mine
    with pytest.raises(OptionError, match=r"'clock'.*construct"):
        opened(mine, clock=print)
    mine.close()


def test_an_engine_registered_elsewhere_is_found(registered: Callable[..., None]) -> None:
    registered(theirs=f"{__name__}:OpenMindedEngine")
    found = opened("theirs", anything=1)
    assert isinstance(found, OpenMindedEngine)
    assert found.options == {"anything": 1}
    found.close()
    assert engines.names() == ["memory", "mmap", "posix", "sysv", "theirs"]


def test_a_built_in_name_can_not_be_taken_over(registered: Callable[..., None]) -> None:
    registered(memory=f"{__name__}:OpenMindedEngine")
    assert engines.find("memory") is MemoryEngine
    assert engines.available()["memory"] is None


def test_an_unknown_name_lists_what_there_is_and_why_not_the_rest(
    registered: Callable[..., None],
) -> None:
    registered(
        flux=f"{__name__}:BrokenEngine",
        missing="no_such_module:Engine",
        nothing=f"{__name__}:NoSuchEngine",
    )
    with pytest.raises(EngineUnavailable) as caught:
        opened("memroy")
    text = str(caught.value)
    assert "no engine 'memroy'" in text
    assert "did you mean 'memory'" in text
    here = next(line for line in text.splitlines() if line.startswith("available here"))
    assert "'memory'" in here
    assert "'flux'" not in here
    assert "'flux': this machine has no flux capacitor; install one" in text
    assert "'missing': ModuleNotFoundError: No module named 'no_such_module'" in text
    assert "'nothing': AttributeError" in text


def test_an_engine_that_can_not_work_here_says_why() -> None:
    with pytest.raises(EngineUnavailable, match=r"(?s)BrokenEngine.*flux.*available here.*memory"):
        opened(BrokenEngine)
    with pytest.raises(EngineUnavailable, match="flux"):
        opened(f"{__name__}:BrokenEngine")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("no_such_module:Engine", "No module named 'no_such_module'"),
        ("asgi_ipc.engines.memory:NoSuch", "NoSuch"),
        ("asgi_ipc.engines.memory:__doc__", "not a class"),
        ("asgi_ipc.engines.memory.MemoryEngine", "package.module:Class"),
        (":", "ValueError"),
        ("", "no engine ''"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ended(path: str, text: str) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        opened(path)
    assert text in str(caught.value)
    assert "available here" in str(caught.value)


@pytest.mark.parametrize("engine", [None, 5, b"posix", ["posix"]])
def test_what_is_no_engine_at_all_is_an_option_error(engine: object) -> None:
    with pytest.raises(OptionError, match="engine is"):
        opened(engine)


def test_an_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"'memory'.*no option 'colour'; remove it"):
        opened("memory", colour="red")
    with pytest.raises(OptionError, match=r"make_engine.*'channel_memory'.*'taste'"):
        opened(make_engine, channel_memory=5)


def test_only_the_engine_asked_for_is_imported() -> None:
    script = (
        "import sys, asgi_ipc.engines as e;"
        "e.open_engine('memory', 'p', channel_memory=9, group_memory=9).close();"
        "print([m for m in sys.modules if m in ('importlib.metadata', 'inspect', 'difflib')"
        " or m.startswith('asgi_ipc.engines.')])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=300
    ).stdout
    for module in ("posix", "sysv", "mmap", "importlib.metadata"):
        assert module not in shown.replace("asgi_ipc.engines.base", "")
    assert "asgi_ipc.engines.memory" in shown
