"""The options that commands share: which engine, with which engine options."""

from __future__ import annotations

import argparse
from typing import Any


def add_engine_arguments(parser: argparse.ArgumentParser, what_for: str) -> None:
    """Add ``--engine``, and ``--engine-option``, whose value is a list of pairs."""
    parser.add_argument(
        "--engine",
        default="posix",
        metavar="NAME",
        help=f"{what_for}: a name or 'package.module:Class' (default: posix)",
    )
    parser.add_argument(
        "--engine-option",
        action="append",
        default=[],
        type=engine_option,
        metavar="KEY=VALUE",
        help="an engine option; VALUE is a Python literal, or else a string",
    )


def engine_option(text: str) -> tuple[str, Any]:
    """Parse ``KEY=VALUE``, where VALUE is a Python literal, or else a string.

    Raises `argparse.ArgumentTypeError` for text of another form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as mode=0o660")
    # Imported late, as most commands are called without engine options.
    import ast

    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


__all__ = ["add_engine_arguments", "engine_option"]
