"""What is printed: nothing that moves a cursor, and tables that fit the terminal."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Callable

import pytest

from asgi_ipc.cli import output
from asgi_ipc.cli.output import Column, age, count, printable, size, table

LONG = "x" * 30
COLUMNS = [Column("NAME"), Column("COUNT", True), Column("MORE", False, True)]
ROWS = [["a", "1", LONG], ["bcd", "1,000", "y"]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nb\r", r"a\nb\r"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff", r"\xff"),
        ("\ud800", r"\ud800"),
        ("naïve 漢", "naïve 漢"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("function", "number", "shown"),
    [
        (size, 0, "0 B"), (size, 1023, "1023 B"), (size, 1536, "1.5 KiB"),
        (size, 100 << 20, "100 MiB"), (size, 3 << 40, "3 TiB"), (size, None, ""),
        (age, 0.25, "0.2s"), (age, 59, "59s"), (age, 3600, "1h 0m"), (age, 90061, "1d 1h"),
        (age, None, ""), (count, 12345, "12,345"), (count, 0.5, "0.5"), (count, None, ""),
    ],
)  # fmt: skip
def test_numbers_for_people(
    function: Callable[[float | None], str], number: float | None, shown: str
) -> None:
    assert function(number) == shown


def test_a_table_that_goes_elsewhere_is_whole_and_plain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table(COLUMNS, [*ROWS, ["\x1b[0m", "", ""]])
    assert capsys.readouterr().out.splitlines() == [
        "NAME     COUNT  MORE",
        "a            1  " + LONG,
        "bcd      1,000  y",
        r"\x1b[0m",
    ]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (80, ["NAME  COUNT  MORE", "a         1  " + LONG, "bcd   1,000  y"]),
        (40, ["NAME  COUNT", "a         1", "bcd   1,000"]),
        (8, ["NAME: a", "COUNT: 1", f"MORE: {LONG}", "", "NAME: bcd", "COUNT: 1,000", "MORE: y"]),
    ],
)  # fmt: skip
def test_a_terminal_gets_what_fits(
    width: int,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(output, "terminal_width", lambda: width)
    monkeypatch.setenv("TERM", "dumb")
    table(COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines() == lines


def test_a_long_cell_is_cut_in_the_middle_where_a_table_fits_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    columns = [
        Column("PID", True),
        Column("MORE", is_optional=True),
        Column("COMMAND", is_cut=True),
    ]
    for width, shown in (
        (200, f"  1  y     {'a' * 30}{'z' * 30}"),
        (40, f"  1  {'a' * 12}…{'z' * 22}"),
        (20, f"COMMAND: {'a' * 30}{'z' * 30}"),
    ):
        monkeypatch.setattr(output, "terminal_width", lambda width=width: width)
        table(columns, [["1", "y", "a" * 30 + "z" * 30]])
        assert capsys.readouterr().out.splitlines()[-1] == shown


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_terminal_gets_colours_where_rich_is_installed(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    if not is_installed:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        table(COLUMNS, ROWS, ["", "red"])
        terminal.flush()
        shown = ""
        while "bcd" not in shown or not shown.endswith("\n"):
            shown += os.read(leader, 65536).decode()
    os.close(leader)
    assert "\x1b[31m" in shown or not is_installed
    assert ("\x1b[" in shown) is is_installed
    assert "1,000" in shown
