"""The tables of channels, groups and processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rich.text import Text
from textual.widgets import DataTable

from ..output import age, count, printable, size
from .look import MOST, Order, Rows


class Column(NamedTuple):
    """A column of a pane."""

    title: str
    #: Field of a row that it is sorted by.
    key: str
    shown: Callable[[Any, dict[str, float]], str]
    is_number: bool = True
    #: Columns that the pane must have for it.
    least: int = 0


class Kind(NamedTuple):
    """What a pane shows."""

    name: str
    columns: tuple[Column, ...]
    #: The field of which the rate is shown, if any.
    rate: str = ""


def _rate(row: Any, rates: dict[str, float]) -> str:
    return count(rates[row[0]]) if row[0] in rates else ""


KINDS = (
    Kind(
        "channels",
        (
            Column("PENDING", "pending", lambda row, _: count(row.pending)),
            Column("OLDEST", "oldest_age", lambda row, _: age(row.oldest_age or None)),
            Column("IN/S", "pushed", _rate, least=60),
            Column("MEMORY", "bytes", lambda row, _: size(row.bytes), least=80),
            Column("REFUSED", "refused", lambda row, _: count(row.refused), least=90),
            Column(
                "READER",
                "reader",
                lambda row, _: " ".join(filter(None, (row.reader, "waits" * row.waiting))),
                False,
                least=70,
            ),
            Column("CHANNEL", "name", lambda row, _: row.name, False),
        ),
        "pushed",
    ),
    Kind(
        "groups",
        (
            Column("MEMBERS", "members", lambda row, _: count(row.members)),
            Column("SUSPENDED", "suspended", lambda row, _: count(row.suspended), least=50),
            Column("GROUP", "name", lambda row, _: row.name, False),
        ),
    ),
    Kind(
        "processes",
        (
            Column("PID", "pid", lambda row, _: str(row.pid or "?")),
            Column("HELD", "held", lambda row, _: count(row.held)),
            Column("DROPPED", "dropped", lambda row, _: count(row.dropped)),
            Column("IN/S", "fetched", _rate, least=60),
            Column("MEMORY", "held_bytes", lambda row, _: size(row.held_bytes), least=80),
            Column("BYPASSED", "passed_directly", lambda row, _: count(row.passed_directly),
                   least=100),
            Column("JOINED", "joined_age", lambda row, _: age(row.joined_age), least=90),
            Column("WAITS", "waits", lambda row, _: count(row.waits), least=50),
            Column("WAITS FOR", "waits_for", lambda row, _: _few(row.waits_for), False, least=140),
            Column("COMMAND", "command", lambda row, _: row.command, False),
        ),
        "fetched",
    ),
)  # fmt: skip


def _few(names: tuple[str, ...]) -> str:
    """Return names, those of one process shortened to what tells them apart."""
    shown = [each if len(each) <= 24 else f"{each[:14]}…{each[-5:]}" for each in names[:2]]
    return ", ".join(shown) + (f" +{len(names) - 2}" if len(names) > 2 else "")


class Pane(DataTable[Text]):
    """One table. Keeps its cursor on the row it is on while rows come and go."""

    def __init__(self, kind: Kind, order: Order) -> None:
        super().__init__(
            id=kind.name, cursor_type="row", zebra_stripes=True, cell_padding=1, classes="pane"
        )
        self.kind = kind
        self.order = order
        self._found: Rows | None = None
        self._rates: dict[str, float] = {}
        self._before: tuple[float, dict[str, int]] | None = None
        self._shown: tuple[Any, ...] = ()

    # ---- what is shown

    def update_rows(self, found: Rows | None, taken: float, is_same_store: bool) -> None:
        """Show what a look found; None if the engine does not tell."""
        if self.kind.rate and found is not None:
            values = {row[0]: getattr(row, self.kind.rate) for row in found.rows}
            self._rates = {}
            if is_same_store and self._before is not None and taken > self._before[0]:
                at, before = self._before
                self._rates = {
                    name: max(0.0, (value - before[name]) / (taken - at))
                    for name, value in values.items()
                    if name in before
                }
            self._before = taken, values
        self._found = found
        self.show_rows()

    def show_rows(self) -> None:
        """Show the rows in the columns that there is room for."""
        found = self._found
        width = self.size.width
        columns = [each for each in self.kind.columns if each.least <= width]
        cells = [
            [_cell(each, each.shown(row, self._rates)) for each in columns]
            for row in (found.rows if found else ())
        ]
        self.border_title = self._title(found)
        signature = (tuple(columns), self.order, cells)
        if signature == self._shown:
            return
        at, left, top = self._cursor_name(), self.scroll_x, self.scroll_y
        if signature[:2] != self._shown[:2]:
            self.clear(columns=True)
            for column in columns:
                self.add_column(self._header(column), key=column.key)
        else:
            self.clear()
        self._shown = signature
        for row, line in zip(found.rows if found else (), cells, strict=True):
            self.add_row(*line, key=row[0])
        if at is not None and at in self.rows:
            self.move_cursor(row=self.get_row_index(at), animate=False, scroll=False)
        self.scroll_to(left, top, animate=False, immediate=True)

    def _cursor_name(self) -> str | None:
        if not self.rows or not self.is_valid_row_index(self.cursor_row):
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    def _title(self, found: Rows | None) -> Text:
        title = f" {self.kind.name} "
        if found is None:
            return Text(f"{title}(this engine does not tell) " if self._shown else title)
        shown = f"{title}{count(found.matching)}"
        if found.matching != found.total:
            shown += f" of {count(found.total)} with '{printable(self.order.text)}'"
        if len(found.rows) < found.matching:
            shown += f", the first {MOST}"
        return Text(f"{shown} ")

    def _header(self, column: Column) -> Text:
        mark = ""
        if column.key == self.order.key:
            mark = " ▲" if self.order.is_reversed == (column.is_number) else " ▼"
        return Text(column.title + mark, justify="right" if column.is_number else "left")

    # ---- what is asked for

    def sort_by(self, key: str) -> None:
        """Sort by a column; by the same one again, the other way round."""
        is_same = key == self.order.key
        self.order = self.order._replace(
            key=key, is_reversed=is_same and not self.order.is_reversed
        )

    def sort_by_next(self) -> None:
        """Sort by the next of the columns that are shown."""
        keys = [each.key for each in self.kind.columns if each.least <= self.size.width]
        at = keys.index(self.order.key) if self.order.key in keys else -1
        self.order = self.order._replace(key=keys[(at + 1) % len(keys)], is_reversed=False)


def _cell(column: Column, text: str) -> Text:
    return Text(printable(text), justify="right" if column.is_number else "left", no_wrap=True)


__all__ = ["KINDS", "Pane"]
