"""``top``: its screens, driven as a user does, by keys and mouse."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.cli.choice import StoreChoice
from asgi_ipc.cli.top import look
from asgi_ipc.cli.top import watching as watching_screen
from asgi_ipc.cli.top.app import INTERRUPTED, Top
from asgi_ipc.cli.top.choosing import Choosing
from asgi_ipc.cli.top.panes import Pane
from asgi_ipc.cli.top.watching import Watching
from asgi_ipc.engines.base import Record
from tests.cli.conftest import MakeLayer
from tests.tools.layers import engine_of

#: Seconds until a test gives up.
ENOUGH = 60.0
Use = Callable[[Top, "Pilot[int]"], Coroutine[Any, Any, None]]


def run(use: Use, prefix: str | None = "site", size: tuple[int, int] = (200, 40)) -> Top:
    """Run the application and use it."""
    top = Top(StoreChoice(prefix) if prefix else None, None, 0.1)

    async def main() -> None:
        async with top.run_test(size=size) as pilot:
            await asyncio.wait_for(use(top, pilot), ENOUGH)

    asyncio.run(main())
    return top


async def until(pilot: Pilot[int], holds: Callable[[], object]) -> None:
    """Wait for it."""
    while not holds():
        await pilot.pause(0.02)


async def watching(top: Top, pilot: Pilot[int]) -> Watching:
    """The screen of a store, after its first look."""
    await until(pilot, lambda: isinstance(top.screen, Watching) and top.screen.last)
    assert isinstance(top.screen, Watching)
    await pilot.pause()
    return top.screen


def rows(top: Top, name: str) -> list[list[str]]:
    """What a table shows."""
    table = top.screen.query_one(f"#{name}", Pane)
    return [[str(cell) for cell in table.get_row_at(at)] for at in range(table.row_count)]


def names(top: Top, name: str) -> list[str]:
    """The last column of a table."""
    return [row[-1] for row in rows(top, name)]


def shown(top: Top, name: str) -> str:
    """The text of a line or lines."""
    widget = top.screen.query_one(f"#{name}", Static)
    return "\n".join(widget.render_line(at).text for at in range(widget.size.height))


@pytest.fixture
def layer(make_layer: MakeLayer) -> SyncIPCChannelLayer:
    """One on a store with three channels and two groups."""
    made = make_layer()
    for number in range(3):
        made.send("work", {"n": number})
    made.send("other", {"n": 0})
    made.group_add("news", "work")
    made.group_add("news", "other")
    made.group_add("quiet", "work")
    engine = engine_of(made)
    # No layer would write that.
    engine.push([Record(b"\x1b[31mred\x07[b]", b"x", engine.clock() + 10**12, 10)])
    return made


def test_a_store_is_shown_sorted_and_filtered_by_keys_and_mouse(layer: SyncIPCChannelLayer) -> None:
    hostile = r"\x1b[31mred\x07[b]"

    async def use(top: Top, pilot: Pilot[int]) -> None:
        screen = await watching(top, pilot)
        assert names(top, "channels") == ["work", hostile, "other"]
        assert rows(top, "groups") == [["2", "0", "news"], ["1", "0", "quiet"]]
        (process,) = rows(top, "processes")
        assert process[0] == str(os.getpid())
        await until(pilot, lambda: "5 pending" in shown(top, "figures"))
        await until(pilot, lambda: "512 KiB" in shown(top, "figures"))
        layer.send("work", {"n": 3})
        await until(pilot, lambda: rows(top, "channels")[0][0] == "4")
        rates = shown(top, "figures").split()
        assert rates[:3:2] == ["in", "out"]

        await pilot.press("r")
        await until(pilot, lambda: names(top, "channels")[-1] == "work")
        table = screen.query_one("#channels", Pane)
        # The header of the last column.
        await pilot.click(table, offset=(table.virtual_size.width - 4, 1))
        await until(pilot, lambda: names(top, "channels") == [hostile, "other", "work"])
        await pilot.press("2", "s", "s")
        await until(pilot, lambda: screen.query_one("#groups", Pane).order.key == "name")
        # Not the first column, of which the sorting began.
        assert names(top, "groups") == ["news", "quiet"]

        await pilot.press("slash", *"QUI", "enter")
        await until(pilot, lambda: names(top, "groups") == ["quiet"])
        assert names(top, "channels") == []
        assert "1 of 2 with 'QUI'" in str(screen.query_one("#groups", Pane).border_title)
        await pilot.press("escape")
        await until(pilot, lambda: len(names(top, "groups")) == 2)
        assert screen.query_one("#filter", Input).value == ""

        await pilot.press("p")
        await until(pilot, lambda: "paused" in shown(top, "title"))
        await pilot.press("p", "plus")
        await until(pilot, lambda: "every 0.5s" in shown(top, "title"))
        await pilot.press("q")

    assert run(use).return_value == 0


def test_what_happens_to_the_store_is_said(
    layer: SyncIPCChannelLayer, make_layer: MakeLayer
) -> None:
    async def use(top: Top, pilot: Pilot[int]) -> None:
        screen = await watching(top, pilot)
        layer.flush()
        await until(pilot, lambda: "flushed" in screen.notice)
        layer.destroy()
        await until(pilot, lambda: "there is no store of prefix 'site'" in screen.trouble)
        await until(pilot, lambda: "there is no store" in shown(top, "notice"))
        make_layer().send("new", {"n": 0})
        await until(pilot, lambda: "made anew" in screen.notice and not screen.trouble)
        assert names(top, "channels") == ["new"]
        await until(pilot, lambda: "made anew" in shown(top, "notice"))
        await pilot.press("ctrl+c")

    assert run(use).return_value == INTERRUPTED


def test_a_lock_that_is_held_is_said_and_keeps_no_one_from_quitting(
    layer: SyncIPCChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(watching_screen, "_PATIENCE", 0.1)
    monkeypatch.setattr(look, "joined", lambda *_, **__: go_on.wait(ENOUGH))

    async def use(top: Top, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: getattr(top.screen, "trouble", ""))
        await until(pilot, lambda: "a stopped process" in shown(top, "notice"))
        assert top.is_looking
        await pilot.press("q")

    try:
        assert run(use).return_value == 0
    finally:
        go_on.set()


@pytest.mark.parametrize("size", [(40, 20), (80, 24), (100, 40), (12, 4)])
def test_it_fits_into_any_terminal(layer: SyncIPCChannelLayer, size: tuple[int, int]) -> None:
    async def use(top: Top, pilot: Pilot[int]) -> None:
        screen = await watching(top, pilot)
        panes = list(screen.query(Pane))
        visible = [pane.id for pane in panes if pane.display]
        width, height = size
        if width < 120 and height < 30:
            assert visible == ["channels"]
            await pilot.press("3")
            await pilot.pause()
            assert [pane.id for pane in panes if pane.display] == ["processes"]
            assert screen.focused is screen.query_one("#processes")
            await pilot.press("1")
            await pilot.pause()
        else:
            assert visible == ["channels", "groups", "processes"]
        if height >= 20:
            assert all(pane.size.height >= 4 for pane in panes if pane.display)
            for name in ("title", "figures"):
                assert all(len(line.rstrip()) <= width for line in shown(top, name).splitlines())
            await until(pilot, lambda: "% of 512 KiB" in shown(top, "figures"))
        titles = [str(each.label) for each in screen.query_one("#channels", Pane).ordered_columns]
        assert (titles[0], "IN/S" in titles) == ("PENDING ▼", width >= 80)
        await pilot.press("q")

    run(use, size=size)


def test_without_a_prefix_a_store_is_chosen(
    layer: SyncIPCChannelLayer, make_layer: MakeLayer
) -> None:
    async def only_one(top: Top, pilot: Pilot[int]) -> None:
        assert (await watching(top, pilot)).store.prefix == "site"
        await pilot.press("q")

    run(only_one, prefix=None)
    make_layer("other")

    async def two(top: Top, pilot: Pilot[int]) -> None:
        assert isinstance(top.screen, Choosing)
        table = top.screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 2)
        assert [str(cell) for cell in table.get_row_at(0)][:3] == ["other", "mmap", "in use"]
        await pilot.press("enter")
        assert (await watching(top, pilot)).store.prefix == "other"
        await pilot.press("l")
        await until(pilot, lambda: isinstance(top.screen, Choosing))
        await pilot.click(table, offset=(3, 2))
        await pilot.click(table, offset=(3, 2))
        assert (await watching(top, pilot)).store.prefix == "site"
        await pilot.press("q")

    run(two, prefix=None)


def test_an_engine_that_does_not_tell_is_shown_by_its_counts(
    layer: SyncIPCChannelLayer, monkeypatch: pytest.MonkeyPatch, parent: Path
) -> None:
    kind = type(engine_of(layer))
    monkeypatch.setattr(kind, "capabilities", kind.capabilities._replace(inspects=False))

    async def use(top: Top, pilot: Pilot[int]) -> None:
        screen = await watching(top, pilot)
        await until(pilot, lambda: "5 pending" in shown(top, "figures"))
        assert "does not tell" in str(screen.query_one("#channels", Pane).border_title)
        await pilot.press("q")

    run(use)
