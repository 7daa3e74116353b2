"""``drain``: wait until everything that is pending has been read."""

from __future__ import annotations

import sys
import time

import click

from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..joining import hint_if_slow, joined
from ..limits import GRACE, STOPPED, TooLate, end_at_once, limit
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

    Exit status: 0 once nothing is pending, 1 if the time is over before. It is over a second later
    if a look at the store takes so long, as a stopped process holds its lock.
    """
    start = time.monotonic()
    progress = _Progress(as_json)
    try:
        with limit(timeout + GRACE):
            unread = _wait(store, start, timeout, interval, progress)
    except TooLate as late:
        progress.end()
        _report(store.prefix, time.monotonic() - start, None, as_json)
        if late.is_joined:
            end_at_once(1)
        return 1
    progress.end()
    _report(store.prefix, time.monotonic() - start, unread, as_json)
    return 1 if unread.total else 0


def _wait(
    store: StoreChoice, start: float, timeout: float, interval: float, progress: _Progress
) -> Unread:
    """Return what is unread at the end."""
    with joined(store, stays=True) as engine:
        while True:
            with hint_if_slow():
                unread = unread_in(engine)
            passed = time.monotonic() - start
            if not unread.total or passed >= timeout:
                return unread
            progress.show(unread, passed)
            time.sleep(min(interval, timeout - passed))


def _report(prefix: str, passed: float, unread: Unread | None, as_json: bool) -> None:
    """Print the end; ``unread`` is None if the last look at the store got no answer."""
    reason = f"no answer from the store after {passed:.1f} seconds; {STOPPED}"
    if as_json:
        write_json(
            {
                "prefix": prefix,
                "drained": unread is not None and not unread.total,
                "seconds": passed,
                "pending": unread and unread.in_store,
                "held": unread and unread.held,
                "on_the_way_out": unread and unread.on_the_way_out,
                "reason": None if unread else reason,
            }
        )
    elif unread is None:
        write(reason)
    elif unread.total:
        write(f"{unread} after {passed:.1f} seconds; {unread.where}")
    else:
        write(f"nothing is pending ({passed:.1f} seconds)")


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
