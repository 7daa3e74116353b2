"""``send``: one message to a channel, by hand."""

from __future__ import annotations

import click

from ...exceptions import ChannelFull
from ..arguments import as_json, on_store
from ..choice import StoreChoice
from ..joining import joined, layer_over
from ..messages import expiry, message_from, with_expiry
from ..output import write, write_json
from ..reach import note_if_elsewhere


@click.command("send")
@on_store
@click.argument("channel")
@click.argument("message")
@expiry
@as_json
def command(
    store: StoreChoice, channel: str, message: str, expiry: float | None, as_json: bool
) -> int:
    """Send a MESSAGE to CHANNEL.

    MESSAGE is a JSON object, such as '{"type": "news.flash", "text": "It works"}', or - to read
    it from the standard input. {"$bytes": "aGVsbG8="} stands for bytes, in base64.

    Exit status: 1 if the channel or the store is full.
    """
    content = message_from(message)
    refused = ""
    try:
        with joined(store) as engine, layer_over(engine, with_expiry(store, expiry)) as layer:
            layer.send(channel, content)
            note_if_elsewhere(engine, store, channel)
    except ChannelFull as error:
        refused = str(error)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        write_json({"channel": channel, "sent": not refused, "reason": refused or None})
    else:
        write(refused or "sent")
    return 1 if refused else 0


__all__ = ["command"]
