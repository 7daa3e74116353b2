"""The tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from .results import Figure, Key, Results
from .targets import Target


class Asked(Protocol):
    """What is shown of a question."""

    @property
    def name(self) -> str: ...
    @property
    def asks(self) -> str: ...


def show(console: Console, questions: Sequence[Asked], results: Results) -> None:
    """All answers: a table for each question, or several if it has answers of several kinds."""
    for question in questions:
        keys = [key for key in results.all_keys() if key.question == question.name]
        if not keys:
            continue
        console.print(f"\n[bold]{question.name}[/]: {question.asks}", highlight=False)
        for variants, numbers in _alike(results, keys):
            console.print(_table(question.name, variants, numbers, keys, results))


def _alike(results: Results, keys: Sequence[Key]) -> list[tuple[list[str], list[str]]]:
    """Variants that have the same numbers, and these."""
    numbers_of: dict[str, list[str]] = {}
    for key in keys:
        numbers = numbers_of.setdefault(key.variant, [])
        # Columns that say that nothing went wrong say nothing.
        if key.number not in numbers and not (
            key.number in ("not come", "twice") and not _ever(results, keys, key.number)
        ):
            numbers.append(key.number)
    found: dict[tuple[str, ...], list[str]] = {}
    for variant, numbers in numbers_of.items():
        found.setdefault(tuple(numbers), []).append(variant)
    return [(variants, list(numbers)) for numbers, variants in found.items()]


def show_targets(console: Console, results: Results, targets: Sequence[Target]) -> None:
    """What was to be reached, and what is, met or missed."""
    table = Table(show_edge=False)
    table.add_column("question")
    table.add_column("target: asgi_ipc", overflow="fold")
    table.add_column("bound", justify="right")
    table.add_column("reached", justify="right")
    table.add_column("")
    rows = 0
    for target in targets:
        value = target.reached(results)
        if value is None:
            continue
        met = target.is_met(value)
        table.add_row(
            target.question,
            target.says,
            ("≥ " if target.at_least else "≤ ") + short(target.bound),
            short(value),
            "[green]met[/]" if met else "[red]missed[/]",
        )
        rows += 1
    if rows:
        console.print("\n[bold]Targets[/], as ratios of this run where they compare two layers")
        console.print(table)


def show_failures(console: Console, results: Results) -> None:
    """What has no answer, and why."""
    for (question, variant, who), why in results.failures.items():
        last = why.strip().splitlines()[-1] if why.strip() else "for no reason that it told"
        console.print(f"[red]No answer[/] {question} {variant} {who}: {last}", markup=True)


def _table(
    question: str,
    variants: Sequence[str],
    numbers: Sequence[str],
    keys: Sequence[Key],
    results: Results,
) -> Table:
    table = Table(show_edge=False)
    table.add_column("who", no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", overflow="fold")
    for variant in variants:
        if variant:
            table.add_row(f"[bold]{variant}[/]")
        whos = sorted({key.who for key in keys if key.variant == variant}, key=_order)
        for who in whos:
            figures = [results.figure(question, variant, who, number) for number in numbers]
            table.add_row(who, *map(_cell, figures), end_section=who == whos[-1])
    return table


def _ever(results: Results, keys: Sequence[Key], number: str) -> bool:
    figures = [results.figure(*key) for key in keys if key.number == number]
    return any(figure.most > 0 for figure in figures if figure)


def _order(who: str) -> tuple[int, str]:
    groups = ("asgi_ipc posix", "asgi_ipc", "InMemory", "channels", "floor")
    return next((at for at, head in enumerate(groups) if who.startswith(head)), 9), who


def _cell(figure: Figure | None) -> str:
    """The median, and half of what is between the least and the most in percent of it."""
    if figure is None:
        return ""
    if figure.least == figure.most or not figure.median:
        return short(figure.median)
    spread = (figure.most - figure.least) / 2 / figure.median
    return f"{short(figure.median)} [dim]±{spread:.0%}[/]"


def short(value: float) -> str:
    """Three digits are enough."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def about(machine: dict[str, Any]) -> str:
    """Machine and versions in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; {versions}"
