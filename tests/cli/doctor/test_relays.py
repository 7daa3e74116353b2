"""The doctor tells how the relay of a store fares."""

from __future__ import annotations

from pathlib import Path

from asgi_ipc.cli.doctor.engines import look_at_store
from asgi_ipc.cli.doctor.text import as_text
from tests.tools.machines import Site, eventually, run


def test_the_relay_of_a_store_is_told_with_what_needs_a_person(tmp_path: Path) -> None:
    site = Site(tmp_path)

    async def main() -> None:
        (machine,) = await site.joined(1)
        await eventually(lambda: machine.report().get("state") == "connected")
        options = {"directory": str(machine.folder)}
        found = look_at_store("mmap", "site", options)
        assert found["works"]
        assert found["relay"] == {"state": "connected", "shown": "connected", "problems": []}
        site.server.go_away()
        await eventually(lambda: machine.report().get("state") == "away")
        found = look_at_store("mmap", "site", options)
        assert found["works"], "the store does"
        assert found["relay"]["state"] == "away"
        (problem,) = found["relay"]["problems"]
        assert problem.startswith("the server has not been reached for")
        lines = as_text(report_with(found)).splitlines()
        assert any("!      relay to other machines: away for" in line for line in lines)
        assert any("-> the server has not been reached" in line for line in lines)

    run(main)
    site.destroy()


def report_with(store: dict[str, object]) -> dict[str, object]:
    """A report that has nothing but a store."""
    return {
        "asgi_ipc": "2",
        "engine": "mmap",
        "prefix": "site",
        "works": True,
        "system": dict.fromkeys(
            ["platform", "machine", "bits", "libc", "implementation", "python", "executable"],
            "",
        )
        | {"user": "", "group": "", "processors": 2},
        "packages": {},
        "limits": {},
        "directories": [],
        "primitives": [],
        "engines": [],
        "store": store,
    }
