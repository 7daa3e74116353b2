"""What commands print: tables for people, JSON for scripts, and nothing that moves a cursor.

A table is plain text. On a terminal it is coloured if the package rich is installed (extra
``cli``), and a table that is too wide for the terminal becomes one line for each value.
"""

from __future__ import annotations

import heapq
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

_Row = TypeVar("_Row", bound=tuple[Any, ...])

#: Between two columns.
_GAP = 2
#: Characters that are left of a cell that is cut.
_LEAST = 20


def printable(text: str, keep: str = "") -> str:
    """Return text with each character escaped that is not printable, but those in ``keep``.

    Names in a store may have been written by another program: they must not move the cursor,
    change colours, or turn the direction of the text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # A byte that was no text, as Python keeps it in names of files.
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def write(text: str = "") -> None:
    """Print a line to people; control characters in it are escaped."""
    sys.stdout.write(printable(text) + "\n")


def write_json(value: Any) -> None:
    """Print a value as JSON, in ASCII."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_json_line(value: Any) -> None:
    """Print a value as JSON on one line, at once."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line for people to the standard error."""
    sys.stderr.write(printable(text, keep="\n") + "\n")
    sys.stderr.flush()


# ---- tables


class Column(NamedTuple):
    """A column of a table."""

    title: str
    #: Numbers are aligned to the right.
    is_number: bool = False
    #: Left out where the terminal is too narrow for all, the last such column first.
    is_optional: bool = False
    #: Its cells are cut in the middle, to `_LEAST` or more, if the table then fits.
    is_cut: bool = False


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], styles: Sequence[str] = ()
) -> None:
    """Print a table: plain, coloured, or with one line for each value.

    ``styles`` are those of rich, one for each row.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max(len(column.title), *(len(row[at]) for row in cells), 0)
        for at, column in enumerate(columns)
    ]
    width = terminal_width()
    if width is not None:
        _cut(columns, cells, widths, width)
    dropped = _dropped(columns, widths, width)
    if dropped:
        columns = [each for at, each in enumerate(columns) if at not in dropped]
        widths = [each for at, each in enumerate(widths) if at not in dropped]
        cells = [[cell for at, cell in enumerate(row) if at not in dropped] for row in cells]
    if width is not None and _total(widths) > width:
        _one_line_each(columns, cells)
    elif not (width is not None and _rich_table(columns, cells, styles)):
        for line in [[column.title for column in columns], *cells]:
            write(_line(columns, widths, line))


def _cut(columns: Sequence[Column], cells: list[list[str]], widths: list[int], width: int) -> None:
    """Shorten the cells of columns that may be cut, as much as the other needed ones leave."""
    for at, column in enumerate(columns):
        if not column.is_cut:
            continue
        needed = [each for n, each in enumerate(widths) if n == at or not columns[n].is_optional]
        room = widths[at] - (_total(needed) - width)
        if _LEAST <= room < widths[at]:
            for row in cells:
                row[at] = _shortened(row[at], room)
            widths[at] = room


def _shortened(text: str, length: int) -> str:
    end = (length - 1) * 2 // 3
    return text if len(text) <= length else f"{text[: length - 1 - end]}…{text[-end:]}"


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _dropped(columns: Sequence[Column], widths: Sequence[int], width: int | None) -> set[int]:
    """Return the columns to leave out, as few as will do; none if all of them would not do."""
    dropped: set[int] = set()
    optional = [at for at, each in enumerate(columns) if each.is_optional]
    while width is not None:
        left = [each for at, each in enumerate(widths) if at not in dropped]
        if _total(left) <= width:
            return dropped
        if not optional:
            break
        dropped.add(optional.pop())
    return set()


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> str:
    parts = [
        cell.rjust(width) if column.is_number else cell.ljust(width)
        for column, width, cell in zip(columns, widths, cells, strict=True)
    ]
    return (" " * _GAP).join(parts).rstrip()


def _one_line_each(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    if len(columns) == 2:
        for name, value in rows:
            write(f"{name}: {value}")
        return
    for number, row in enumerate(rows):
        if number:
            write()
        for column, cell in zip(columns, row, strict=True):
            if cell:
                write(f"{column.title}: {cell}")


def _rich_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], styles: Sequence[str]
) -> bool:
    """Print a table with rich; False if that is not installed, or the terminal is too simple."""
    if os.environ.get("TERM", "") in ("", "dumb"):
        return False
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    shown = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(
            Text(column.title), justify="right" if column.is_number else "left", no_wrap=True
        )
    for number, row in enumerate(rows):
        shown.add_row(*map(Text, row), style=styles[number] if styles else "")
    Console(highlight=False, soft_wrap=True).print(shown)
    return True


def terminal_width() -> int | None:
    """Return the columns of the terminal that the output goes to; None if it goes elsewhere."""
    try:
        is_terminal = sys.stdout.isatty()
    except ValueError:
        return None
    return shutil.get_terminal_size().columns if is_terminal else None


# ---- numbers for people


def count(number: float | None) -> str:
    """Return a number for people: ``12,345``; empty for None."""
    if number is None:
        return ""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"


def size(number: float | None) -> str:
    """Return a number of bytes for people: ``1.5 MiB``; empty for None."""
    if number is None:
        return ""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1024 and len(units) > 1:
        number /= 1024
        del units[0]
    # 100 MiB, and not 100.0 MiB.
    return f"{number:.{0 if number == int(number) else 1}f} {units[0]}"


_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def age(seconds: float | None) -> str:
    """Return a time for people, by its two largest units: ``3h 20m``; empty for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f}s"
    left = int(seconds)
    parts: list[str] = []
    for unit, length in _UNITS:
        if left >= length or (parts and len(parts) < 2):
            parts.append(f"{left // length}{unit}")
            left %= length
        if len(parts) == 2:
            break
    return " ".join(parts)


def ordered(rows: Iterable[_Row], key: str, limit: int | None) -> list[_Row]:
    """Return named tuples sorted by one field: numbers the largest first, text alphabetically.

    Those that are equal in it are sorted by their first field.
    """

    def rank(row: _Row) -> tuple[float, str, str]:
        value = getattr(row, key)
        first = str(row[0])
        return (-value, "", first) if isinstance(value, (int, float)) else (0, str(value), first)

    if limit is None:
        return sorted(rows, key=rank)
    return heapq.nsmallest(limit, rows, key=rank)


__all__ = [
    "Column",
    "age",
    "count",
    "note",
    "ordered",
    "printable",
    "size",
    "table",
    "terminal_width",
    "write",
    "write_json",
    "write_json_line",
]
