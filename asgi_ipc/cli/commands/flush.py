"""``flush``: empty a store."""

from __future__ import annotations

import click

from ...encoding.names import RELAY_ROLE
from ..arguments import as_json, force, on_store, yes
from ..choice import StoreChoice
from ..finding import is_over_shared_memory, locate
from ..joining import hint_if_slow, joined, layer_over
from ..output import note, write, write_json
from ..precautions import confirm, refuse_if_in_use, refuse_if_others
from ..reach import reaches_all, server_of

_LOST = "all messages and memberships would be lost, and consumers do not rejoin by themselves"


@click.command("flush")
@on_store
@yes
@force
@as_json
def command(store: StoreChoice, yes: bool, force: bool, as_json: bool) -> int:
    """Empty the store of PREFIX.

    Removes all messages and memberships. Refuses a store that processes use, unless --force is
    given: their consumers do not rejoin their groups by themselves, so restart the processes
    afterwards. Of stores that a relay joins it empties this machine's, and those of all machines if
    the settings of the site name the relay (manage.py asgi_ipc flush --force).
    """
    if is_over_shared_memory(store):
        refuse_if_in_use(locate(store), force, _LOST)
    from ...layers.inspection import statistics

    with joined(store, stays=True) as engine:
        if not is_over_shared_memory(store):
            refuse_if_others(engine, force, _LOST)
        with hint_if_slow():
            counts = statistics(engine)
        messages, memberships = counts["messages_pending"], counts["memberships_count"]
        question = (
            f"Remove {messages:,} messages and {memberships:,} memberships from {store.prefix!r}?"
        )
        if not confirm(question, yes):
            return 1
        if reaches_all(store) and engine.is_held(RELAY_ROLE):
            with layer_over(engine, store) as layer:
                layer.flush()
        else:
            url = server_of(engine)
            with hint_if_slow():
                engine.flush()
            if reaches_all(store):
                note("no process of this machine relays, so other machines were not flushed")
            elif url:
                note(
                    f"flushed this machine alone, and {url} joins its store to those of others; to"
                    " flush all machines, use 'manage.py asgi_ipc flush --force', or flush() of a"
                    " layer with the option relay"
                )
    if as_json:
        write_json({"prefix": store.prefix, "messages": messages, "memberships": memberships})
    else:
        write(f"removed {messages:,} messages and {memberships:,} memberships")
    return 0


__all__ = ["command"]
