"""A run of one of the programs here, from its first line to its last: the same for all."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from rich.console import Console

from . import machine, report
from .results import Results
from .targets import Target

#: Columns of a log, which says nothing of its width.
_WIDTH = 130


def begin() -> Console:
    """The terminal, or a log that is wide enough for the tables; SIGTERM is as Ctrl-C from now on,
    so that everything is taken down."""
    signal.signal(signal.SIGTERM, _interrupt)
    made = Console()
    return made if made.is_terminal else Console(width=_WIDTH)


@contextlib.contextmanager
def folder(prefix: str) -> Iterator[str]:
    """A folder until the end, in memory where there is such a file system: no layer shall wait for
    a disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=prefix, dir=memory) as made:
        yield made


class Outcome:
    """What a run comes to. Enter it with `with` to measure; what interrupts that ends it early."""

    def __init__(self, console: Console, server: str = "") -> None:
        self.results = Results()
        self._console = console
        self._machine = machine.description(server)
        self._loads: list[float | None] = []
        self._interrupted = False

    def __enter__(self) -> Results:
        self._console.print(report.about(self._machine), markup=False, highlight=False)
        self._loads.append(machine.load())
        return self.results

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> bool:
        self._interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if self._interrupted:
            self._console.print("Interrupted; this is what there is so far.")
        self._loads.append(machine.load())
        return self._interrupted

    def tell(
        self,
        questions: Sequence[report.Asked],
        targets: Sequence[Target],
        folder: str,
        facts: dict[str, Any],
    ) -> int:
        """Show all, and write it to ``results.json`` in a folder; the exit status.

        ``facts`` are how it was asked. A layer that is not ours may fail where it was not made for
        the question.
        """
        report.show(self._console, questions, self.results)
        report.show_targets(self._console, self.results, targets)
        report.show_failures(self._console, self.results)
        if facts.get("quick"):
            self._console.print("QUICK: too short to learn anything from, but that it works.")
        before, after = self._loads
        self._console.print(f"Load of the machine before and after: {before}, {after}")
        told = {"machine": self._machine, "load": self._loads, **facts, **self.results.as_json()}
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "results.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(told, file, indent=1, ensure_ascii=False)
        self._console.print(f"Written: {path}")
        failed = any("asgi_ipc" in who for _, _, who in self.results.failures)
        return 1 if failed or self._interrupted else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
