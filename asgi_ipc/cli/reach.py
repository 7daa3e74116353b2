"""Which machines a command reaches, on a store that a relay joins to those of others.

The settings of a site have the option ``relay``, so ``manage.py asgi_ipc`` reaches all machines as
the site does. ``asgi-ipc PREFIX`` knows this machine's store alone, and prints that.
"""

from __future__ import annotations

from ..encoding.names import channel_name
from ..engines.base import NODE_BYTES, Engine
from .choice import StoreChoice
from .output import note

#: Nanoseconds for which a store counts as joined after the last sign of its relay.
_LATELY = 3600 * 1_000_000_000


def server_of(engine: Engine) -> str:
    """Return the URL of the server that joins the store to others, or ``""`` if none does."""
    if not engine.capabilities.roles:
        return ""
    # Imported late, as most stores are joined to no other.
    from ..relay.report import read

    found = read(engine)
    if found is None or not (found.is_held or found.age < _LATELY):
        return ""
    return str(found.content.get("url", "?"))


def reaches_all(choice: StoreChoice) -> bool:
    """Return whether the store was chosen by settings with the option ``relay``."""
    return choice.layer_options.get("relay") is not None


def note_only_here(engine: Engine, choice: StoreChoice, what: str, command: str) -> None:
    """Print that a command did, or does, something on this machine alone, if there are others.

    ``what`` is the beginning of a sentence, which goes on "on this machine alone".
    """
    url = "" if reaches_all(choice) else server_of(engine)
    if url:
        note(
            f"{what} on this machine alone, and {url} joins its store to those of others; to reach"
            f" all machines, use 'manage.py asgi_ipc {command}', or a layer with the option relay"
        )


def note_if_elsewhere(engine: Engine, choice: StoreChoice, channel: str) -> None:
    """Print that a message to a channel may not be where it is received, if that is so."""
    url = "" if reaches_all(choice) else server_of(engine)
    if not url:
        return
    owner = channel_name(channel).owner
    remedy = "send with 'manage.py asgi_ipc send', or a layer with the option relay"
    if owner and owner[:NODE_BYTES] != engine.identity[:NODE_BYTES]:
        note(f"channel {channel} is one of another machine, so no process gets this; {remedy}")
    elif "!" not in channel:
        note(
            f"the message lies on this machine, and {url} joins its store to those of others; if"
            f" the site shares channel {channel} (relay_channels), {remedy}"
        )


__all__ = ["note_if_elsewhere", "note_only_here", "reaches_all", "server_of"]
