"""Texts that come from other machines and servers, as people may see them."""

from __future__ import annotations


def printable(text: str, most: int) -> str:
    """Return a text of at most ``most`` characters, without any that a terminal acts on.

    Every other character than printable ASCII becomes a question mark; a long text is cut.
    """
    some = text[: most + 1]
    shown = "".join(each if " " <= each <= "~" else "?" for each in some)
    return shown if len(shown) <= most else shown[: most - 4] + " ..."


def clause(text: str) -> str:
    """Return a text without its full stop, to be followed by more."""
    return text if text.endswith(" ...") else text.rstrip(".")


__all__ = ["clause", "printable"]
