"""``drain``: wait until everything that is pending has been read."""

from __future__ import annotations

import sys
import time

import click

from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..joining import joined
from ..output import terminal_width, write, write_json
from ..pending import Unread, unread_in

#: Seconds between two lines of progress where the output is no terminal.
_EVERY = 5.0


@click.command("drain")
@on_store
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="wait no longer than that",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.01),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="time between two looks",
)
@as_json
def command(store: StoreChoice, timeout: float, interval: float, as_json: bool) -> int:
    """Wait until no message is pending.

    For an upgrade, for example. Counts the messages in the store, and those that processes have
    fetched and not yet given to a consumer. Stop what sends messages first. Shows progress.

    Exit status: 0 once nothing is pending, 1 if the time is over before.
    """
    start = time.monotonic()
    with joined(store, patience=False) as engine:
        progress = _Progress(as_json)
        while True:
            unread = unread_in(engine)
            passed = time.monotonic() - start
            if not unread.total or passed >= timeout:
                break
            progress.show(unread, passed)
            time.sleep(min(interval, timeout - passed))
        progress.end()
    if as_json:
        report = {"prefix": store.prefix, "drained": not unread.total, "seconds": passed}
        write_json(report | {"pending": unread.in_store, "held": unread.held})
    elif unread.total:
        write(f"{unread} after {passed:.1f} seconds; 'channels' shows where")
    else:
        write(f"nothing is pending ({passed:.1f} seconds)")
    return 1 if unread.total else 0


class _Progress:
    """Progress on the standard error: one line that is rewritten, or a line now and then."""

    def __init__(self, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._is_terminal = sys.stderr.isatty() and terminal_width() is not None
        self._last = -_EVERY
        self._shown = False

    def show(self, unread: Unread, passed: float) -> None:
        if self._is_quiet:
            return
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[K{unread}, {passed:.0f} s")
            self._shown = True
        elif passed - self._last >= _EVERY:
            self._last = passed
            sys.stderr.write(f"{unread}, {passed:.0f} s\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


__all__ = ["command"]
