"""How the options of a layer differ from those of the relay that runs for its store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .attempt import attempt
from .choice import StoreChoice
from .joining import joined

#: Seconds for the look.
_PATIENCE = 5.0


def differences_of(choice: StoreChoice, relay: Mapping[str, Any]) -> list[str]:
    """Return how ``relay``, ``relay_options`` and ``relay_channels`` differ from what is used.

    What is used by the relay that runs, or else by processes of the site; nothing if that can't be
    told. Joins the store in a process of its own, which ends with a time limit.
    """
    from ..layers.relays import used_by_relay
    from ..relay.agreement import as_noted, differences
    from ..relay.options import checked

    mine = as_noted(checked(prefix=choice.prefix, channel_memory=0, **relay).used)

    def look() -> str:
        with joined(choice, patience=False) as engine:
            other = used_by_relay(engine)
        return json.dumps([] if other is None else differences(mine, other))

    found = attempt(look, patience=_PATIENCE)
    return list(json.loads(found["detail"])) if found["works"] else []


__all__ = ["differences_of"]
