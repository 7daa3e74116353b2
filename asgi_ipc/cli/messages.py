"""Messages between people and stores: as JSON, which knows neither bytes nor every float.

``{"$bytes": "aGVsbG8="}`` stands for bytes, in base64, and ``{"$float": "nan"}`` for a float that
JSON lacks; so what `peek` prints can be sent again.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import sys
from typing import Any

import click

from .choice import StoreChoice

_BYTES, _FLOAT = "$bytes", "$float"
_EXAMPLE = """pass an object, such as '{"type": "hello"}'"""
#: The option of commands that send.
expiry = click.option(
    "--expiry",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="drop the message if it is unread after that time (default: the layer's, 60)",
)


def with_expiry(store: StoreChoice, seconds: float | None) -> StoreChoice:
    """Return the store with the option ``--expiry``, if it was given."""
    if seconds is None:
        return store
    return store._replace(layer_options={**store.layer_options, "expiry": seconds})


def message_from(text: str) -> dict[str, Any]:
    """Parse a message that a user gave as JSON, or as ``-`` for the standard input.

    Raises `click.UsageError` for anything but a JSON object.
    """
    if text == "-":
        text = sys.stdin.read()
    try:
        found = json.loads(text, object_hook=_special)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"the message is not JSON ({error}); {_EXAMPLE}") from error
    if not isinstance(found, dict):
        raise click.UsageError(f"the message is {shown(jsonable(found))[:60]}; {_EXAMPLE}")
    return found


def _special(found: dict[str, Any]) -> Any:
    if len(found) != 1:
        return found
    ((key, value),) = found.items()
    if key == _BYTES and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{value!r} is not base64: {error}") from error
    return float(value) if key == _FLOAT and isinstance(value, str) else found


def jsonable(value: Any) -> Any:
    """Return a message, or a part of one, as what JSON can carry."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if isinstance(value, (set, frozenset)):
        return [jsonable(item) for item in value]
    if not isinstance(value, (str, int, float, type(None))):
        return str(value)  # Of serializer "extended": a Decimal, a date, a UUID.
    return value


def shown(message: Any) -> str:
    """Return a message for people, on one line."""
    return json.dumps(message, ensure_ascii=False)


__all__ = ["expiry", "jsonable", "message_from", "shown", "with_expiry"]
