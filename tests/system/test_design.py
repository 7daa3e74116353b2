"""The map and the walk in docs/design.md: held to the modules, the contracts and a real message."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from pathlib import Path
from types import FrameType

from asgi_ipc import IPCChannelLayer
from asgi_ipc.engines import find

ROOT = Path(__file__).resolve().parents[2]
DESIGN = (ROOT / "docs" / "design.md").read_text()
#: Bytes of each segment of a store.
MEMORY = 1 << 20


def rows(section: str) -> list[list[str]]:
    """The rows of the tables of a section, without their heads."""
    text = DESIGN.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", text, re.M)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines][2:]


def mapped() -> list[tuple[str, list[str]]]:
    """The folders of the map in docs/design.md, in its order, with the modules of each."""
    found = []
    for folder, _, modules in rows("The map"):
        named = [part.partition(":")[0] for part in modules.split(";")]
        found.append((folder.strip("`"), re.findall(r"`(\w+)`", " ".join(named))))
    return found


def test_the_map_names_every_module_once() -> None:
    named = [f"{folder}{module}.py" for folder, modules in mapped() for module in modules]
    there = [str(path.relative_to(ROOT)) for path in (ROOT / "asgi_ipc").rglob("*.py")]
    assert sorted(named) == sorted(path for path in there if not path.endswith("__init__.py"))


def test_the_map_runs_down_as_the_imports_do() -> None:
    """Its order is that of the contract in pyproject.toml, which `make lint` holds the code to."""
    settings = (ROOT / "pyproject.toml").read_text()
    (contract,) = re.findall(r'^type = "layers"$.*?^layers = \[$(.*?)^\]$', settings, re.M | re.S)
    floors = [line.split(" | ") for line in re.findall(r'"(.*?)"', contract)]
    order = []
    for folder, modules in mapped():
        inside = folder.removeprefix("asgi_ipc/").split("/")[0]
        order += [inside] if inside else modules
    assert [name for name, _ in itertools.groupby(order)] == list(itertools.chain(*floors))


def test_the_inits_of_the_folders_say_what_they_are_for() -> None:
    for folder, modules in mapped():
        text = (ROOT / folder / "__init__.py").read_text()
        if folder.count("/") == 2 and folder not in ("asgi_ipc/django/",):
            said = (text.split('"""')[1]).split("\n\n")
            assert len(said) > 1, f"{folder}: what lives there, where to begin, who may import it"
            assert "Begin with" in said[1], folder
            assert {m for m in modules if f"`{m}`" not in text} == set(), folder


def test_a_message_goes_the_ten_steps_of_the_walk(tmp_path: Path) -> None:
    """Between two engines on one store, as between processes, in the order of the calls."""
    steps = rows("A message in ten steps")
    assert [int(cells[0]) for cells in steps] == list(range(1, 11))
    walk = [(cells[1].strip("`"), cells[2].strip("`")) for cells in steps]
    called: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT / "asgi_ipc"):
            called.append((str(path.relative_to(ROOT)), frame.f_code.co_name))

    async def main() -> None:
        sending, receiving = (
            find("mmap")(
                "walk", channel_memory=MEMORY, group_memory=MEMORY, directory=str(tmp_path)
            )
            for _ in range(2)
        )
        sender, receiver = IPCChannelLayer(engine=sending), IPCChannelLayer(engine=receiving)
        try:
            channel = await receiver.new_channel()
            received = asyncio.ensure_future(receiver.receive(channel))
            await asyncio.sleep(0)  # It begins to wait.
            sys.setprofile(note)
            try:
                await sender.send(channel, {"n": 1})
                assert await received == {"n": 1}
            finally:
                sys.setprofile(None)
        finally:
            await receiver.destroy()
            for engine in (sending, receiving):
                engine.close()

    asyncio.run(main())
    calls = iter(called)
    missed = [step for step in walk if step not in calls]
    assert missed == [], "in this order"
