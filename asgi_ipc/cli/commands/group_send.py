"""``group-send``: one message to a group, by hand."""

from __future__ import annotations

import click

from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..joining import joined, layer_over
from ..messages import expiry, message_from, with_expiry
from ..output import write, write_json
from ..reach import note_only_here, reaches_all


@click.command("group-send")
@on_store
@click.argument("group")
@click.argument("message")
@expiry
@as_json
def command(
    store: StoreChoice, group: str, message: str, expiry: float | None, as_json: bool
) -> int:
    """Send a MESSAGE to each channel in GROUP.

    MESSAGE is a JSON object, such as '{"type": "news.flash", "text": "It works"}', or - to read
    it from the standard input. A channel that is full is skipped, and a warning names it. On a
    store that a relay joins to others it reaches this machine alone, unless the settings of the
    site name the relay (manage.py asgi_ipc).

    Exit status: 1 if the group has no channels on any machine that it reaches, as far as is known.
    """
    content = message_from(message)
    try:
        with joined(store) as engine, layer_over(engine, with_expiry(store, expiry)) as layer:
            channels = layer.group_channels(group)
            layer.group_send(group, content)
            note_only_here(engine, store, "sent", "group-send")
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        write_json({"group": group, "channels": len(channels)})
    elif reaches_all(store):
        write(f"sent to {len(channels)} channels of this machine, and on to other machines")
    elif channels:
        write(f"sent to {len(channels)} channels")
    else:
        write(f"group {group!r} has no channels")
    # Nothing is known of the group's channels on other machines.
    return 0 if channels or reaches_all(store) else 1


__all__ = ["command"]
