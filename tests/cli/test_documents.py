"""docs/commands.md: every command, option and key of JSON is there, and no other."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import pytest

from asgi_ipc.cli.listing import Entry
from asgi_ipc.cli.main import COMMANDS
from asgi_ipc.engines.base import COUNTERS, GAUGES
from asgi_ipc.layers.inspection import ChannelInfo, MessageInfo, ProcessInfo

TEXT = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
#: Options that the document explains for all commands.
SHARED = {"--engine", "--engine-option", "--directory", "--json", "--help"}
PROCESS = [name for name in ProcessInfo._fields if name != "counts"]


def section(name: str) -> str:
    return TEXT.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_every_command_has_a_line_and_a_section_in_the_order_of_the_list() -> None:
    assert re.findall(r"^\| \[`([\w-]+)`\]\(#", TEXT, re.M) == list(COMMANDS)
    headings = re.findall(r"^## ([\w-]+)$", TEXT, re.M)
    assert [each for each in headings if each in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    command: click.Command = import_module(COMMANDS[name]).command
    known = {
        option
        for each in command.params
        if isinstance(each, click.Option)
        for option in each.opts
        if option.startswith("--")
    }
    named = set(re.findall(r"--[a-z][\w-]+", section(name)))
    assert known - SHARED - named == set()
    assert named - known - SHARED - {"--orphans", "--remove"} == set()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("list", Entry._fields),
        ("channels", (*ChannelInfo._fields, "process_alive")),
        ("groups", ("name", "members", "suspended", "process", "process_alive", "problem")),
        ("processes", {*PROCESS, "parent_command", "fetched", *COUNTERS, *GAUGES}),
        ("peek", MessageInfo._fields),
    ],
)
def test_every_key_is_in_the_table(name: str, keys: tuple[str, ...]) -> None:
    tables = section(name).split("| Key | Meaning |")[1:]
    rows = [line for table in tables for line in re.findall(r"^\| (`.*?) \|", table, re.M)]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(keys)
