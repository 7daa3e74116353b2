"""The report for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from ..output import count

_MARKS = {True: "ok", False: "FAILS", None: "-"}
#: Of what the chosen engine can do without.
_OPTIONAL_MARKS = {True: "ok", False: "no", None: "-"}


def as_text(report: dict[str, Any]) -> str:
    """Return the report of `asgi_ipc.cli.doctor.examine` as text for people."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: dict[str, Any]) -> Iterator[str]:
    about = report["system"]
    yield f"asgi_ipc {report['asgi_ipc']}"
    yield f"  {about['platform']}, {about['machine']}, {about['bits']} bits, {about['libc']}"
    yield f"  {about['implementation']} {about['python']} ({about['executable']})"
    yield f"  user {about['user']}, group {about['group']}, {about['processors']} processors"
    yield "  " + ", ".join(
        f"{name} {version or 'not installed'}" for name, version in report["packages"].items()
    )
    yield ""
    yield "Limits"
    for name, value in report["limits"].items():
        yield f"  {name:<18} {'none or unknown' if value is None else f'{value:,}'}"
    yield ""
    yield "Directories of stores"
    for each in report["directories"]:
        yield f"  {each['path']} ({', '.join(each['engines'])}): {_space(each)}"
    yield ""
    yield "What the system offers"
    for each in report["primitives"]:
        where = f" in {each['where']}" if each["where"] else ""
        yield from _result(f"{each['title']}{where}", each)
    yield ""
    yield "Engines"
    for each in report["engines"]:
        chosen = " (chosen)" if each["name"] == report["engine"] else ""
        yield from _result(f"{each['name']}{chosen}", each | {"needed": bool(chosen)})
    yield ""
    store = report["store"]
    yield f"Store of prefix {report['prefix']!r} ({store['directory'] or 'nowhere'})"
    yield from _result("", store)
    if store["statistics"]:
        yield from _wrapped(
            ", ".join(f"{key} {count(n)}" for key, n in store["statistics"].items())
        )
    relay = store["relay"]
    if relay is not None:
        mark = "!" if relay["problems"] else "ok"
        yield from _wrapped(f"{mark:<6} relay to other machines: {relay['shown']}")
        for each in relay["problems"]:
            yield from _wrapped(f"       -> {each}")
    yield ""
    yield f"{_verdict(report)}."


def _verdict(report: dict[str, Any]) -> str:
    engine = report["engine"]
    if report["works"]:
        return f"Engine {engine} works here"
    if not any(each["works"] for each in report["engines"] if each["name"] == engine):
        return f"Engine {engine} does not work here"
    return f"Engine {engine} works here, but the store of prefix {report['prefix']!r} can't be used"


def _space(each: dict[str, Any]) -> str:
    if each["total"] is None:
        return "can't be inspected"
    mib = 1024 * 1024
    return (
        f"{each['type'] or 'unknown file system'}, {each['free'] / mib:,.1f} MiB free of "
        f"{each['total'] / mib:,.1f} MiB"
        + (", read-only" if each.get("read_only") else "")
        + ("" if each["exists"] is not False else ", does not exist yet")
    )


def _result(title: str, each: dict[str, Any]) -> Iterator[str]:
    said = each["detail"]
    mark = (_MARKS if each.get("needed", True) else _OPTIONAL_MARKS)[each["works"]]
    yield from _wrapped(f"{mark:<6} {title}{': ' if title and said else ''}{said}")
    if each["advice"]:
        yield from _wrapped(f"       -> {each['advice']}")


def _wrapped(text: str) -> Iterator[str]:
    indent = " " * 9
    for line in text.splitlines():
        yield from textwrap.wrap(
            line,
            width=99,
            initial_indent="  ",
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
