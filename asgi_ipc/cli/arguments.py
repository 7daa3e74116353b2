"""What the commands of the command line ask alike: which engine, with which options."""

from __future__ import annotations

import argparse
import ast
from typing import Any


def add_engine_arguments(parser: argparse.ArgumentParser, what_for: str) -> None:
    """``--engine``, and ``--engine-option``, which gives a list of pairs."""
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
        type=_pair,
        metavar="KEY=VALUE",
        help="an engine option; VALUE is a Python literal, or else a string",
    )


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


__all__ = ["add_engine_arguments"]
