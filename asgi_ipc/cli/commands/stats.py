"""``stats``: all counts of a store, and their rates."""

from __future__ import annotations

import sys
import time

import click

from ...encoding.names import channel_name
from ...engines.base import Engine
from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..inspecting import UNUSED, is_unused
from ..joining import hint_if_slow, joined, layer_over, statistics_of
from ..output import (
    Column,
    age,
    count,
    note,
    size,
    table,
    terminal_width,
    write,
    write_json,
    write_json_line,
)

#: Counts of what there is now.
_NOT_GROWING = {"channels_count", "memberships_count", "processes_count", "held_count"}


@click.command("stats")
@on_store
@click.option(
    "--channel", metavar="CHANNEL", help="the counts of one channel, up to its '!', alone"
)
@click.option(
    "--watch",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="show them again every so often, with rates a second, until Ctrl-C",
)
@click.option("--count", "times", type=click.IntRange(min=1), metavar="N", help="show them N times")
@as_json
def command(
    store: StoreChoice,
    channel: str | None,
    watch: float | None,
    times: int | None,
    as_json: bool,
) -> int:
    """Show all counts of the store of PREFIX.

    They are those of the layer's global_statistics(), by the same names and in the same units:
    bytes, and seconds. This command is not counted among the processes. With --watch and --json,
    prints one object a line, and its key "rates" has the change a second of each count that grows.
    """
    if times is not None and watch is None:
        raise click.UsageError("--count goes with --watch")
    shown = 0
    before: dict[str, float] = {}
    last = 0.0
    try:
        with (
            joined(store, stays=True) as engine,
            layer_over(engine, store) as layer,
        ):
            while True:
                with hint_if_slow():
                    counts = layer.channel_statistics(channel) if channel else statistics_of(layer)
                    is_unknown = (channel and not shown and not any(counts.values())) and _lacks(
                        engine, channel
                    )
                if is_unknown:
                    note(
                        f"channel {channel!r} is not in the store: the name is wrong, or it was "
                        "not used for some time; 'channels' lists those that are there"
                    )
                now = time.monotonic()
                rates = rates_of(before, counts, now - last) if before else {}
                _show(counts, rates, as_json, watch is not None)
                before, last = counts, now
                shown += 1
                if watch is None or shown == times:
                    if not as_json and counts.get("memberships_count") and is_unused(engine):
                        note(UNUSED)
                    return 0
                time.sleep(watch)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def _lacks(engine: Engine, channel: str) -> bool:
    """Whether a channel is certainly not in the store."""
    name = channel_name(channel).queue
    return engine.capabilities.inspects and all(each.name != name for each in engine.queues())


def rates_of(
    before: dict[str, float], counts: dict[str, float], seconds: float
) -> dict[str, float]:
    """Return the change a second of each count that only ever grows."""
    return {
        key: (counts[key] - before[key]) / seconds
        for key in counts
        if (key.endswith("_count") or key == "recoveries")
        and key not in _NOT_GROWING
        and key in before
    }


def _show(
    counts: dict[str, float], rates: dict[str, float], as_json: bool, is_watched: bool
) -> None:
    if as_json:
        if is_watched:
            write_json_line(counts | {"time": time.time(), "rates": rates})
        else:
            write_json(counts)
        return
    if is_watched and terminal_width() is not None:
        click.clear()
    elif rates:
        write()
    columns = [Column("COUNT"), Column("VALUE", True), *[Column("A SECOND", True)] * bool(rates)]
    rows = []
    for key, value in counts.items():
        row = [key, readable(key, value)]
        if rates:
            row.append(f"{rates[key]:,.1f}" if key in rates else "")
        rows.append(row)
    table(columns, rows)
    sys.stdout.flush()


def readable(key: str, value: float) -> str:
    """Return a statistic for people, by what its name says of its unit."""
    if "bytes" in key:
        return f"{count(value)} ({size(value)})" if value >= 1024 else count(value)
    if key.endswith("_age"):
        return age(value)
    return count(value)


__all__ = ["command", "rates_of", "readable"]
