"""``group-send``: one message to a group, by hand."""

from __future__ import annotations

import click

from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..joining import layer_on
from ..messages import expiry, message_from, with_expiry
from ..output import write, write_json


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
    it from the standard input. A channel that is full is skipped, and a warning names it.

    Exit status: 1 if the group has no channels.
    """
    content = message_from(message)
    try:
        with layer_on(with_expiry(store, expiry)) as layer:
            channels = layer.group_channels(group)
            layer.group_send(group, content)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        write_json({"group": group, "channels": len(channels)})
    elif channels:
        write(f"sent to {len(channels)} channels")
    else:
        write(f"group {group!r} has no channels")
    return 0 if channels else 1


__all__ = ["command"]
